"""Traces: from callables and the shapes of a call to a kernel and what it is called with."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from attngen.core.diagnostics import CallError, Diagnostic, SpecError
from attngen.core.dtype import Dtype
from attngen.flex.capture import Walk
from attngen.flex.proxy import Proxy, Tracing
from attngen.frontend.scope import taken_words
from attngen.frontend.trace import Slot, Traced, lift, positions
from attngen.frontend.trace_place import span_of
from attngen.frontend.trace_spec import (
    Asked,
    Shapes,
    TracedProgram,
    checked_mask,
    checked_score,
    plain_score,
    traced_program,
)
from attngen.frontend.vocabulary import AXES
from attngen.ir.expr import Expr, Side
from attngen.ir.text import spec_text
from attngen.runtime.checks import DTYPES
from attngen.runtime.kernel import Kernel
from attngen.runtime.specialise import Spec
from attngen.syntax.words import bad_name

MOST = 256  # traces kept
CONVERTED = {torch.int16: torch.int32, torch.uint8: torch.int32}
POSITIONS = {"start": "q_idx", "end": "q_pos"}  # what a callable gets as the query's position
Mod = Callable[..., Any]


@dataclass(frozen=True)
class Question:
    """What one call asks for."""

    score_mod: Mod | None
    mask_mod: Mod | None
    scale: float | None
    asked: Asked
    facts: Mapping[str, str]
    align: str


@dataclass(frozen=True)
class Extents:
    """Sizes of the streams' axes in one call."""

    sizes: Mapping[str, int]

    @property
    def shapes(self) -> Shapes:
        """Which axes have one size."""
        s = self.sizes
        return Shapes(s["Hq"] == s["Hkv"], s["Sq"] == s["Skv"], s["D"] == s["Dv"])

    def alike(self, size: int) -> frozenset[str]:
        """The axes of a size."""
        return frozenset(n for n in ("B", "Hq", "Sq", "Skv") if self.sizes[n] == size)


@dataclass
class Trace:
    """One program with its kernel; fixed: (slot, axis, size) the formula was written for.

    alive: what the ids in its key mean.
    """

    traced: TracedProgram
    kernel: Kernel
    fixed: tuple[tuple[int, int, int], ...]
    alive: list[Any]

    def fits(self, tensors: Sequence[torch.Tensor], extents: Extents) -> bool:
        """Whether what the trace relied on holds in this call."""
        sizes = extents.sizes
        return all(
            tensors[g.slot].shape[g.axis] == sizes[g.name] for g in self.traced.guards
        ) and all(tensors[i].shape[axis] == size for i, axis, size in self.fixed)

    def arguments(self, tensors: Sequence[torch.Tensor], extents: Extents) -> list[torch.Tensor]:
        """The inputs in order; CallError E519 if a position would read past the end of one."""
        for g in self.traced.indexed:
            size, needed = tensors[g.slot].shape[g.axis], extents.sizes[g.name]
            if size < needed:
                raise self._short(g.slot, g.axis, size, needed)
        return [_input(tensors[i]) for i in self.traced.slots]

    def _short(self, slot: int, axis: int, size: int, needed: int) -> CallError:
        name = self.traced.attention.tensors[3 + self.traced.slots.index(slot)].name
        message = (
            f"{name} is read at positions up to {needed - 1} of axis {axis}, which has {size}"
            " elements"
        )
        fix = f"pass a {name} of at least {needed}, or index it with a smaller expression"
        return CallError(Diagnostic("E519", message, help=fix))


@dataclass
class Traces:
    """The traces made so far, by what the callables depend on; `count` counts tracings."""

    made: OrderedDict[Hashable, list[Trace]] = field(default_factory=OrderedDict)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    count: int = 0

    def find(self, question: Question, extents: Extents) -> tuple[Kernel, list[torch.Tensor]]:
        """The kernel of a call and the captured tensors to pass."""
        walk = Walk()
        mods = tuple(walk.fingerprint(m) for m in (question.score_mod, question.mask_mod))
        tensors = [t.reshape(1) if t.ndim == 0 else t for _, t in walk.tensors]
        facts = tuple(sorted(question.facts.items()))
        marks = tuple(is_sorted(t) for _, t in walk.tensors)
        key = (mods, marks, facts, question.scale, question.asked, question.align, extents.shapes)
        for trace in self.made.get(key, ()):
            if trace.fits(tensors, extents):
                self.made.move_to_end(key)
                return trace.kernel, trace.arguments(tensors, extents)
        return self._trace(key, question, extents, walk, tensors)

    def _trace(
        self,
        key: Hashable,
        question: Question,
        extents: Extents,
        walk: Walk,
        tensors: list[torch.Tensor],
    ) -> tuple[Kernel, list[torch.Tensor]]:
        self.count += 1
        maker = _Maker(question, extents)
        pairs = [(t, maker.slot(name, t)) for name, t in walk.tensors]
        traced, derived = maker.trace(pairs)
        text = spec_text(traced.attention)
        kernel = self.kernels.get(text)
        if kernel is None:
            kernel = self.kernels[text] = Kernel(Spec.of(traced.attention))
        fixed = tuple(
            (i, axis, s.shape[axis]) for i, s in enumerate(maker.slots) for axis in sorted(s.fixed)
        )
        trace = Trace(traced, kernel, fixed, walk.alive)
        if not derived:
            self.made.setdefault(key, []).append(trace)
            while len(self.made) > MOST:
                self.made.popitem(last=False)
        own = [t.reshape(1) if t.ndim == 0 else t for t in derived]
        return kernel, trace.arguments([*tensors, *own], extents)


@dataclass
class _Maker:
    """One tracing."""

    question: Question
    extents: Extents
    slots: list[Slot] = field(default_factory=list)

    def slot(self, name: str, tensor: torch.Tensor) -> Slot:
        """A captured tensor as the formula names it."""
        shape = tuple(tensor.shape) or (1,)
        alike = tuple(self.extents.alike(size) for size in shape)
        taken = {s.name for s in self.slots}
        word = free_word(name, taken)
        told = is_sorted(tensor) or self.question.facts.get(name) == "sorted"
        made = Slot(word, _dtype(word, tensor), shape, alike, told)
        self.slots.append(made)
        return made

    def trace(
        self, pairs: list[tuple[torch.Tensor, Slot]]
    ) -> tuple[TracedProgram, list[torch.Tensor]]:
        """The program, and tensors that were made while tracing."""
        question = self.question
        mode = Tracing(pairs)
        mode.adopt = lambda tensor: self.slot("made", tensor)
        with mode:
            b, h, q_idx, kv_idx = positions(Proxy, POSITIONS[question.align])
            score, mask = plain_score(question.scale), None
            if question.score_mod is not None:
                found = self._run(mode, question.score_mod, Proxy(score), b, h, q_idx, kv_idx)
                score = checked_score(found, _where(question.score_mod))
            if question.mask_mod is not None:
                found = self._run(mode, question.mask_mod, b, h, q_idx, kv_idx)
                mask = checked_mask(found, _where(question.mask_mod))
            shapes = self._shapes()
            traced = traced_program(self._name(), shapes, score, mask, self.slots, question.asked)
        return traced, [tensor for tensor, _ in mode.derived]

    def _shapes(self) -> Shapes:
        shapes = self.extents.shapes
        keys = any(side is Side.KEY for s in self.slots for _, side in s.rows)
        # rows of an input along the keys are told from rows along the queries by their axis
        return replace(shapes, one_length=False) if keys else shapes

    def _run(self, mode: Tracing, mod: Mod, *values: Traced) -> Expr:
        return lift(mode.entered(mod(*values)))

    def _name(self) -> str:
        mods = (self.question.score_mod, self.question.mask_mod)
        names = [_word(m) for m in mods if m is not None]
        return free_word("_".join(["flex", *(n for n in names if n)])[:60], set())


def is_sorted(tensor: torch.Tensor) -> bool:
    """Whether `attngen.flex.sorted` marked the tensor."""
    return getattr(tensor, "_attngen_sorted", False) is True


def free_word(name: str, taken: set[str]) -> str:
    """A name of the language like `name` that nothing else has."""
    base = re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_0123456789")[:50] or "captured"
    reserved = {*taken, *taken_words("attention"), *AXES, "q", "k", "v", "D", "Dv"}
    words = (base, *(f"{base}_{i}" for i in range(2, len(taken) + 4)))
    return next(w for w in words if w not in reserved and bad_name(w, _NOWHERE) is None)


_NOWHERE: Any = None


def _word(mod: Mod) -> str:
    return str(getattr(mod, "__name__", type(mod).__name__)).replace("<lambda>", "")


def _where(mod: Mod) -> Any:
    code = getattr(mod, "__code__", None)
    return span_of(code, 0) if code is not None else None


def _dtype(name: str, tensor: torch.Tensor) -> Dtype:
    given = CONVERTED.get(tensor.dtype, tensor.dtype)
    found = DTYPES.get(str(given).removeprefix("torch."))
    if found is None:
        message = f"the captured tensor {name} is {tensor.dtype}, which a kernel cannot read"
        raise SpecError(Diagnostic("E405", message, help=f"capture {name}.to(torch.float32)"))
    return found


def _input(tensor: torch.Tensor) -> torch.Tensor:
    """A captured tensor as kernels read it: a dtype of the language, its last axis contiguous."""
    tensor = tensor.to(CONVERTED[tensor.dtype]) if tensor.dtype in CONVERTED else tensor
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] <= 1 else tensor.contiguous()

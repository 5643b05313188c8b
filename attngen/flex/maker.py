"""One tracing: callables run on traced values become a program."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.dtype import Dtype
from attngen.flex.gather import Gather, Gathering, Spread
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
from attngen.runtime.checks import DTYPES
from attngen.syntax.words import bad_name

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
class Maker:
    """One tracing."""

    question: Question
    extents: Extents
    slots: list[Slot] = field(default_factory=list)
    trained: set[int] = field(default_factory=set)
    made: list[Gather | Spread] = field(default_factory=list)

    def slot(self, name: str, tensor: torch.Tensor) -> Slot:
        """A captured tensor as the formula names it."""
        told = is_sorted(tensor) or self.question.facts.get(name) == "sorted"
        if is_trained(tensor):
            self.trained.add(len(self.slots))
        word = free_word(name, {s.name for s in self.slots})
        return self._slot(word, _dtype(word, tensor), tuple(tensor.shape) or (1,), told)

    def _slot(self, word: str, dtype: Dtype, shape: tuple[int, ...], told: bool = False) -> Slot:
        alike = tuple(self.extents.alike(size) for size in shape)
        made = Slot(word, dtype, shape, alike, told)
        self.slots.append(made)
        return made

    def _gathered(self, score: Expr) -> Expr:
        """The score, with tensors that want a gradient in a form that has one."""
        if not self.trained:
            return score

        def new_slot(source: Slot, shape: tuple[int, ...]) -> Slot:
            word = free_word(source.name, {s.name for s in self.slots})
            return self._slot(word, source.dtype, shape)

        gathering = Gathering(self.slots, frozenset(self.trained), self.extents.sizes, new_slot)
        score = gathering.rewritten(score)
        self.made += gathering.made
        return score

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
            score = self._gathered(score)
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


def is_trained(tensor: torch.Tensor) -> bool:
    """Whether a gradient is wanted."""
    return tensor.requires_grad and torch.is_grad_enabled() and tensor.is_floating_point()


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

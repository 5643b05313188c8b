"""Traces: from callables and the shapes of a call to a kernel and what it is called with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from attngen.flex.capture import Walk
from attngen.flex.gather import Gather, Spread, too_short
from attngen.flex.maker import CONVERTED, Extents, Maker, Question, is_sorted, is_trained
from attngen.frontend.trace_spec import TracedProgram
from attngen.ir.text import spec_text
from attngen.runtime.kernel import Kernel
from attngen.runtime.specialise import Spec

MOST = 256  # traces kept


@dataclass
class Trace:
    """One program with its kernel; fixed: (slot, axis, size) the formula was written for.

    alive: what the ids in its key mean; names: slots by name; made: inputs that are made of
    captured tensors, whose slots come behind those.
    """

    traced: TracedProgram
    kernel: Kernel
    fixed: tuple[tuple[int, int, int], ...]
    alive: list[Any]
    names: Mapping[str, int]
    made: tuple[Gather | Spread, ...]

    def fits(self, tensors: Sequence[torch.Tensor], extents: Extents) -> bool:
        """Whether what the trace relied on holds in this call."""
        sizes, own = extents.sizes, len(tensors)
        return all(
            tensors[g.slot].shape[g.axis] == sizes[g.name]
            for g in self.traced.guards
            if g.slot < own
        ) and all(tensors[i].shape[axis] == size for i, axis, size in self.fixed)

    def arguments(self, tensors: Sequence[torch.Tensor], extents: Extents) -> list[torch.Tensor]:
        """The inputs in order; CallError E519 if a position would read past the end of one."""
        own = len(tensors)
        for g in self.traced.indexed:
            if g.slot < own:
                size, needed = tensors[g.slot].shape[g.axis], extents.sizes[g.name]
                if size < needed:
                    raise too_short(self._name(g.slot), g.axis, size, needed)
        if self.made:
            made = (m.make(tensors, self.names, extents.sizes) for m in self.made)
            tensors = [*tensors, *made]
        return [_input(tensors[i]) for i in self.traced.slots]

    def _name(self, slot: int) -> str:
        return self.traced.attention.tensors[3 + self.traced.slots.index(slot)].name


@dataclass(frozen=True)
class Found:
    """What a call takes; tensors: all that its callables reach; lasting: also for later calls."""

    trace: Trace
    arguments: list[torch.Tensor]
    tensors: list[torch.Tensor]
    lasting: bool


@dataclass
class Traces:
    """The traces made so far, by what the callables depend on; `count` counts tracings."""

    made: OrderedDict[Hashable, list[Trace]] = field(default_factory=OrderedDict)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    count: int = 0

    def find(self, question: Question, extents: Extents) -> Found:
        """The trace of a call and the captured tensors to pass."""
        walk = Walk()
        mods = walk.all_of((question.score_mod, question.mask_mod))
        tensors = [t.reshape(1) if t.ndim == 0 else t for _, t in walk.tensors]
        facts = tuple(sorted(question.facts.items()))
        marks = tuple((is_sorted(t), is_trained(t)) for _, t in walk.tensors)
        key = (mods, marks, facts, question.scale, question.asked, question.align, extents.shapes)
        for trace in self.made.get(key, ()):
            if trace.fits(tensors, extents):
                self.made.move_to_end(key)
                return Found(trace, trace.arguments(tensors, extents), walk.reached, True)
        return self._trace(key, question, extents, walk, tensors)

    def _trace(
        self,
        key: Hashable,
        question: Question,
        extents: Extents,
        walk: Walk,
        tensors: list[torch.Tensor],
    ) -> Found:
        self.count += 1
        maker = Maker(question, extents)
        pairs = [(t, maker.slot(name, t)) for name, t in walk.tensors]
        traced, derived = maker.trace(pairs)
        text = spec_text(traced.attention)
        kernel = self.kernels.get(text)
        if kernel is None:
            kernel = self.kernels[text] = Kernel(Spec.of(traced.attention))
        fixed = tuple(
            (i, axis, s.shape[axis])
            for i, s in enumerate(maker.slots[: len(maker.slots) - len(maker.made)])
            for axis in sorted(s.fixed)
        )
        names = {s.name: i for i, s in enumerate(maker.slots)}
        trace = Trace(traced, kernel, fixed, walk.alive, names, tuple(maker.made))
        if not derived:
            self.made.setdefault(key, []).append(trace)
            while len(self.made) > MOST:
                self.made.popitem(last=False)
        own = [t.reshape(1) if t.ndim == 0 else t for t in derived]
        arguments = trace.arguments([*tensors, *own], extents)
        return Found(trace, arguments, walk.reached, not derived)


def _input(tensor: torch.Tensor) -> torch.Tensor:
    """A captured tensor as kernels read it: a dtype of the language, its last axis contiguous."""
    tensor = tensor.to(CONVERTED[tensor.dtype]) if tensor.dtype in CONVERTED else tensor
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] <= 1 else tensor.contiguous()

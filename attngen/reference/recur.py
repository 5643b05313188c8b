"""Walks a recurrence step by step, all heads at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

import torch
from torch import Tensor

from attngen.ir.attention import Tensor as Declared
from attngen.ir.expr import (
    Expr,
    LogSumExp,
    MatMul,
    Outer,
    Row,
    Softmax,
    State,
    Sum,
    Top,
    Uniform,
)
from attngen.ir.recurrence import Recurrence
from attngen.reference import pointwise
from attngen.reference.evaluator import Evaluator
from attngen.reference.layout import assemble
from attngen.reference.sizes import Arguments, Sizes, bind_sizes, require_arguments, size_of
from attngen.reference.streams import Streams


class Walk:
    """One call of a recurrence: sizes bound, sequences walked one after the other."""

    def __init__(self, program: Recurrence, arguments: Arguments, compute: torch.dtype) -> None:
        require_arguments(program.tensors, arguments)
        self.program = program
        states = [declared for _, declared in program.states]
        self.sizes = bind_sizes([*program.tensors, *states], arguments)
        declared = {t.name: t for t in [*program.tensors, *states]}
        self.streams = Streams(declared, arguments, compute)
        self.lines = [t for t in program.tensors if t.is_stream and t.view is None]
        self.query = next((t for t in self.lines if t.role == "query"), self.lines[0])
        self.heads = self._heads(arguments)

    def outputs(self) -> tuple[Tensor, ...]:
        """Rows in the layout of a stream, final states in their declared layout."""
        count = self._sequences()
        found = [self._sequence(b) for b in range(count)]
        return tuple(
            self._assemble(i, [one[i] for one in found]) for i in range(len(self.program.outputs))
        )

    def _heads(self, arguments: Arguments) -> int:
        sizes = [size_of(t, "head", arguments) for t in self.lines]
        for _, declared in self.program.states:
            axis = declared.axis("head")
            if axis is not None:
                sizes.append(declared.axes[axis].size or self.sizes.of[declared.axes[axis].name])
        return max(sizes)

    def _sequences(self) -> int:
        if self.query.packed is not None:
            return int(self.streams.tensor(self.query.packed).shape[0]) - 1
        return size_of(self.query, "batch", self.streams.arguments)

    def _sequence(self, b: int) -> list[Tensor]:
        """Each output: [heads, length] with features, or a final state [heads, rows, columns]."""
        length = self.streams.length(self.query.name, b)
        step = Step(self.streams, self.sizes, b, self.heads, length)
        for state, declared in self.program.states:
            step.states[state.name] = self._start(state, declared, b)
        seen: list[list[Tensor]] = [[] for _ in self.program.outputs]
        for t in range(length):
            step.begin(t)
            self._body(step, seen)
        return [self._result(i, step, seen[i]) for i in range(len(self.program.outputs))]

    def _body(self, step: Step, seen: list[list[Tensor]]) -> None:
        for done in range(len(self.program.updates) + 1):
            for i, (_, e, after) in enumerate(self.program.outputs):
                if after == done and not isinstance(e, State):
                    seen[i].append(step.per_head(step.value(e)))
            if done < len(self.program.updates):
                name, e = self.program.updates[done]
                step.assign(name, step.value(e))

    def _result(self, number: int, step: Step, seen: Sequence[Tensor]) -> Tensor:
        _, e, _ = self.program.outputs[number]
        if isinstance(e, State):
            return step.states[e.name]
        return torch.stack(list(seen), 1) if seen else self._none(e)

    def _none(self, e: Expr) -> Tensor:
        """A row result over no steps."""
        width = () if e.feature is None else (self.sizes.extent(e.feature),)
        kind, device = self.streams.compute, self.streams.device
        return torch.zeros(self.heads, 0, *width, dtype=kind, device=device)

    def _no_state(self, state: State) -> Tensor:
        """The zero state, [heads, rows] or [heads, rows, columns]."""
        extents = (state.rows,) if state.columns is None else (state.rows, state.columns)
        shape = (self.heads, *(self.sizes.extent(e) for e in extents))
        return torch.zeros(shape, dtype=self.streams.compute, device=self.streams.device)

    def _start(self, state: State, declared: Declared, b: int) -> Tensor:
        """The initial state, [heads, rows] or [heads, rows, columns]; zero unless it was passed."""
        zero = self._no_state(state)
        if state.name not in self.streams.arguments:
            return zero
        value = self.streams.tensor(state.name)
        batch, head = declared.axis("batch"), declared.axis("head")
        if batch is not None:
            value = value.select(batch, b)
        if head is None:
            return value.expand_as(zero)
        value = value.movedim(head - (batch is not None and batch < head), 0)
        return value.repeat_interleave(self.heads // value.shape[0], 0)

    def _assemble(self, number: int, found: list[Tensor]) -> Tensor:
        _, e, _ = self.program.outputs[number]
        arguments = self.streams.arguments
        if not isinstance(e, State):
            whole = [t for t in self.lines if size_of(t, "head", arguments) == self.heads]
            layout = replace(whole[0] if whole else self.query, packed=self.query.packed)
            return assemble(layout, found, size_of(layout, "position", arguments), self._none(e))
        declared = next(d for s, d in self.program.states if s.name == e.name)
        value = torch.stack(found) if found else self._no_state(e).unsqueeze(0)[:0]
        present = [declared.axis("batch"), declared.axis("head")]
        for axis in (1, 0):
            if present[axis] is None:
                value = value.select(axis, 0)
        leading = [axis for axis in present if axis is not None]
        features = [axis for axis in range(len(declared.axes)) if axis not in leading]
        source = {axis: place for place, axis in enumerate([*leading, *features])}
        return value.permute(*(source[axis] for axis in range(value.dim())))


class Step(Evaluator):
    """Values are [heads | 1] and feature axes, at one time step of one sequence."""

    lead = 1

    def __init__(self, streams: Streams, sizes: Sizes, b: int, heads: int, length: int) -> None:
        super().__init__(streams, sizes)
        self.b, self.heads, self.length = b, heads, length
        self.t = 0
        self.states: dict[str, Tensor] = {}
        self._rows: dict[str, Tensor] = {}

    def begin(self, t: int) -> None:
        """Move to a time step."""
        self.t = t
        self.memo.clear()

    def assign(self, name: str, value: Tensor) -> None:
        """Give a state its new value; what was computed from the old one is forgotten."""
        self.states[name] = self.per_head(value).expand_as(self.states[name])
        self.memo.clear()

    def per_head(self, value: Tensor) -> Tensor:
        """The value with a full head axis."""
        return value.expand(self.heads, *value.shape[1:])

    def index(self, name: str) -> Tensor:
        """Indices at this step."""
        if name == "h":
            return torch.arange(self.heads, device=self.streams.device)
        lengths = dict.fromkeys(("seq_len", "q_len", "kv_len"), self.length)
        return self.full({"b": self.b, "t": self.t, **lengths}[name])

    def row(self, e: Row) -> Tensor:
        """[heads, width]."""
        if e.tensor not in self._rows:
            self._rows[e.tensor] = self.streams.rows(e.tensor, self.b, self.heads)
        values = self._rows[e.tensor]
        t = self.t if values.shape[1] > 1 else 0  # one row where the tensor has no positions
        return values[:, t, e.start : e.start + self.sizes.extent(e.width)]

    def reduction(self, e: Softmax | Sum | LogSumExp | Top | Uniform) -> Tensor:
        """Not in this form."""
        raise TypeError(f"{type(e).__name__} belongs to an attention spec")

    def state(self, e: State | Outer | MatMul) -> Tensor:
        """The running state and products with it."""
        match e:
            case State(name=name):
                return self.states[name]
            case Outer(a=a, b=b):
                return pointwise.multiply(self._row(a).unsqueeze(-1), self._row(b).unsqueeze(-2))
            case MatMul(a=a, b=b):
                return self._product(self.value(a), self.value(b))
            case _:
                assert_never(e)

    def _row(self, e: Expr) -> Tensor:
        return self.value(e).to(self.compute)

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        """Row times matrix, or matrix times row."""
        if a.dim() < b.dim():
            return (self.per_head(a).unsqueeze(-2) @ self.per_head(b)).squeeze(-2)
        if a.dim() > b.dim():
            return (self.per_head(a) @ self.per_head(b).unsqueeze(-1)).squeeze(-1)
        return a @ b

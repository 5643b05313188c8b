"""The program IR of the `recurrence` form: assignments over a state, in order at each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attngen.core.source import Span
from attngen.ir.attention import Tensor
from attngen.ir.expr import Expr, State


@dataclass(frozen=True)
class Recurrence:
    """A checked recurrence spec.

    states: each with the tensor that declares its axes; they start at zero or from a tensor of that
    name. updates: (state name, new value) in the order written; a State node read in an expression
    is the running value *at that point of the body*, so `State(name)` in update i means after
    updates < i. outputs: (name, expression, number of updates done when it is read); a state in
    `outputs` is final.
    """

    name: str
    tensors: tuple[Tensor, ...]
    states: tuple[tuple[State, Tensor], ...]
    updates: tuple[tuple[str, Expr], ...]
    outputs: tuple[tuple[str, Expr, int], ...]
    params: tuple[tuple[str, int | float | bool], ...] = ()
    targets: tuple[str, ...] = ()
    schedule: tuple[tuple[str, str | int | bool], ...] = ()
    names: Mapping[Expr, str] = field(default_factory=dict, compare=False)
    spans: Mapping[Expr, Span] = field(default_factory=dict, compare=False)

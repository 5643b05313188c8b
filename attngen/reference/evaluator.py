"""What the two evaluators share: constants, pointwise nodes and the alignment of feature axes.

A value carries `lead` position axes (attention: queries, keys; recurrence: heads), each full or of
size 1, then its feature axes: none for a number, one for a row, two for a matrix.
"""

from __future__ import annotations

import abc
from typing import assert_never

import torch
from torch import Tensor

from attngen.ir.expr import (
    Binary,
    Cast,
    Const,
    Dot,
    Expr,
    Extent,
    Hot,
    Index,
    Known,
    Load,
    LogSumExp,
    MatMul,
    Outer,
    Recomputed,
    Reduced,
    Row,
    Size,
    Softmax,
    State,
    Sum,
    Top,
    Unary,
    Uniform,
    Where,
    matrix,
)
from attngen.reference import pointwise
from attngen.reference.sizes import Sizes
from attngen.reference.streams import Streams


class Evaluator(abc.ABC):
    """Evaluates expressions; each node once until `memo` is cleared."""

    lead: int

    def __init__(self, streams: Streams, sizes: Sizes) -> None:
        self.streams = streams
        self.sizes = sizes
        self.compute = streams.compute
        self.memo: dict[Expr, Tensor] = {}

    def value(self, e: Expr) -> Tensor:
        """The value of a node."""
        if e not in self.memo:
            self.memo[e] = self._value(e)
        return self.memo[e]

    @abc.abstractmethod
    def index(self, name: str) -> Tensor:
        """A built-in index."""

    @abc.abstractmethod
    def row(self, e: Row) -> Tensor:
        """The rows of a stream or input."""

    @abc.abstractmethod
    def reduction(self, e: Softmax | Sum | LogSumExp | Top | Uniform) -> Tensor:
        """A node over (query, key) positions."""

    @abc.abstractmethod
    def state(self, e: State | Outer | MatMul) -> Tensor:
        """A node of a recurrence."""

    def full(self, value: bool | int | float) -> Tensor:
        """A constant with position axes of size 1."""
        kind = (
            torch.bool
            if isinstance(value, bool)
            else torch.int64
            if isinstance(value, int)
            else self.compute
        )
        return torch.full((1,) * self.lead, value, dtype=kind, device=self.streams.device)

    def _value(self, e: Expr) -> Tensor:
        match e:
            case Const() | Size() | Index() | Row() | Load():
                return self._leaf(e)
            case Unary() | Binary() | Where() | Cast() | Dot():
                return self._pointwise(e)
            case Softmax() | Sum() | LogSumExp() | Top() | Uniform():
                return self.reduction(e)
            case State() | Outer() | MatMul():
                return self.state(e)
            case Reduced() | Known() | Recomputed() | Hot():
                raise TypeError(f"{type(e).__name__}: made by a pass; the reference reads specs")
            case _:
                assert_never(e)

    def _leaf(self, e: Const | Size | Index | Row | Load) -> Tensor:
        match e:
            case Const(value=value):
                return self.full(value)
            case Size(name=name):
                return self.full(self.sizes.extent(name))
            case Index(name=name):
                return self.index(name)
            case Row():
                return self.row(e)
            case Load(tensor=tensor, index=index):
                found = self.streams.element(tensor, tuple(self.value(i) for i in index))
                return found.reshape((1,) * self.lead) if not index else found
            case _:
                assert_never(e)

    def _pointwise(self, e: Unary | Binary | Where | Cast | Dot) -> Tensor:
        match e:
            case Unary(op=op, x=x):
                return pointwise.unary(op, self.value(x), self.compute)
            case Binary(op=op, a=a, b=b):
                left, right = self._aligned(a, b)
                return pointwise.binary(op, left, right, self.compute)
            case Where(condition=condition, a=a, b=b):
                test, left, right = self._aligned(condition, a, b)
                return pointwise.where(test, left, right, self.compute)
            case Cast(x=x, dtype=dtype):
                return pointwise.cast(self.value(x), dtype, self.compute)
            case Dot(a=a, b=b):
                return self.dot(self.value(a), self.value(b))
            case _:
                assert_never(e)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Contraction of the last axes of two rows."""
        return pointwise.multiply(a, b).sum(-1)

    def _aligned(self, *arguments: Expr) -> list[Tensor]:
        """The values with equal feature ranks: numbers spread, rows along the axis they name."""
        values = [self.value(e) for e in arguments]
        rank = max(v.dim() for v in values) - self.lead
        shape = next((m for e in arguments if (m := matrix(e)) is not None), None)
        return [self._spread(e, v, rank, shape) for e, v in zip(arguments, values, strict=True)]

    def _spread(
        self, e: Expr, value: Tensor, rank: int, shape: tuple[Extent, Extent] | None
    ) -> Tensor:
        own = value.dim() - self.lead
        if own == 0:
            return value.reshape(*value.shape, *(1,) * rank)
        if own < rank and shape is not None:
            # a row beside a matrix: along its rows, unless it only has the columns' name
            columns = e.feature != shape[0] and e.feature == shape[1]
            return value.unsqueeze(-2 if columns else -1)
        return value

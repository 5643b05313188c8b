"""Evaluates an attention spec for one head and one block of queries, all keys at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from attngen.ir.build import factors, terms
from attngen.ir.expr import (
    Axes,
    Expr,
    LogSumExp,
    MatMul,
    Outer,
    Row,
    Side,
    Softmax,
    State,
    Sum,
    Top,
    Uniform,
)
from attngen.ir.walk import walk
from attngen.reference import philox, pointwise
from attngen.reference.evaluator import Evaluator
from attngen.reference.sizes import Sizes
from attngen.reference.streams import Streams


@dataclass(frozen=True)
class Place:
    """Where a block of queries stands: sequence, heads, query indices [start, stop) and lengths."""

    b: int
    h: int
    h_kv: int
    start: int
    stop: int
    q_len: int
    kv_len: int


class Tile(Evaluator):
    """Values are [queries | 1, keys | 1] and an optional feature axis.

    rows: gives the rows of a tensor for the place's sequence and head, [length, width].
    blocks: keys the sparsity keeps, [queries, keys], or None.
    product: dtype that weights and rows are rounded to before they are multiplied, or None.
    scale: weights are rounded at this multiple of themselves.
    """

    lead = 2

    def __init__(
        self,
        streams: Streams,
        sizes: Sizes,
        place: Place,
        rows: Callable[[str], Tensor],
        product: torch.dtype | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(streams, sizes)
        self.place = place
        self.rows = rows
        self.product, self.scale = product, scale
        self.keep = torch.ones(self.shape, dtype=torch.bool, device=streams.device)

    @property
    def shape(self) -> tuple[int, int]:
        """[queries, keys]."""
        return self.place.stop - self.place.start, self.place.kv_len

    def set_mask(self, mask: Expr | None, blocks: Tensor | None) -> None:
        """Fix the keys that count from now on."""
        if mask is not None:
            self.keep = self.value(mask).bool().expand(self.shape)
        if blocks is not None:
            self.keep = self.keep & blocks

    def index(self, name: str) -> Tensor:
        """Indices: queries down, keys across."""
        place, device = self.place, self.streams.device
        if name in ("q_idx", "q_pos"):
            shift = place.kv_len - place.q_len if name == "q_pos" else 0
            return torch.arange(place.start + shift, place.stop + shift, device=device)[:, None]
        if name == "kv_idx":
            return torch.arange(place.kv_len, device=device)[None, :]
        numbers = {"b": place.b, "h": place.h, "h_kv": place.h_kv}
        numbers |= {"q_len": place.q_len, "kv_len": place.kv_len}
        return self.full(numbers[name])

    def row(self, e: Row) -> Tensor:
        """[queries, 1, width], [1, keys, width], or [1, 1, width] of a tensor without positions."""
        width = self.sizes.extent(e.width)
        values = self.rows(e.tensor)[..., e.start : e.start + width]
        still = self.streams.declared[e.tensor].axis("position") is None
        if e.side is Side.KEY or still:
            return values.unsqueeze(0)
        return values[self.place.start : self.place.stop].unsqueeze(1)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """A tile product where one side holds queries and the other keys."""
        if a.shape[0] == 1 and b.shape[1] == 1:
            a, b = b, a
        if a.shape[1] == 1 and b.shape[0] == 1:
            return _contract(a.squeeze(1), b.squeeze(0).transpose(0, 1))
        return super().dot(a, b)

    def reduction(self, e: Softmax | Sum | LogSumExp | Top | Uniform) -> Tensor:
        """Softmax, sums, tops over the kept keys; uniform numbers per pair."""
        match e:
            case Softmax(score=score, sink=sink):
                return self._softmax(score, sink)
            case Sum(x=x):
                return self._sum(x)
            case LogSumExp(score=score, sink=sink):
                _, total, top = self._exponentials(score, sink)
                empty = total == 0
                safe = torch.where(empty, torch.ones_like(total), total)
                logarithm = pointwise.unary("log", safe, self.compute)
                return torch.where(empty, torch.full_like(top, -torch.inf), top + logarithm)
            case Top(score=score, count=count, part=part):
                values, indices = self._top(score, count)
                return values if part == "values" else indices
            case Uniform(seed=seed):
                counter = (self.index("kv_idx"), self.index("q_idx"))
                place = (self.index("h"), self.index("b"))
                key = int(self.value(seed).item())
                return philox.uniform(key, (*counter, *place), self.compute)
            case _:
                assert_never(e)

    def state(self, e: State | Outer | MatMul) -> Tensor:
        """Not in this form."""
        raise TypeError(f"{type(e).__name__} belongs to a recurrence")

    def _number(self, e: Expr) -> Tensor:
        return self.value(e).to(self.compute)

    def _exponentials(self, score: Expr, sink: Expr | None) -> tuple[Tensor, Tensor, Tensor]:
        """exp(score - top) with 0 where masked, its sum with the sink's, and top (0 if none)."""
        low = torch.tensor(-torch.inf, dtype=self.compute, device=self.streams.device)
        scores = torch.where(self.keep, self._number(score).expand(self.shape), low)
        extra = None if sink is None else self._number(sink).expand(self.shape[0], 1)
        with torch.no_grad():
            top = _row_max(scores)
            top = top if extra is None else torch.maximum(top, extra)
            top = torch.where(top == -torch.inf, torch.zeros_like(top), top)
        exponentials = pointwise.unary("exp", scores - top, self.compute)
        total = exponentials.sum(1, keepdim=True)
        if extra is not None:
            total = total + pointwise.unary("exp", extra - top, self.compute)
        return exponentials, total, top

    def _softmax(self, score: Expr, sink: Expr | None) -> Tensor:
        exponentials, total, _ = self._exponentials(score, sink)
        safe = torch.where(total == 0, torch.ones_like(total), total)
        weights = pointwise.multiply(exponentials, pointwise.unary("recip", safe, self.compute))
        return torch.where(self.keep, weights, torch.zeros_like(weights))

    def _sum(self, x: Expr) -> Tensor:
        if x.feature is None:
            number = self._number(x).expand(self.shape)
            return torch.where(self.keep, number, torch.zeros_like(number)).sum(1, keepdim=True)
        parts = [self._sum_product(term) for term in terms(x)]
        return functools.reduce(torch.add, parts)

    def _sum_product(self, term: Expr) -> Tensor:
        """Sum over keys of numbers times rows: [queries, 1, width]."""
        numbers = [f for f in factors(term) if f.feature is None]
        weight = self.full(1.0)
        for f in numbers:
            weight = pointwise.multiply(weight, self._number(f))
        weight = weight.expand(self.shape)
        by_key, by_query, cube = split_rows(term)
        if cube:
            return self._sum_cube(weight, [self._number(f) for f in (*by_key, *by_query, *cube)])
        out = self._weigh(weight, [self._number(f) for f in by_key])
        for f in by_query:
            out = pointwise.multiply(out, self._number(f))
        return out

    def _weigh(self, weight: Tensor, rows: list[Tensor]) -> Tensor:
        """Weights [queries, keys] times the product of rows [1, keys | 1, width]."""
        if not rows:
            kept = torch.where(self.keep, weight, torch.zeros_like(weight))
            return kept.sum(1, keepdim=True).unsqueeze(-1)
        row = rows[0]
        for other in rows[1:]:
            row = pointwise.multiply(row, other)
        row = row.squeeze(0).expand(self.shape[1], -1)
        if not pointwise.finite(row):  # 0 x NaN is NaN: a masked key must not get that far
            return self._sum_columns(weight, row)
        kept = torch.where(self.keep, weight, torch.zeros_like(weight))
        if self.product is not None:
            kept = (kept * self.scale).to(self.product).to(self.compute) / self.scale
            row = row.to(self.product).to(self.compute)
        return (kept @ row).unsqueeze(1)

    def _sum_columns(self, weight: Tensor, row: Tensor) -> Tensor:
        zero = torch.zeros_like(weight)
        columns = [
            torch.where(self.keep, pointwise.multiply(weight, column[None, :]), zero).sum(1)
            for column in row.unbind(1)
        ]
        return torch.stack(columns, -1).unsqueeze(1)

    def _sum_cube(self, weight: Tensor, rows: list[Tensor]) -> Tensor:
        """[queries, keys, width] written out: for rows that vary along both axes."""
        value = weight.unsqueeze(-1)
        for row in rows:
            value = pointwise.multiply(value, row)
        kept = torch.where(self.keep.unsqueeze(-1), value, torch.zeros_like(value))
        return kept.sum(1, keepdim=True)

    def _top(self, score: Expr, count: int) -> tuple[Tensor, Tensor]:
        """Values and key indices, [queries, 1] for one and [queries, 1, count] for more."""
        scores = self._number(score).expand(self.shape)
        low = torch.full_like(scores, -torch.inf)
        masked = torch.where(self.keep, scores, low)
        if self.shape[1] < count:
            masked = torch.nn.functional.pad(
                masked, (0, count - self.shape[1]), value=float("-inf")
            )
        kept = torch.nn.functional.pad(self.keep, (0, masked.shape[1] - self.shape[1]))
        by_score = torch.argsort(masked, dim=1, descending=True, stable=True)
        # a kept key that scores -inf goes before every masked one
        by_keep = torch.argsort(~kept.gather(1, by_score), dim=1, stable=True)
        chosen = by_score.gather(1, by_keep)[:, :count]
        values = masked.gather(1, chosen)
        indices = torch.where(kept.gather(1, chosen), chosen, torch.full_like(chosen, -1))
        return (values, indices) if count == 1 else (values.unsqueeze(1), indices.unsqueeze(1))


def split_rows(term: Expr) -> tuple[list[Expr], list[Expr], list[Expr]]:
    """The row factors of a product: those that vary with no query, with no key, with both."""
    rows = [f for f in factors(term) if f.feature is not None]
    by_key = [f for f in rows if not f.axes & Axes.QUERY]
    by_query = [f for f in rows if f.axes & Axes.QUERY and not f.axes & Axes.KEY]
    return by_key, by_query, [f for f in rows if f not in by_key and f not in by_query]


def needs_cube(e: Expr) -> bool:
    """Whether a sum has to be written out over queries, keys and features."""
    return (
        isinstance(e, Sum) and e.feature is not None and any(split_rows(t)[2] for t in terms(e.x))
    )


def holds_sum(output: Expr) -> bool:
    """Whether an output is defined as 0 on a row without keys."""
    return any(isinstance(e, Sum) for e in walk(output))


def _row_max(scores: Tensor) -> Tensor:
    if scores.shape[1] == 0:
        return scores.new_full((scores.shape[0], 1), -torch.inf)
    return scores.amax(1, keepdim=True)


def _contract(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product; its backward reads NaN and infinite operands as 0, in their row alone."""
    if pointwise.finite(a) and pointwise.finite(b):
        return a @ b
    clean = torch.nan_to_num(a, 0.0, 0.0, 0.0) @ torch.nan_to_num(b, 0.0, 0.0, 0.0)
    with torch.no_grad():
        true = a @ b
    return torch.where(torch.isfinite(true), clean, true)

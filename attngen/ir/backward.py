"""What the differentiation pass produces: the backward of a plan as lists an emitter prints from.

Theory and proof: docs/backward.md. One scalar `phi` per pass over the tiles; its reverse derivative
gives the products, the sums and the stores. Order of work, by launches:

    for each pass, latest stage first: rows (its definitions), then queries, then keys
    last: sums over heads and batches in a fixed order, and the gradients they finish

A value is a `Known` leaf from where it is defined on; a kernel prints the definitions it reaches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from attngen.ir.expr import Axes, Dot, Expr, Known, Load, Reduced, Row
from attngen.ir.online import OnlinePlan
from attngen.ir.walk import walk

Place: TypeAlias = Literal["rows", "queries", "keys", "heads"]
Map: TypeAlias = Literal["row", "column", "head", "tile", "bucket"]
KEEP = Known("keep", Axes.BATCH | Axes.HEAD | Axes.TILE, None, "bool")


@dataclass(frozen=True)
class Definition:
    """leaf = value: a row or a number per query (per head if it has no position), in fp32.

    `value` holds seeds, results read back, saved rows, inputs, earlier definitions and finished
    sums of later stages; nothing of a tile.
    """

    leaf: Known
    value: Expr


@dataclass(frozen=True)
class Product:
    """One tile product: sum += factor * (coefficient @ other), with coefficient^T for a column.

    coefficient: tile of numbers; other: row of the other side (a query row for a column target).
    """

    coefficient: Expr
    other: Expr
    factor: float


@dataclass(frozen=True)
class RowSum:
    """A [rows, width] accumulator of a loop: the gradient of the row `of`, up to `scale`.

    leaf: the finished sum, of the queries (loop over keys inside) or of the keys (loop over queries
    inside). What uses the leaf multiplies by the factor all its products had in common.
    """

    leaf: Known
    of: Expr
    products: tuple[Product, ...]


@dataclass(frozen=True)
class NumberSum:
    """The sum of a tile of numbers: along rows, along columns, or over the whole tile.

    leaf.level says which: QUERY in the queries pass, KEY in the keys pass, NONE in either: one
    register per block, stored as partial sums that `heads` adds in a fixed order.
    """

    leaf: Known
    of: Expr
    value: Expr


@dataclass(frozen=True)
class TileStore:
    """The gradient of a captured input read once per pair, in the queries pass.

    map "tile": each pair has its own element, store it; "bucket": pairs share elements, add up.
    reduces: axes of the launch that the element does not tell apart, among b, h, group.
    adds: an earlier store or gradient goes to the same tensor.
    """

    of: Load
    value: Expr
    map: Map
    reduces: tuple[str, ...]
    adds: bool


@dataclass(frozen=True)
class TilePass:
    """One recomputation of the tiles of a stage.

    phi: the scalar whose derivative everything here is; definitions: what the row kernel before it
    computes, in order; rows, numbers, stores: in order of derivation. Each loop prints only the
    tile code that its own targets reach.
    """

    stage: int
    phi: Expr
    definitions: tuple[Definition, ...]
    rows: tuple[RowSum, ...]
    numbers: tuple[NumberSum, ...]
    stores: tuple[TileStore, ...]

    def targets(self, level: Axes) -> tuple[RowSum | NumberSum, ...]:
        """Sums whose results have that level."""
        rows = [t for t in self.rows if t.leaf.level == level]
        return (*rows, *(t for t in self.numbers if t.leaf.level == level))

    @property
    def leaves(self) -> tuple[Known, ...]:
        """What this pass sums."""
        return (*(t.leaf for t in self.rows), *(t.leaf for t in self.numbers))

    def coefficients(self, *levels: Axes) -> Iterator[Expr]:
        """Tiles of numbers that the targets of those levels need; TILE stands for the stores."""
        for t in self.rows:
            if t.leaf.level in levels:
                yield from (p.coefficient for p in t.products)
        yield from (t.value for t in self.numbers if t.leaf.level in levels)
        if Axes.TILE in levels:
            yield from (s.value for s in self.stores)

    def products(self, *levels: Axes) -> int:
        """Tile products of one loop: dots recomputed and sums of rows."""
        roots = list(self.coefficients(*levels))
        dots = sum(isinstance(e, Dot) and e.level == Axes.TILE for e in walk(*roots))
        return dots + sum(len(t.products) for t in self.rows if t.leaf.level in levels)


@dataclass(frozen=True)
class HeadSum:
    """leaf = sum over the rows (level QUERY) or columns (KEY) of `value`: partials, second sum."""

    leaf: Known
    level: Axes
    value: Expr
    place: Place


@dataclass(frozen=True)
class Gradient:
    """A finished gradient of one place where a tensor is read; places of one tensor add up.

    of: the read: `Row` (columns [start, start + width)) or `Load` (its index map); value: over
    leaves of the read's own level; place: "rows" (needs no tile), "queries" or "keys" (epilogue of
    that loop of the last pass), "heads" (after the sums over heads).
    map: "row", "column" (one element per query, per key), "head" (no position in the index),
    "bucket" (rows share elements: add up by index).
    reduces: axes of the launch that the read does not tell apart, so they are summed: b, h, group
    (heads that share a key head), q, k. adds: an earlier gradient goes to the same tensor.
    """

    of: Row | Load
    value: Expr
    place: Place
    map: Map
    reduces: tuple[str, ...]
    adds: bool

    @property
    def tensor(self) -> str:
        """The tensor the gradient belongs to."""
        return self.of.tensor


@dataclass(frozen=True)
class BackwardPlan:
    """The backward of an OnlinePlan.

    seeds: (output, leaf) for each result with a gradient; results: (output, leaf) of the results
    that are read back; saved: reduced rows the forward must store besides, in fp32 (lse, moments,
    top indices), unless an output is just that row; passes: latest stage first.
    tensors: inputs with a gradient, in declaration order (those never read get zeros).
    masked_coefficients: tile code has values or derivatives that may be infinite where the mask
    drops a pair; then finished coefficients are masked too, not only the weights.
    forward: the plan that was differentiated (classes, names).
    """

    seeds: tuple[tuple[str, Known], ...]
    results: tuple[tuple[str, Known], ...]
    saved: tuple[Reduced, ...]
    passes: tuple[TilePass, ...]
    sums: tuple[HeadSum, ...]
    gradients: tuple[Gradient, ...]
    tensors: tuple[str, ...]
    masked_coefficients: bool
    forward: OnlinePlan

    @property
    def products(self) -> tuple[int, int, int]:
        """Tile products: both loops fused, the queries loop, the keys loop; summed over passes."""
        queries, keys = (Axes.QUERY, Axes.NONE, Axes.TILE), (Axes.KEY,)
        counts = [
            (p.products(*queries, *keys), p.products(*queries), p.products(*keys))
            for p in self.passes
        ]
        fused, dq, dkv = (sum(x) for x in zip(*counts, strict=True)) if counts else (0, 0, 0)
        return fused, dq, dkv

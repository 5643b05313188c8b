"""Expressions of the loop over keys: softmax weights, reductions, and what a program keeps of them.

A spec writes `Softmax`, `Sum`, `LogSumExp` and `Top`; the online pass leaves `Reduced`, values of a
row after its loop; the differentiation pass adds `Known`, `Recomputed` and `Hot`. Part of the union
`Expr` of `attngen.ir.expr`, from which they are imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attngen.ir.node import Axes, Extent, Kind, Node

if TYPE_CHECKING:  # the union holds these classes
    from attngen.ir.expr import Expr


@dataclass(frozen=True, eq=False, slots=True)
class Softmax(Node):
    """Weights over the keys: exp(score - log(sum exp(score) + exp(sink))), zero where masked."""

    score: Expr
    sink: Expr | None

    def __post_init__(self) -> None:
        extra = self.sink.axes if self.sink is not None else Axes.NONE
        self._facts(self.score.axes | extra | Axes.TILE, None, "float")


@dataclass(frozen=True, eq=False, slots=True)
class Sum(Node):
    """Sum over the kept keys (of a number or of a row)."""

    x: Expr

    def __post_init__(self) -> None:
        self._facts((self.x.axes & ~Axes.KEY) | Axes.QUERY, self.x.feature, "float")


@dataclass(frozen=True, eq=False, slots=True)
class LogSumExp(Node):
    """log(sum over kept keys of exp(score) + exp(sink)), natural; -inf for an empty row."""

    score: Expr
    sink: Expr | None

    def __post_init__(self) -> None:
        extra = self.sink.axes if self.sink is not None else Axes.NONE
        self._facts((self.score.axes & ~Axes.KEY) | extra | Axes.QUERY, None, "float")


@dataclass(frozen=True, eq=False, slots=True)
class Top(Node):
    """The `count` largest kept scores of a row, largest first, ties by lowest index.

    part: "values" or "indices". count 1: a number; else a row of that width. Slots past the number
    of kept keys hold -inf and index -1. `argmin(x)` is `-Top(-x)`.
    """

    score: Expr
    count: int
    part: str

    def __post_init__(self) -> None:
        axes = (self.score.axes & ~Axes.KEY) | Axes.QUERY
        feature = self.count if self.count > 1 else None
        self._facts(axes, feature, "int" if self.part == "indices" else "float")


@dataclass(frozen=True, eq=False, slots=True)
class Reduced(Node):
    """A row value known after the loop over keys; made by the online pass.

    what: "lse" (natural logarithm of the sum of class `index`), "moment" (accumulator `index` over
    the normalisers `norms`), "values" or "indices" (of top list `index`).
    """

    what: str
    index: int
    norms: tuple[Expr, ...]
    width: Extent | None

    def __post_init__(self) -> None:
        kind: Kind = "int" if self.what == "indices" else "float"
        self._facts(Axes.BATCH | Axes.HEAD | Axes.QUERY, self.width, kind)


@dataclass(frozen=True, eq=False, slots=True)
class Known(Node):
    """A value read under its name in a backward program; made by the differentiation pass.

    A gradient (of a result, or summed by an earlier loop), a result read back, a number of the row
    kernel; or `keep`: whether the mask keeps the pair. Nothing is differentiated through it.
    varies: its axes; width: extent of its feature axis, or None; number: its kind.
    """

    name: str
    varies: Axes
    width: Extent | None
    number: Kind

    def __post_init__(self) -> None:
        self._facts(self.varies, self.width, self.number)


@dataclass(frozen=True, eq=False, slots=True)
class Recomputed(Node):
    """Softmax weights from a saved normaliser: exp(score - norm), in a backward program.

    index: of the class; norm: `Reduced("lse", index)` or that with a sink, a constant of the tile.
    0 where the mask drops the pair, where the score is -inf and on rows without keys.
    """

    index: int
    score: Expr
    norm: Expr

    def __post_init__(self) -> None:
        self._facts(self.score.axes | self.norm.axes | Axes.TILE, None, "float")


@dataclass(frozen=True, eq=False, slots=True)
class Hot(Node):
    """values[slot] at the key indices[slot], 0 at all other keys: the gradient of a top list.

    Both are rows of one width over the slots; index -1 is no key.
    """

    indices: Expr
    values: Expr

    def __post_init__(self) -> None:
        self._facts(self.indices.axes | self.values.axes | Axes.TILE, None, "float")

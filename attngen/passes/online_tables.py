"""The tables the online pass fills: classes, accumulators, top lists; each entry exists once."""

from __future__ import annotations

from dataclasses import dataclass

from attngen.ir import build
from attngen.ir.build import ONE, ZERO
from attngen.ir.expr import (
    Axes,
    Binary,
    Const,
    Expr,
    Load,
    Reduced,
    Softmax,
    Unary,
    children,
)
from attngen.ir.online import Accumulator, TopList, Weights
from attngen.ir.walk import substitute, walk
from attngen.passes.interval import interval
from attngen.passes.online_key import Keys

MINUS_INFINITY = Const(float("-inf"))
UNNAMED = ""


@dataclass(frozen=True)
class Monomial:
    """coefficient (row) * product of softmax weights * scalar (tile) * row (column, or None)."""

    coefficient: Expr = ONE
    weights: tuple[Softmax, ...] = ()
    scalar: Expr = ONE
    row: Expr | None = None


class Tables:
    """Interned classes, accumulators and top lists, and facts about expressions that use them."""

    def __init__(self) -> None:
        self.keys = Keys()
        self.classes: list[Weights] = []
        self.accumulators: list[Accumulator] = []
        self.tops: list[TopList] = []
        self._class: dict[Expr, int] = {}
        self._accumulator: dict[tuple[object, ...], int] = {}
        self._top: dict[tuple[Expr, int], int] = {}
        self._stage: dict[Expr, int] = {}
        self._open: dict[Expr, bool] = {}

    # ---- facts

    def stage(self, e: Expr) -> int:
        """The last pass over the keys whose result `e` uses; 0 for none."""
        for node in walk(e) if e not in self._stage else ():
            own = self._made_in(node) if isinstance(node, Reduced) else 0
            self._stage[node] = max([own, *(self._stage[c] for c in children(node))])
        return self._stage[e]

    def _made_in(self, e: Reduced) -> int:
        if e.what == "moment":
            return self.accumulators[e.index].stage
        return self.classes[e.index].stage if e.what == "lse" else self.tops[e.index].stage

    def is_open(self, e: Expr) -> bool:
        """Whether softmax weights stand in `e` that no sum has closed yet."""
        for node in walk(e) if e not in self._open else ():
            inside = any(self._open[c] for c in children(node))
            self._open[node] = inside or isinstance(node, Softmax)
        return self._open[e]

    def splits(self, e: Expr) -> bool:
        """Whether a summand must be multiplied out: weights, reduced rows or a tile row."""
        tile_row = e.feature is not None and e.level == Axes.TILE
        return self.is_open(e) or tile_row or (has_key(e) and self.stage(e) > 0)

    # ---- entries

    def class_of(self, score: Expr) -> int:
        """Index of the class with this score."""
        score = self.keys.spelling(score)
        if score not in self._class:
            low, high = interval(score)
            stage = 1 + self.stage(score)
            self._class[score] = len(self.classes)
            self.classes.append(Weights(UNNAMED, score, low, high, stage))
        return self._class[score]

    def accumulator(
        self, weights: tuple[tuple[int, int], ...], scalar: Expr, row: Expr | None
    ) -> int:
        """Index of the accumulator of this payload."""
        scalar = self.keys.spelling(scalar)
        row = None if row is None else self.keys.spelling(row)
        key = (weights, scalar, row)
        if key not in self._accumulator:
            stages = [self.classes[c].stage for c, _ in weights] + [1 + self.stage(scalar)]
            stages += [] if row is None else [1 + self.stage(row)]
            self._accumulator[key] = len(self.accumulators)
            self.accumulators.append(Accumulator(UNNAMED, weights, scalar, row, max(stages)))
        return self._accumulator[key]

    def top(self, score: Expr, count: int, part: str) -> Reduced:
        """Values or indices of the largest scores."""
        score = self.keys.spelling(score)
        key = (score, count)
        if key not in self._top:
            self._top[key] = len(self.tops)
            self.tops.append(TopList(UNNAMED, score, count, 1 + self.stage(score)))
        return Reduced(part, self._top[key], (), count if count > 1 else None)

    def norm(self, score: Expr, sink: Expr | None = None) -> Expr:
        """log(sum exp(score) + exp(sink)), a row; the sink never enters the loop."""
        index = self.class_of(score)
        self.accumulator(((index, 1),), ONE, None)
        lse = Reduced("lse", index, (), None)
        return lse if sink is None else build.binary("logaddexp", lse, sink)

    def moment(self, m: Monomial) -> Expr:
        """The sum over the keys of a monomial's weights * scalar * row, as a row expression."""
        weights = sorted(m.weights, key=self.keys)
        scalar = build.product(sorted(build.factors(m.scalar), key=self.keys))
        stages = [self.classes[self.class_of(w.score)].stage for w in weights]
        last = max([*stages, 1 + self.stage(scalar)])
        early = [w for w, stage in zip(weights, stages, strict=True) if stage < last]
        late = [w for w, stage in zip(weights, stages, strict=True) if stage == last]
        for w in early:  # its normaliser is known by now
            scalar = build.mul(self.known(w), scalar)
        return self._reduced(late, scalar, m.row)

    def _reduced(self, weights: list[Softmax], scalar: Expr, row: Expr | None) -> Expr:
        norms = tuple(self.norm(w.score, w.sink) for w in weights)
        plain = len(norms) == 1 and isinstance(norms[0], Reduced)
        if plain and row is None and build.is_number(scalar, 1):
            return build.where(is_empty(norms[0]), Const(0.0), Const(1.0))  # weights add up to 1
        powers: dict[int, int] = {}
        for w in weights:
            index = self.class_of(w.score)
            powers[index] = powers.get(index, 0) + 1
        index = self.accumulator(tuple(sorted(powers.items())), scalar, row)
        return Reduced("moment", index, norms, None if row is None else row.feature)

    # ---- rewrites that need the tables

    def known(self, w: Softmax) -> Expr:
        """Softmax weights in a later pass: exp(s - L)."""
        norm = self.norm(w.score, w.sink)
        value = build.unary("exp", build.sub(w.score, norm))
        return value if is_proper(w.score) else build.where(is_empty(norm), Const(0.0), value)

    def closed(self, e: Expr) -> Expr:
        """`e` with all its weights written as exp(s - L)."""
        if not self.is_open(e):
            return e
        table: dict[Expr, Expr] = {x: self.known(x) for x in walk(e) if isinstance(x, Softmax)}
        return substitute(e, table)

    def shifted(self, score: Expr) -> tuple[Expr, Expr]:
        """Split reduced rows off: score = kept + rows; softmax(s + r) = softmax(s) saves a pass."""
        kept: Expr = ZERO
        rows: Expr = ZERO
        for term in self._spread(score):
            if has_key(term) or not self.stage(term):
                kept = build.add(kept, term)
            else:
                rows = build.add(rows, term)
        return (score, ZERO) if rows is ZERO else (kept, rows)

    def _spread(self, e: Expr) -> list[Expr]:
        """Terms of `e`; a row factor is multiplied into a sum that holds a reduced row."""
        if not isinstance(e, Binary) or not self.stage(e) or e.feature is not None:
            return [e]
        if e.op == "add":
            return self._spread(e.a) + self._spread(e.b)
        if e.op == "mul" and has_key(e):
            for factor, other in ((e.a, e.b), (e.b, e.a)):
                if not has_key(factor):
                    return [build.mul(factor, term) for term in self._spread(other)]
        return [e]


def has_key(e: Expr) -> bool:
    """Whether the value varies over the keys."""
    return Axes.KEY in e.axes


def is_empty(norm: Expr) -> Expr:
    """The test for a row whose weights are all zero."""
    return build.binary("eq", norm, MINUS_INFINITY)


def is_proper(score: Expr) -> bool:
    """Whether a kept key certainly has a score above -inf (finite streams taken for granted)."""
    for e in walk(score):
        match e:
            case Const(value=value) if value in (float("inf"), float("-inf")):
                return False
            case Unary(op="log" | "log2") | Load(element="float"):
                return False
    return True

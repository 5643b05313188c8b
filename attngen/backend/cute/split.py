"""A score as a kernel evaluates it: what leaves the loop, what becomes part of the product.

score * log2(e) == scale * x + slope * (kv_idx - row0) + row terms, where x is a function of the
product of the tensor cores plus a value per column, a value per diagonal and the rest. Row terms
never enter the loop (softmax does not see them) and are added to the logarithm of the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

from attngen.backend.triton.printer import LOG2E, scale_by
from attngen.ir import build
from attngen.ir.expr import Axes, Binary, Dot, Expr, Index, Load
from attngen.ir.online import Weights
from attngen.ir.walk import substitute, walk
from attngen.passes.score import ScoreParts, along_diagonals, split_score

ANCHOR = Load("row0", (), "int")  # the first query of the tile: linear terms are measured from it


@dataclass(frozen=True)
class Split:
    """The parts, in log2 units over `scale`; None for one that is absent.

    dot: the product; core: x without the terms that follow, an expression over the dot; rest,
    column, diagonal: terms of a pair, a key, a diagonal; slope: per key, in log2 units (not over
    scale); row: left out of the loop, natural units.
    """

    dot: Dot
    scale: float
    core: Expr
    rest: Expr | None = None
    slope: Expr | None = None
    column: Expr | None = None
    diagonal: Expr | None = None
    row: Expr | None = None

    @property
    def plain(self) -> bool:
        """Whether x is the product itself."""
        return self.core is self.dot and not self.terms

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms that are added to the core."""
        return tuple(n for n in ("rest", "column", "diagonal") if getattr(self, n) is not None)


def tile_dots(e: Expr) -> list[Dot]:
    """The products of rows in an expression that vary over both positions."""
    return [x for x in walk(e) if isinstance(x, Dot) and x.level == Axes.TILE]


def split(weights: Weights, bounded: bool) -> Split | None:
    """The parts of a score with exactly one product; None for any other score."""
    dots = tile_dots(weights.score)
    if len(dots) != 1:
        return None
    dot = dots[0]
    if bounded:  # measured from a constant: nothing may be left out
        core, scale = _factored(weights.score)
        return Split(dot, scale, core)
    parts = split_score(weights.score)
    row = _row(parts)
    if parts.dot is None or not isinstance(parts.scale, float) or parts.scale <= 0:
        return _general(dot, parts, row)
    linear = list(parts.linear)
    slope = None
    if len(linear) == 1 and linear[0].key:
        slope = scale_by(build.mul(build.const(linear[0].key), linear[0].coefficient), LOG2E)
        linear = []
    diagonal, rest = _diagonals(parts.rest)
    keys, queries, rest = _anchored(rest)
    row = _sum(row, queries)
    # a term joins the product before the scale, which the exponent multiplies with anyway
    over = 1.0 / parts.scale
    column = _sum(parts.column, keys)
    rest, diagonal, column = (_scaled(e, over) for e in (rest, diagonal, column))
    linear_terms = (_along_keys(x.coefficient, x.key, over) for x in linear)
    column = _sum(column, *linear_terms)
    return Split(dot, parts.scale * LOG2E, dot, rest, slope, column, diagonal, row)


def _general(dot: Dot, parts: ScoreParts, row: Expr | None) -> Split:
    """A score that is no multiple of its product plus terms: the product is inside a function."""
    linear = (_along_keys(x.coefficient, x.key, LOG2E) for x in parts.linear)
    column = _sum(_scaled(parts.column, LOG2E), *linear)
    diagonal, rest = _diagonals(parts.rest)
    terms = [x for x in (rest, parts.product) if x is not None and not build.is_number(x, 0)]
    value = build.total(terms)
    if column is None and diagonal is None:
        core, scale = _factored(value)
        return Split(dot, scale, core, row=row)
    core = scale_by(value, LOG2E)
    return Split(dot, 1.0, core, None, None, column, _scaled(diagonal, LOG2E), row)


def _row(parts: ScoreParts) -> Expr | None:
    terms = []
    for x in parts.linear:
        # a (k kv + q i) = a k (kv - anchor) + a (k anchor + q i)
        at = build.mul(build.const(x.query), x.position)
        terms.append(build.mul(x.coefficient, build.add(at, build.mul(build.const(x.key), ANCHOR))))
    return _sum(*terms, parts.row)


def _along_keys(coefficient: Expr, key: int, unit: float) -> Expr:
    """Unit * coefficient * key * (kv_idx - anchor); the first factors stay together."""
    factor = scale_by(build.mul(build.const(key), coefficient), unit)
    return Binary("mul", factor, build.sub(Index("kv_idx"), ANCHOR))


def _diagonals(rest: Expr | None) -> tuple[Expr | None, Expr | None]:
    """(terms of kv_idx - q_idx alone, the others)."""
    if rest is None:
        return None, None
    found = [t for t in build.terms(rest) if along_diagonals(t) and not tile_dots(t)]
    return _sum(*found), _sum(*(t for t in build.terms(rest) if t not in found))


def _anchored(rest: Expr | None) -> tuple[Expr | None, Expr | None, Expr | None]:
    """(terms of the key, of the row, the others).

    f(q) - f(k) = (f(row0) - f(k)) + (f(q) - f(row0)). Large values cancel as they do in the
    difference as written, and only keys are left in the loop.
    """
    keys: list[Expr] = []
    rows: list[Expr] = []
    terms = [] if rest is None else build.terms(rest)
    left = list(terms)
    for term in terms:
        if term.level != Axes.QUERY or term not in left:
            continue
        other = build.mul(build.const(-1), substitute(term, {Index("q_idx"): Index("kv_idx")}))
        if other.axes & Axes.QUERY or other not in left:
            continue
        anchor = substitute(term, {Index("q_idx"): ANCHOR})
        keys.append(build.add(anchor, other))
        rows.append(build.sub(term, anchor))
        left = [x for x in left if x not in (term, other)]
    return _sum(*keys), _sum(*rows), _sum(*left)


def _factored(e: Expr) -> tuple[Expr, float]:
    """(x, c) with c * x == e * log2(e), c a positive constant that the exponent multiplies with."""
    if isinstance(e, Binary) and e.op == "mul":
        c = build.number(e.a)
        if c is not None and c > 0:
            return e.b, c * LOG2E
    return e, LOG2E


def _scaled(e: Expr | None, factor: float) -> Expr | None:
    return None if e is None else scale_by(e, factor)


def _sum(*terms: Expr | None) -> Expr | None:
    kept = [t for t in terms if t is not None]
    return build.total(kept) if kept else None

"""Splitting a score by what its parts vary over, for a backend that hoists them out of the loop.

Captured terms are not reassociated: a difference of the same tensor at the query and at the key
(`cum[q_idx] - cum[kv_idx]`) cancels, so both stay together, in the order written, before the dot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attngen.ir import build
from attngen.ir.build import ONE, ZERO, factors, number, terms
from attngen.ir.expr import Axes, Binary, Cast, Const, Dot, Expr, Index, Load, children
from attngen.ir.walk import walk
from attngen.passes.online_tables import has_key


@dataclass(frozen=True)
class Linear:
    """coefficient * (key * kv_idx + query * position), the coefficient the same for a whole tile.

    position: q_idx or q_pos. A backend anchors both indices at the first row of the tile.
    """

    coefficient: Expr
    key: int
    query: int
    position: Index

    @property
    def value(self) -> Expr:
        """The term as an expression."""
        kv_idx = build.mul(Const(self.key), Index("kv_idx"))
        return build.mul(
            self.coefficient, build.add(kv_idx, build.mul(Const(self.query), self.position))
        )


@dataclass(frozen=True)
class ScoreParts:
    """score == scale * dot + column + row + sum of linear + rest; None for a part that is absent.

    dot: a tile product of rows; scale: its factor, a float or an expression without positions;
    column: varies over the keys alone; row: over the queries alone (or not at all);
    rest: everything else, captured terms first and together, then terms with dots.
    """

    scale: float | Expr | None
    dot: Expr | None
    column: Expr | None
    row: Expr | None
    rest: Expr | None
    linear: tuple[Linear, ...] = ()

    @property
    def value(self) -> Expr:
        """The score put together again."""
        captured = [e for e in (self.column, self.row) if e is not None]
        captured += [x.value for x in self.linear]
        captured += [] if self.rest is None else [self.rest]
        return build.add(build.total(captured), self.product)

    @property
    def product(self) -> Expr:
        """Scale * dot, or 0."""
        if self.dot is None or self.scale is None:
            return ZERO
        scale = Const(self.scale) if isinstance(self.scale, float) else self.scale
        return build.mul(scale, self.dot)


def split_score(score: Expr) -> ScoreParts:
    """The parts of a tile score."""
    found = _affine(score)
    scale, dot, captured = (ZERO, None, score) if found is None else found
    sorted_terms = _Terms(_pieces(captured))
    value = number(scale)
    return ScoreParts(
        None if dot is None else scale if value is None else float(value),
        dot,
        sorted_terms.column,
        sorted_terms.row,
        sorted_terms.rest,
        sorted_terms.linear,
    )


def _affine(e: Expr) -> tuple[Expr, Expr | None, Expr] | None:
    """(scale, dot or None, captured) with e == scale * dot + captured; None: not affine."""
    if not _has_dot(e):
        return ZERO, None, e
    match e:
        case Dot():
            return ONE, e, ZERO
        case Binary(op="add", a=a, b=b):
            return _sum(_affine(a), _affine(b))
        case Binary(op="mul", a=a, b=b) if not a.level or not b.level:
            factor, other = (a, b) if not a.level else (b, a)
            inner = _affine(other)
            if inner is None:
                return None
            return build.mul(factor, inner[0]), inner[1], build.mul(factor, inner[2])
    return None


def _sum(
    x: tuple[Expr, Expr | None, Expr] | None, y: tuple[Expr, Expr | None, Expr] | None
) -> tuple[Expr, Expr | None, Expr] | None:
    if x is None or y is None or (x[1] and y[1] and x[1] is not y[1]):
        return None
    return build.add(x[0], y[0]), x[1] or y[1], build.add(x[2], y[2])


def _has_dot(e: Expr) -> bool:
    return any(isinstance(x, Dot) and x.level == Axes.TILE for x in walk(e))


def _pieces(e: Expr) -> list[Expr]:
    """Terms of `e`; c * (x + y) comes apart when every piece then belongs to one side."""
    out: list[Expr] = []
    for term in terms(e):
        apart = _distributed(term)
        together = any(t.level == Axes.TILE and _linear(t) is None for t in apart)
        out += [term] if together or _related(apart) else apart
    return [t for t in out if not build.is_number(t, 0)]


def _distributed(term: Expr) -> list[Expr]:
    """C * (x + y) -> [c * x, c * y] for a factor c without positions."""
    scalars = [f for f in factors(term) if not f.level]
    others = [f for f in factors(term) if f.level]
    if len(others) == 1 and _is_sum(others[0]) and _linear(term) is None:
        scale = build.product(scalars)
        return [build.mul(scale, t) for t in _pieces(others[0])]
    return [term]


def _is_sum(e: Expr) -> bool:
    return isinstance(e, Binary) and e.op == "add"


class _Terms:
    """Captured terms sorted into linear, column, row and rest."""

    def __init__(self, pieces: list[Expr]) -> None:
        self.members: dict[str, list[Expr]] = {"column": [], "row": [], "tile": [], "dots": []}
        self.by_coefficient: dict[Expr, Linear] = {}
        kept = set(_related(pieces))
        # keys first: a row term joins a linear term, however slope * (kv_idx - q_idx) is written
        for t in sorted(pieces, key=lambda t: not has_key(t)):
            if t in kept or not self._joined(t):
                self.members[_place(t, t in kept)].append(t)
        order = {t: i for i, t in enumerate(pieces)}
        self.members["tile"].sort(key=lambda t: order.get(t, 0))
        self.linear = tuple(self.by_coefficient.values())

    def _joined(self, t: Expr) -> bool:
        """Add `t` to the linear terms if it belongs there."""
        found = _linear(t)
        if found is None:
            return False
        new, offset = found
        old = self.by_coefficient.get(new.coefficient)
        if old is None:
            if not new.key:
                return False
            old = Linear(new.coefficient, 0, 0, new.position)
        if old.query and new.query and old.position is not new.position:
            return False
        position = new.position if new.query else old.position
        joined = Linear(new.coefficient, old.key + new.key, old.query + new.query, position)
        self.by_coefficient[new.coefficient] = joined
        self.members["row"] += [] if build.is_number(offset, 0) else [offset]
        return True

    def _total(self, parts: Iterable[Expr]) -> Expr | None:
        value = build.total(parts)
        return None if value is ZERO else value

    @property
    def column(self) -> Expr | None:
        return self._total(self.members["column"])

    @property
    def row(self) -> Expr | None:
        return self._total(self.members["row"])

    @property
    def rest(self) -> Expr | None:
        return self._total([*self.members["tile"], *self.members["dots"]])


def _place(t: Expr, kept: bool) -> str:
    if _has_dot(t):
        return "dots"
    if kept or t.level == Axes.TILE:
        return "tile"
    return "column" if has_key(t) else "row"


def _related(pieces: list[Expr]) -> list[Expr]:
    """Terms of one side that are subtracted from a term of the other side on the same tensor."""
    out = []
    for t in pieces:
        for other in pieces:
            sides = {t.level, other.level} == {Axes.QUERY, Axes.KEY}
            if (
                sides
                and _linear(t) is None
                and _sign(t) != _sign(other)
                and _tensors(t) & _tensors(other)
            ):
                out.append(t)
                break
    return out


def _sign(t: Expr) -> bool:
    value = number(t.a) if isinstance(t, Binary) and t.op == "mul" else None
    return value is not None and value < 0


def _tensors(t: Expr) -> set[str]:
    return {x.tensor for x in walk(t) if isinstance(x, Load)}


# ---- terms that are linear in the positions


@dataclass(frozen=True)
class _Form:
    """key * kv_idx + query * q_idx + position * q_pos + offset, whole coefficients."""

    key: int
    query: int
    position: int
    offset: Expr


def _linear(t: Expr) -> tuple[Linear, Expr] | None:
    """(linear term, offset without positions) whose sum is `t`, or None."""
    scalars = [f for f in factors(t) if not f.level]
    others = [f for f in factors(t) if f.level]
    if len(others) != 1 or (form := _form(others[0])) is None or (form.query and form.position):
        return None
    whole = 1
    if scalars and isinstance(value := number(scalars[0]), int):
        whole, scalars = value, scalars[1:]
    coefficient = build.product(scalars)
    index = Index("q_pos" if form.position else "q_idx")
    linear = Linear(coefficient, whole * form.key, whole * (form.query + form.position), index)
    return linear, build.mul(coefficient, build.mul(Const(whole), form.offset))


def _form(e: Expr) -> _Form | None:
    match e:
        case Index(name="kv_idx"):
            return _Form(1, 0, 0, ZERO)
        case Index(name="q_idx"):
            return _Form(0, 1, 0, ZERO)
        case Index(name="q_pos"):
            return _Form(0, 0, 1, ZERO)
        case Cast(x=x, dtype="f32" | "f64" | "i32" | "i64"):
            return _form(x)
        case Binary(op="add", a=a, b=b):
            return _added(_form(a), _form(b))
        case Binary(op="mul", a=Const(value=int() as n), b=b):
            return _times(n, _form(b))
        case _ if not e.level and e.kind == "int":
            return _Form(0, 0, 0, e)
    return None


def along_diagonals(e: Expr) -> bool:
    """Whether the value depends on the positions by kv_idx - q_idx (or - q_pos) alone."""
    if not e.level:
        return True
    form = _form(e) if e.kind == "int" else None
    if form is not None:
        return form.key + form.query + form.position == 0
    below = children(e)
    return bool(below) and not isinstance(e, Dot) and all(map(along_diagonals, below))


def distance_of(e: Expr) -> tuple[Expr, int, int] | None:
    """(d, low, high): a value along diagonals that is the same for all d <= low, and d >= high.

    d is kv_idx - q_idx or kv_idx - q_pos, which the value reads only through min and max with
    constants; None for any other value.
    """
    found = _Clamps()
    if not found.visit(e, None, None) or found.distance is None or found.low is None:
        return None
    return None if found.high is None else (found.distance, found.low, found.high)


class _Clamps:
    """The distance a value reads, and where all its clamps have taken hold."""

    def __init__(self) -> None:
        self.distance: Expr | None = None
        self.low: int | None = None
        self.high: int | None = None

    def visit(self, e: Expr, low: int | None, high: int | None) -> bool:
        """Whether every distance below `e` is clamped; low, high: by what stands around it."""
        if not e.level:
            return True
        form = _form(e) if e.kind == "int" else None
        if form is not None:
            return self._leaf(form, low, high)
        if isinstance(e, Binary) and e.op in ("max", "min") and isinstance(e.b, Const):
            bound = int(e.b.value)
            lows = [x for x in (low, bound if e.op == "max" else None) if x is not None]
            highs = [x for x in (high, bound if e.op == "min" else None) if x is not None]
            return self.visit(e.a, max(lows, default=None), min(highs, default=None))
        if isinstance(e, Binary) and e.op == "add" and isinstance(e.b, Const):
            return self.visit(e.a, None, None)
        return all(self.visit(x, None, None) for x in children(e))

    def _leaf(self, form: _Form, low: int | None, high: int | None) -> bool:
        constant = number(form.offset)
        plain = form.key == 1 and form.query + form.position == -1 and constant == 0
        if not plain or low is None or high is None:
            return False
        index = Index("q_pos" if form.position else "q_idx")
        distance = build.sub(Index("kv_idx"), index)
        if self.distance not in (None, distance):
            return False
        self.distance = distance
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)
        return True


def _added(x: _Form | None, y: _Form | None) -> _Form | None:
    if x is None or y is None:
        return None
    offset = build.add(x.offset, y.offset)
    return _Form(x.key + y.key, x.query + y.query, x.position + y.position, offset)


def _times(n: int, x: _Form | None) -> _Form | None:
    if x is None:
        return None
    return _Form(n * x.key, n * x.query, n * x.position, build.mul(Const(n), x.offset))

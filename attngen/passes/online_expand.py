"""Expanding a summand into monomials: coefficient(row) * weights * scalar(tile) * row(column).

Only what must be is multiplied out: open weights, reduced rows, [query, key, feature] values, row
factors, scalar * row. A plain tile factor such as `1 + lam * u` stays one scalar.
"""

from __future__ import annotations

from collections.abc import Sequence

from attngen.ir import build
from attngen.ir.build import ONE, ZERO
from attngen.ir.expr import Binary, Cast, Expr, Softmax, Unary, Where
from attngen.passes.online_place import Places
from attngen.passes.online_tables import Monomial, Tables, has_key

MOST = 64  # monomials of one sum


class Expander:
    """Expands what stands inside `sum(...)`."""

    def __init__(self, tables: Tables, places: Places) -> None:
        self.tables = tables
        self.places = places

    def total(self, x: Expr) -> Expr:
        """sum(x) over the keys as an expression on rows."""
        found: dict[Expr, Expr] = {}
        for m in self._merged(self.expand(x)):
            if not (build.is_number(m.coefficient, 0) or build.is_number(m.scalar, 0)):
                moment = self.tables.moment(m)
                found[moment] = build.add(found.get(moment, ZERO), m.coefficient)
        return build.total(build.mul(c, moment) for moment, c in found.items())

    def _merged(self, monomials: Sequence[Monomial]) -> list[Monomial]:
        """Equal weights and row, coefficients known before the loop: one accumulator."""
        groups: dict[tuple[object, ...], list[Monomial]] = {}
        for number, m in enumerate(monomials):
            groups.setdefault(self._group(number, m), []).append(m)
        return [_one(group) for group in groups.values()]

    def _group(self, number: int, m: Monomial) -> tuple[object, ...]:
        stage = self.tables.stage
        if m.row is None or m.coefficient.feature is not None or stage(m.coefficient):
            return (number,)
        weights = tuple(sorted(m.weights, key=self.tables.keys))
        return (weights, m.row, stage(m.scalar))

    def expand(self, e: Expr) -> list[Monomial]:
        """Monomials whose sum is `e`.

        Raises SpecError E410 (not a sum of scalar * row) and E411 (too many monomials).
        """
        if not has_key(e):
            return [Monomial(coefficient=e)]
        if isinstance(e, Softmax):
            return [Monomial(weights=(e,))]
        if not self.tables.splits(e) and not _apart(e):
            return [Monomial(row=e)] if e.feature is not None else [Monomial(scalar=e)]
        out = self._split(e)
        if len(out) > MOST:
            raise self.places.refuse(
                "E411",
                f"expands into {len(out)} terms; at most {MOST} are accumulated in one sum",
                e,
                "this product explodes",
                "bind a factor that does not depend on the keys outside of the sum",
            )
        return out

    def _split(self, e: Expr) -> list[Monomial]:
        match e:
            case Binary(op="add", a=a, b=b):
                return self.expand(a) + self.expand(b)
            case Binary(op="mul", a=a, b=b):
                return [_times(x, y) for x in self.expand(a) for y in self.expand(b)]
            case Where(condition=condition, a=a, b=b):
                return self._where(condition, a, b)
            case Cast(x=x, dtype="f32" | "f64"):
                return self.expand(x)
            case Unary(op="log", x=Softmax(score=score, sink=sink)):
                return self.expand(build.sub(score, self.tables.norm(score, sink)))
            case Unary(op="exp", x=x):
                return self._exponential(e, x)
        return self._closed(e)

    def _closed(self, e: Expr) -> list[Monomial]:
        """Not linear in weights or reduced rows: one scalar of a later pass."""
        if e.feature is None:
            return [Monomial(scalar=self.tables.closed(e))]
        raise self.places.refuse(
            "E410",
            "is a [query, key, feature] value, which is never formed",
            e,
            "not a sum of scalar * row",
            "write the summand as numbers times rows, such as `p * u * v`",
        )

    def _exponential(self, e: Expr, x: Expr) -> list[Monomial]:
        """exp(s + r) = exp(r + lse) * softmax(s) for a row r reduced over these keys."""
        score, rows = self.tables.shifted(x)
        if self.tables.stage(score) or self.tables.is_open(score) or e.feature is not None:
            return self._closed(e)
        score = self.tables.keys.spelling(score)
        coefficient = build.unary("exp", build.add(rows, self.tables.norm(score)))
        return [Monomial(coefficient, (Softmax(score, None),))]

    def _where(self, condition: Expr, a: Expr, b: Expr) -> list[Monomial]:
        """where(c, x, y) term by term; equal weights and row of both sides stay one term."""
        condition = self.tables.closed(condition)
        if not has_key(condition):  # a choice of the row: the payload does not change
            left = [_scaled(m, build.where(condition, m.coefficient, ZERO)) for m in self.expand(a)]
            right = [
                _scaled(m, build.where(condition, ZERO, m.coefficient)) for m in self.expand(b)
            ]
            return left + right
        sides: dict[tuple[Expr, tuple[Softmax, ...], Expr | None], list[Expr]] = {}
        for side, arm in enumerate((a, b)):
            for m in map(_absorbed, self.expand(arm)):
                weights = tuple(sorted(m.weights, key=self.tables.keys))
                pair = sides.setdefault((m.coefficient, weights, m.row), [ZERO, ZERO])
                pair[side] = build.add(pair[side], m.scalar)
        return [
            Monomial(coefficient, weights, build.where(condition, x, y), row)
            for (coefficient, weights, row), (x, y) in sides.items()
        ]


def _apart(e: Expr) -> bool:
    """Products of a row factor and a key factor, or of a number and a row, come apart."""
    if not isinstance(e, Binary) or e.op != "mul":
        return False
    return not (has_key(e.a) and has_key(e.b)) or (e.a.feature is None) != (e.b.feature is None)


def _times(x: Monomial, y: Monomial) -> Monomial:
    rows = [m.row for m in (x, y) if m.row is not None]
    return Monomial(
        build.mul(x.coefficient, y.coefficient),
        x.weights + y.weights,
        build.mul(x.scalar, y.scalar),
        build.product(rows) if rows else None,
    )


def _scaled(m: Monomial, coefficient: Expr) -> Monomial:
    return Monomial(coefficient, m.weights, m.scalar, m.row)


def _absorbed(m: Monomial) -> Monomial:
    """A constant coefficient moved into the scalar."""
    if build.number(m.coefficient) is None:
        return m
    return Monomial(ONE, m.weights, build.mul(m.coefficient, m.scalar), m.row)


def _one(group: Sequence[Monomial]) -> Monomial:
    """The sum of monomials with one weights and row."""
    by_scalar: dict[Expr, Expr] = {}
    for m in group:
        by_scalar[m.scalar] = build.add(by_scalar.get(m.scalar, ZERO), m.coefficient)
    first = group[0]
    if len(by_scalar) == 1:
        return _scaled(first, by_scalar[first.scalar])
    scalar = build.total(build.mul(c, t) for t, c in by_scalar.items())
    return Monomial(ONE, first.weights, scalar, first.row)

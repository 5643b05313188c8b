"""Algebra on rows for the backward: adjoints as sums of scalar * row, like terms collected."""

from __future__ import annotations

import math
from typing import TypeAlias

from attngen.ir import build
from attngen.ir.backward import KEEP
from attngen.ir.build import ONE, ZERO, mul, number
from attngen.ir.expr import Axes, Binary, Const, Dot, Expr, Known, Recomputed, Reduced, Row, Where
from attngen.ir.walk import walk
from attngen.passes.online_key import Keys

Monomials: TypeAlias = list[tuple[float, tuple[Expr, ...]]]  # constant, factors
_RANK = {Axes.QUERY: 0, Axes.NONE: 1, Axes.KEY: 2}


def contract(u: Expr, v: Expr) -> Expr:
    """<u, v> of two rows or numbers, scalar factors taken out so that equal dots stay equal."""
    if u.feature is None or v.feature is None:
        product = mul(u, v)
        return product if product.feature is None else Dot(product, ONE)
    x, a = unscaled(u)
    y, b = unscaled(v)
    return mul(mul(x, y), ordered_dot(a, b))


def ordered_dot(a: Expr, b: Expr) -> Expr:
    """One spelling of dot(a, b) and dot(b, a): the query side first, else by structure."""
    keys = Keys()
    first, second = sorted((a, b), key=lambda e: (_RANK.get(e.level, 1), keys(e)))
    return Dot(first, second)


def ratio(a: Expr, norm: Expr) -> Expr:
    """exp(a - norm), the share of one term of a sum; 0 where the sum may be empty."""
    share = build.unary("exp", build.sub(a, norm))
    sink = norm.b if isinstance(norm, Binary) else ZERO
    if any(isinstance(x, Reduced) for x in walk(sink)):
        empty = build.binary("eq", norm, Const(-math.inf))
        return build.where(empty, ZERO, share)
    return share


def unscaled(e: Expr) -> tuple[Expr, Expr]:
    """Scalar factors of a row and what is left of it."""
    if isinstance(e, Binary) and e.op == "mul" and (e.a.feature is None or e.b.feature is None):
        scalar, row = (e.a, e.b) if e.b.feature is not None else (e.b, e.a)
        inner, core = unscaled(row)
        return mul(scalar, inner), core
    return ONE, e


def split_sum(e: Expr) -> list[tuple[Expr, Expr]]:
    """The (scalar, row) pairs whose sum is the row `e`."""
    match e:
        case Binary(op="add", a=a, b=b) if a.feature is not None and b.feature is not None:
            return split_sum(a) + split_sum(b)
        case Where(condition=condition, a=a, b=b) if _is_zero(a) or _is_zero(b):
            return [_guarded(condition, s, row, a) for s, row in split_sum(b if _is_zero(a) else a)]
        case Binary(op="mul", a=a, b=b) if a.feature is None or b.feature is None:
            scalar, row = (a, b) if b.feature is not None else (b, a)
            return [(mul(scalar, s), core) for s, core in split_sum(row)]
        case _:
            return [(ONE, e)]


def _is_zero(e: Expr) -> bool:
    return number(e) == 0


def _guarded(condition: Expr, s: Expr, row: Expr, a: Expr) -> tuple[Expr, Expr]:
    """where(condition, ...) of scalar * row: on the scalar, and on a row that may be infinite."""

    def guard(e: Expr) -> Expr:
        if _is_zero(a):
            return build.where(condition, ZERO, e)
        return build.where(condition, e, ZERO)

    return guard(s), row if isinstance(row, Known | Row | Reduced) else guard(row)


def plus(a: Expr, b: Expr) -> Expr:
    """Sum of two adjoints: `x + x` is 2 x, masked ones are masked together."""
    x, y = _masked(a), _masked(b)
    if x is not None and y is not None and x[:2] == y[:2]:
        return _mask(x, plus(x[2], y[2]))
    return mul(Const(2), a) if a is b else build.add(a, b)


def times(g: Expr, x: Expr) -> Expr:
    """Product of an adjoint and a slope; a mask of the adjoint stays outside.

    So an infinite slope at a dropped pair, or on a row without keys, leaves no NaN behind.
    """
    masked = _masked(g)
    return mul(g, x) if masked is None else _mask(masked, times(masked[2], x))


def _masked(e: Expr) -> tuple[Expr, bool, Expr] | None:
    """(condition, side, x) of where(condition, x, 0) for `keep` and for tests of the row."""
    if not isinstance(e, Where) or not (e.condition is KEEP or Axes.KEY not in e.condition.axes):
        return None
    if _is_zero(e.b):
        return e.condition, True, e.a
    return (e.condition, False, e.b) if _is_zero(e.a) else None


def _mask(like: tuple[Expr, bool, Expr], e: Expr) -> Expr:
    condition, side, _ = like
    return build.where(condition, e, ZERO) if side else build.where(condition, ZERO, e)


# ---- like terms


def tidy(e: Expr, keys: Keys) -> Expr:
    """A number of the rows with like terms collected: delta comes out as in the papers."""
    if e.feature is not None:
        return e
    found: dict[tuple[str, ...], tuple[float, tuple[Expr, ...]]] = {}
    for c, factors in monomials(e):
        key = tuple(sorted(keys(f) for f in factors))
        old, first = found.get(key, (0, factors))
        found[key] = (old + c, first)
    return build.total(
        mul(build.const(_whole(c)), build.product(factors)) for c, factors in found.values() if c
    )


def _whole(c: float) -> float | int:
    return int(c) if c == int(c) else c


def monomials(e: Expr) -> Monomials:
    """Terms of a sum as constant * factors; dots spread over sums of scalar * row."""
    value = number(e)
    if value is not None:
        return [(value, ())]
    match e:
        case Binary(op="add", a=a, b=b):
            return monomials(a) + monomials(b)
        case Binary(op="mul", a=a, b=b):
            c = number(a)
            if c is not None:
                return [(c * x, factors) for x, factors in monomials(b)]
            return [_times(_single(a), _single(b))]
        case Dot(a=a, b=b) if a.feature is not None and b.feature is not None:
            return [
                _times(_times(_single(s), _single(t)), (1, (ordered_dot(u, v),)))
                for s, u in split_sum(a)
                for t, v in split_sum(b)
            ]
        case _:
            return [(1, (e,))]


def _single(e: Expr) -> tuple[float, tuple[Expr, ...]]:
    terms = monomials(e)
    return terms[0] if len(terms) == 1 else (1, (e,))


def _times(
    x: tuple[float, tuple[Expr, ...]], y: tuple[float, tuple[Expr, ...]]
) -> tuple[float, tuple[Expr, ...]]:
    return x[0] * y[0], x[1] + y[1]


# ---- tile adjoints


def factored(e: Expr) -> Expr:
    """A sum of tile adjoints with common weights in front: p*x + p*y -> p * (x + y)."""
    terms = build.terms(e)
    if len(terms) < 2:
        return e
    groups: dict[tuple[Expr, ...], Expr] = {}
    for term in terms:
        weights, rest = _weights(term)
        groups[weights] = plus(groups.get(weights, ZERO), rest)
    if len(groups) == len(terms):
        return e
    return build.total(mul(build.product(weights), rest) for weights, rest in groups.items())


def _weights(term: Expr) -> tuple[tuple[Expr, ...], Expr]:
    parts = build.factors(term)
    weights = tuple(p for p in parts if isinstance(p, Recomputed))
    return weights, build.product(p for p in parts if not isinstance(p, Recomputed))


def constant_factor(e: Expr) -> tuple[float, Expr]:
    """(c, rest) with e == c * rest: a constant factor that every term of `e` has."""
    masked = _masked(e)
    if masked is not None:
        c, rest = constant_factor(masked[2])
        return c, _mask(masked, rest)
    if isinstance(e, Binary) and e.op == "mul" and (factor := number(e.a)) is not None:
        return factor, e.b
    if isinstance(e, Binary) and e.op == "add":
        (x, a), (y, b) = constant_factor(e.a), constant_factor(e.b)
        if x == y:
            return x, build.add(a, b)
        if x == -y and abs(x) != 1:
            return y, build.add(build.neg(a), b)
    return 1, e

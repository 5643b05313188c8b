"""Dots in normal form: scalars leave them, rows that vary over the tile are multiplied out.

`dot(a_i q, k) -> a_i dot(q, k)`, so equal products are one GEMM; `dot(q - k, r) -> dot(q, r) -
dot(k, r)`; a sum of rows of one side stays one row: `dot(q + r, k)` is one GEMM. A square is
kept from falling below 0: `dot(q - k, q - k) -> max(q.q - 2 q.k + k.k, 0)`.
"""

from __future__ import annotations

from typing import TypeAlias

from attngen.ir import build
from attngen.ir.build import ONE, ZERO
from attngen.ir.expr import Axes, Binary, Const, Dot, Expr, Where
from attngen.passes.online_key import Keys
from attngen.passes.online_place import Places

Scaled: TypeAlias = tuple[Expr, Expr]  # scalar, row


def normal_dot(a: Expr, b: Expr, keys: Keys, places: Places) -> Expr:
    """dot(a, b) as a sum of scalar * dot of rows of one position each.

    Raises SpecError E410 when a row over the tile is not a sum of scalar * row.
    """
    x, a = _unscaled(a)
    y, b = _unscaled(b)
    scale = build.mul(x, y)
    found: dict[Expr, Expr] = {}
    for s, u in _rows(a, places):
        for t, v in _rows(b, places):
            dot = _ordered(u, v, keys)
            found[dot] = build.add(found.get(dot, ZERO), build.mul(s, t))
    value = build.total(build.mul(c, d) for d, c in found.items())
    if a is b and len(found) > 1:  # a square: cancellation may not make it negative
        value = build.binary("max", value, Const(0.0))
    return build.mul(scale, value)


def _ordered(a: Expr, b: Expr, keys: Keys) -> Expr:
    """One spelling of dot(a, b) and dot(b, a): the query side first."""
    rank = {Axes.QUERY: 0, Axes.NONE: 1, Axes.KEY: 2}
    first, second = sorted((a, b), key=lambda e: (rank.get(e.level, 1), keys(e)))
    return Dot(first, second)


def _unscaled(e: Expr) -> Scaled:
    """Scalar factors of a row and what is left of it."""
    if isinstance(e, Binary) and e.op == "mul" and (e.a.feature is None or e.b.feature is None):
        scalar, row = (e.a, e.b) if e.b.feature is not None else (e.b, e.a)
        inner, core = _unscaled(row)
        return build.mul(scalar, inner), core
    return ONE, e


def _rows(e: Expr, places: Places) -> list[Scaled]:
    """The (scalar, row) pairs whose sum is `e`."""
    scale, core = _unscaled(e)
    return [(build.mul(scale, s), row) for s, row in _parts(core, places)]


def _parts(e: Expr, places: Places) -> list[Scaled]:
    if e.level != Axes.TILE:
        return [(ONE, e)]
    match e:
        case Binary(op="add", a=a, b=b):
            return _rows(a, places) + _rows(b, places)
        case Where(condition=condition, a=a, b=b):
            chosen = [(build.where(condition, s, ZERO), row) for s, row in _rows(a, places)]
            others = [(build.where(condition, ZERO, s), row) for s, row in _rows(b, places)]
            return chosen + others
        case _:
            raise places.refuse(
                "E410",
                "is a [query, key, feature] value, which is never formed",
                e,
                "only sums of scalar * row can be contracted",
                "write it as a sum of products of numbers and rows, such as `a * q + b * k`",
            )

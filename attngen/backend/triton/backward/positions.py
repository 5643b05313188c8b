"""Positions as factors of a tile sum: converted once per row and per column, not once per element.

The gradient of a slope sums `g * (kv_idx - q_idx)`. As integers the difference costs a subtraction
and a conversion for every element of a tile. Measured from the tile's first position both halves
are small whole numbers, exact in float32, and so is their sum below 2^24.
"""

from __future__ import annotations

from attngen.ir import build
from attngen.ir.expr import Axes, Cast, Expr, Index
from attngen.passes.score import Linear, split_score


def float_positions(e: Expr, anchor: Expr) -> Expr:
    """A product, its factors that are linear in both positions split into a column and a row.

    anchor: the position that both are measured from.
    """
    return build.product(_apart(f, anchor) for f in build.factors(e))


def _apart(e: Expr, anchor: Expr) -> Expr:
    if e.kind != "int" or e.level != Axes.TILE:
        return e
    parts = split_score(e)
    if len(parts.linear) != 1 or any(x is not None for x in (parts.column, parts.row, parts.rest)):
        return e
    return _from_anchor(parts.linear[0], anchor)


def _from_anchor(x: Linear, anchor: Expr) -> Expr:
    key = build.const(x.key)
    column = build.mul(key, build.sub(Index("kv_idx"), anchor))
    row = build.add(build.mul(build.const(x.query), x.position), build.mul(key, anchor))
    both = (Cast(build.mul(x.coefficient, part), "f32") for part in (column, row))
    return build.total(both)

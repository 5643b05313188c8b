"""Queries past the end: numbers of the rows kernel make their weights 0, so nothing masks them.

The rows kernel writes its numbers up to a multiple of 64 queries: infinite normalisers, zeros for
the rest. In the loop over queries a weight of a query that does not exist is then exp2(score - inf)
= 0, and all that is summed is a multiple of it, or of a row that was loaded as zeros. What is left
to see is that no score is infinite or NaN there, where rows and captured numbers are zeros too.
"""

from __future__ import annotations

from dataclasses import replace

from attngen.backend.triton.limits import without
from attngen.ir.expr import (
    Binary,
    Cast,
    Const,
    Dot,
    Expr,
    Index,
    Known,
    Load,
    Recomputed,
    Row,
    Size,
    Unary,
    Where,
)
from attngen.ir.index import Poly
from attngen.ir.maskplan import MaskPlan, Range
from attngen.ir.walk import walk

PLAIN = (Cast, Dot, Index, Known, Load, Recomputed, Row, Size, Where)
FINITE = frozenset(("not", "tanh", "sigmoid", "silu", "relu", "softplus", "abs", "floor"))
DIVIDING = frozenset(("mod", "floordiv"))


def finite_at_zero(*roots: Expr) -> bool:
    """Whether expressions are surely finite where every row and captured number is 0."""
    return all(_finite(e) for e in walk(*roots))


def _finite(e: Expr) -> bool:
    match e:
        case Const(value=value):
            return value != float("inf")
        case Unary(op=op):
            return op in FINITE
        case Binary(op=op, b=b):
            return op != "pow" and (op not in DIVIDING or isinstance(b, Const))
        case _:
            return isinstance(e, PLAIN)


def endless(plan: MaskPlan, length: Poly) -> MaskPlan:
    """The plan where the queries of a key tile have no end: their length limits no full tile.

    Outer ranges stay: no loop runs past the tile that holds the last query.
    """
    way = plan.transposed

    def cut(r: Range) -> Range:
        return Range(r.lo, without(r.hi, length, "min") or r.hi)

    full, row = tuple(map(cut, way.full)), tuple(map(cut, way.row))
    return replace(plan, transposed=replace(way, full=full, row=row))

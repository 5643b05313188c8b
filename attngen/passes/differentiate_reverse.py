"""Reverse mode over the nodes of one level: tiles, then rows and columns, then heads.

What flows to an argument of a lower level is an edge, to be summed over the axes it lacks; what
flows to the rows of a tile dot is a product (target row, other row, coefficient).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attngen.ir import build
from attngen.ir.build import ZERO
from attngen.ir.expr import Axes, Binary, Dot, Expr, Load, Reduced, Row
from attngen.ir.walk import walk
from attngen.passes.differentiate_rows import factored, plus
from attngen.passes.differentiate_rules import Active, shares


@dataclass
class Adjoints:
    """What one level gives.

    leaves: reads, reduced rows and normalisers of this level -> adjoint; edges: nodes of a lower
    level -> contribution at this level; products: row of a tile dot -> {other row: coefficient}.
    """

    leaves: dict[Expr, Expr] = field(default_factory=dict)
    edges: dict[Expr, Expr] = field(default_factory=dict)
    products: dict[Expr, dict[Expr, Expr]] = field(default_factory=dict)


def is_zero(e: Expr) -> bool:
    """Whether an adjoint is 0 for certain (also 0 * row)."""
    if isinstance(e, Binary) and e.op == "mul":
        return build.is_number(e.a, 0)
    return build.is_number(e, 0)


def is_norm(e: Expr) -> bool:
    """Whether `e` is a normaliser: the logarithm of a sum of weights, with or without a sink."""
    return (isinstance(e, Reduced) and e.what == "lse") or (
        isinstance(e, Binary) and e.op == "logaddexp"
    )


def reverse(level: Axes, seeds: Mapping[Expr, Expr], active: Active) -> Adjoints:
    """Adjoints of everything below the seeds (node of this level -> its adjoint)."""
    out, adjoints = Adjoints(), dict(seeds)
    for e in reversed(list(walk(*seeds))):
        if e not in adjoints or e.level != level or is_zero(adjoints[e]):
            continue
        g = adjoints[e] = factored(adjoints[e])
        if isinstance(e, Row | Load | Reduced) or is_norm(e):
            out.leaves[e] = g
        for x, share in shares(e, g):
            if is_zero(share) or not active(x):
                continue
            if x.level == level:
                adjoints[x] = plus(adjoints.get(x, ZERO), share)
            elif isinstance(e, Dot) and level == Axes.TILE:
                other = e.b if x is e.a else e.a
                found = out.products.setdefault(x, {})
                found[other] = plus(found.get(other, ZERO), g)
            else:
                out.edges[x] = plus(out.edges.get(x, ZERO), share)
    out.edges = {e: factored(g) for e, g in out.edges.items()}
    return out

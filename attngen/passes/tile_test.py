"""Two questions about a whole tile, where no loop bound could be derived.

`may`: some element may be kept (false: skip the tile). `must`: every element is kept (true: no
mask). Interval arithmetic on each condition over tile x tile; what is opaque may hold and need not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from attngen.ir.index import FALSE, TRUE, All, AnyOf, Formula, Le, Modulo, Opaque, walk
from attngen.ir.index_build import both, either, le
from attngen.passes.clauses import Clause
from attngen.passes.extremes import Extremes, tile_box
from attngen.passes.facts import Facts


def tile_test(clauses: Iterable[Clause], facts: Facts) -> tuple[Formula, Formula]:
    """(may, must) over q0 q1 k0 k1."""
    over = Extremes(facts, tile_box("q", "k"))
    formulas = [clause.formula for clause in clauses]
    may = either(*(_test(f, over, some=True) for f in formulas))
    return may, either(*(_test(f, over, some=False) for f in formulas))


def _test(f: Formula, over: Extremes, *, some: bool) -> Formula:
    match f:
        case All(args=args):
            return both(*(_test(x, over, some=some) for x in args))
        case AnyOf(args=args):
            return either(*(_test(x, over, some=some) for x in args))
        case Le(poly=p):
            end = over.least(p) if some else over.greatest(p)
            if end is not None:
                return le(end, 0)
        case Opaque():
            pass
        case _:
            assert_never(f)
    return TRUE if some else FALSE


def worth_testing(leftovers: Iterable[Formula], tile: int) -> bool:
    """Whether the test can decide what the ranges cannot: some leftover may settle a whole tile.

    A residue by a constant of at most the tile's width takes all its values in every tile.
    """
    for f in leftovers:
        nodes = list(walk(f))
        residues = [node for node in nodes if isinstance(node, Modulo)]
        fine = [r for r in residues if r.den.constant is not None and r.den.constant <= tile]
        if not any(isinstance(node, Opaque) for node in nodes) and len(fine) == len(residues) > 0:
            continue
        if not isinstance(f, Opaque):
            return True
    return False

"""Loop ranges over a tile of the other side, from solved clauses.

For a clause with lower bounds a(q), upper bounds b(q), guards g and leftovers r:

    outer = [max of min_q a,  min of max_q b)   if some row can satisfy g, else empty     (r
    ignored) full  = [max of max_q a,  min of min_q b)   if every row satisfies g; none if r is not
    empty

Why that is sound: a kept (q, k) satisfies some clause, so a(q) <= k < b(q) and k lies in that
clause's outer range of any tile holding q; a k in `full` satisfies all bounds and guards for every
q of the tile. Unions, hulls and pruned min / max keep both. The other direction is the same with q
and k swapped.
"""

from __future__ import annotations

from collections.abc import Iterable

from attngen.ir.index import Element, FirstGe, Formula, Poly, TileExtreme, number, walk
from attngen.ir.index_build import both, le, pick
from attngen.ir.maskplan import Range
from attngen.passes.extremes import Box, Extremes
from attngen.passes.facts import Facts
from attngen.passes.isolate import Solved, isolate

READS = (Element, FirstGe, TileExtreme)


def outer_range(solved: Solved, fixed: str, box: Box, facts: Facts) -> Range:
    """Every kept position of the tile lies in it."""
    whole = Extremes(facts, box)
    inside, some_row = _rows_left(solved, fixed, whole)

    def over(p: Poly) -> Extremes:
        # bounds that read memory keep the whole tile, so that each read stays inside it
        return whole if any(isinstance(node, READS) for node in walk(p)) else inside

    lo = [x for p in solved.lo if (x := over(p).least(p)) is not None]
    hi = [x for p in solved.hi if (x := over(p).greatest(p)) is not None]
    stop = facts.extreme("min", *hi)
    return Range(facts.extreme("max", *lo), pick(some_row, stop, number(0)))


def full_range(solved: Solved, box: Box, facts: Facts) -> Range | None:
    """Every row of the tile keeps all of it."""
    over = Extremes(facts, box)
    lo = _known(over.greatest(p) for p in solved.lo)
    hi = _known(over.least(p) for p in solved.hi)
    guards = _known(over.greatest(guard.poly) for guard in solved.guards)
    if solved.leftovers or lo is None or hi is None or guards is None:
        return None
    every_row = both(*(le(p, 0) for p in guards))
    return Range(facts.extreme("max", *lo), pick(every_row, facts.extreme("min", *hi), number(0)))


def merge(ranges: Iterable[Range], facts: Facts) -> list[Range]:
    """Drop empty ranges, join those that provably touch: their union, exactly."""
    out = [r for r in ranges if not facts.le(r.hi, r.lo)]
    while (pair := _touching(out, facts)) is not None:
        i, j = pair
        out[i] = hull(out[i], out[j], facts)
        del out[j]
    return out


def hull(a: Range, b: Range, facts: Facts) -> Range:
    """The least range that holds both."""
    return Range(facts.extreme("min", a.lo, b.lo), facts.extreme("max", a.hi, b.hi))


def _touching(ranges: list[Range], facts: Facts) -> tuple[int, int] | None:
    for j, b in enumerate(ranges):
        for i, a in enumerate(ranges[:j]):
            meet = a.lo is b.lo or a.hi is b.hi
            if meet or (facts.le(b.lo, a.hi) and facts.le(a.lo, b.hi)):
                return i, j
    return None


def _rows_left(solved: Solved, fixed: str, whole: Extremes) -> tuple[Extremes, Formula]:
    """Guards solved for the fixed variable cut the tile's rows; others can only switch it off."""
    facts = whole.facts
    first, last = ([end] for end in whole.box[fixed])
    conditions: list[Formula] = []
    for guard in solved.guards:
        bound = isolate(guard.poly, fixed, facts) if fixed in guard.names else None
        if bound is not None and not bound.at.names & {"q", "k"}:
            if bound.side == "lo":
                first.append(bound.at)
            else:
                last.append(bound.at - 1)
        elif (low := whole.least(guard.poly)) is not None:
            conditions.append(le(low, 0))
    conditions += [le(a, b) for a in first for b in last if not facts.le(a, b)]
    rows = facts.extreme("max", *first), facts.extreme("min", *last)
    return Extremes(facts, {fixed: rows}), both(*conditions)


def _known(ends: Iterable[Poly | None]) -> list[Poly] | None:
    listed = list(ends)
    known = [p for p in listed if p is not None]
    return known if len(known) == len(listed) else None

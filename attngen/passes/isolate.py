"""Solve a clause for the loop variable: an interval per row, conditions on the row, and leftovers.

Each rule is exact, so a clause without leftovers keeps exactly an interval of each row:

    a * v + b <= 0, a > 0      v < (-b) // a + 1
    a * v + b <= 0, a < 0      v >= -((-b) // (-a))
    x // n < s,  x // n >= s   x < n * s,  x >= n * s, go on with x
    y[g] < s,    y[g] >= s     y sorted: g < first_ge(y, s),  g >= first_ge(y, s), go on with g

v under `%`, in an unsorted row, at two places, or times a factor of unknown sign is a leftover.
`first_ge(y, y[i])` is where the run of equal elements around i begins, `first_ge(y, y[i] + 1)`
where it ends: that is all there is to documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attngen.ir.index import (
    Element,
    FirstGe,
    FloorDiv,
    Formula,
    Le,
    Poly,
    Term,
    Var,
    number,
    of,
    poly,
    var,
)
from attngen.ir.index_build import ceil_div, floor_div
from attngen.passes.clauses import Clause
from attngen.passes.facts import Facts

NESTING = 4  # functions around the variable


@dataclass(frozen=True)
class Bound:
    """v >= at ("lo") or v < at ("hi")."""

    side: Literal["lo", "hi"]
    at: Poly


@dataclass(frozen=True)
class Solved:
    """Kept = [max(lo), min(hi)) on rows where the guards hold, less what the leftovers forbid."""

    lo: tuple[Poly, ...]
    hi: tuple[Poly, ...]
    guards: tuple[Le, ...]
    leftovers: tuple[Formula, ...]


def solve(clause: Clause, v: str, length: Poly, facts: Facts) -> Solved:
    """The clause solved for v in [0, length)."""
    lo, hi = [number(0)], [length]
    guards: list[Le] = []
    leftovers: list[Formula] = list(clause.loose)
    for condition in clause.conditions:
        if v not in condition.names:
            guards.append(condition)
        elif (bound := isolate(condition.poly, v, facts)) is None:
            leftovers.append(condition)
        else:
            (lo if bound.side == "lo" else hi).append(bound.at)
    return Solved(tuple(lo), tuple(hi), tuple(guards), tuple(leftovers))


def isolate(p: Poly, v: str, facts: Facts) -> Bound | None:
    """P <= 0 as a bound of v; None where v cannot be isolated."""
    for _ in range(NESTING):
        inside = [(m, c, t) for m, c in p.terms for t in m if v in t.names and t is not Var(v)]
        if not inside:
            return _linear(p, v, facts)
        (monomial, c, term), *more = inside
        rest = p - of(term) * c
        if more or len(monomial) > 1:
            return None
        if v in rest.names and (abs(c) > 1 or isinstance(term, Element)):
            return None
        peeled = _peel(c, term, rest, v, facts)
        if peeled is None:
            return None
        p = peeled
    return None


def _peel(c: int, term: Term, rest: Poly, v: str, facts: Facts) -> Poly | None:
    """Take one function off: c * f(g) + rest <= 0 -> a condition on g."""
    # c > 0: f(g) < stop.  c < 0: f(g) >= stop.
    stop = floor_div(-rest, number(c)) + 1 if c > 0 else ceil_div(rest, number(-c))
    match term:
        case FloorDiv(num=inner, den=den) if v not in den.names and facts.sign(den) > 0:
            limit = den * stop
        case Element(length=length, index=(*lead, inner)) if length is not None:
            if any(v in i.names for i in lead):
                return None
            limit = of(FirstGe(term, stop, length))
        case _:
            return None
    return inner - limit + 1 if c > 0 else limit - inner


def _linear(p: Poly, v: str, facts: Facts) -> Bound | None:
    me = Var(v)
    once = [(m, c) for m, c in p.terms if m.count(me) == 1]
    slope = poly({tuple(t for t in m if t is not me): c for m, c in once})
    rest = p - slope * var(v)
    if not slope.terms or v in rest.names or slope.names & {"q", "k"}:
        return None
    sign = facts.sign(slope)
    if sign == 0:  # a coefficient of unknown sign, known at run time only
        return None
    if sign > 0:
        return Bound("hi", floor_div(-rest, slope) + 1)
    return Bound("lo", ceil_div(rest, -slope))

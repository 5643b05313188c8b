"""Least and greatest value of an index expression over a box, as expressions.

Interval arithmetic term by term: a variable at its corners, `//` at the corners of its numerator,
`%` at the corners when both lie in one period and 0 and n - 1 otherwise, a sorted row at its
corners, any other row through its least and greatest element over the span. None: nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from attngen.ir.index import (
    Element,
    Extreme,
    FirstGe,
    FloorDiv,
    IndexNode,
    Kind,
    Modulo,
    Monomial,
    Pick,
    Poly,
    Term,
    TileExtreme,
    Var,
    number,
    of,
    poly,
    var,
)
from attngen.ir.index_build import equal, extreme, floor_div, maximum, minimum, modulo, pick
from attngen.passes.facts import Facts

Interval: TypeAlias = tuple[Poly | None, Poly | None]
Box: TypeAlias = Mapping[str, tuple[Poly, Poly]]  # variable -> first and last value

UNKNOWN: Interval = (None, None)


def tile_box(*sides: str) -> dict[str, tuple[Poly, Poly]]:
    """The box of a tile: x in [x0, x1 - 1] for each side."""
    return {side: (var(side + "0"), var(side + "1") - 1) for side in sides}


def row_box(side: str) -> dict[str, tuple[Poly, Poly]]:
    """The box of one row."""
    return {side: (var(side), var(side))}


class Extremes:
    """Extremes over one box, under the facts given."""

    def __init__(self, facts: Facts, box: Box) -> None:
        self.facts = facts
        self.box = box
        # one row: the expression itself, exact also where interval arithmetic is not (`where` on q)
        self.row = all(first is last is var(name) for name, (first, last) in box.items())

    def least(self, p: Poly) -> Poly | None:
        """A lower limit of p, reached by some point for monotone p."""
        return self.interval(p)[0]

    def greatest(self, p: Poly) -> Poly | None:
        """An upper limit of p."""
        return self.interval(p)[1]

    def interval(self, p: Poly) -> Interval:
        """Both."""
        if self.row:
            return p, p
        lo: Poly | None = number(0)
        hi: Poly | None = number(0)
        for monomial, c in p.terms:
            a, b = self._product(monomial)
            if c < 0:
                a, b = b, a
            lo = None if lo is None or a is None else lo + a * c
            hi = None if hi is None or b is None else hi + b * c
        return lo, hi

    def _moves(self, node: IndexNode) -> bool:
        return bool(node.names & self.box.keys())

    def _product(self, monomial: Monomial) -> Interval:
        moving = [term for term in monomial if self._moves(term)]
        still = poly({tuple(term for term in monomial if not self._moves(term)): 1})
        if not moving:
            return still, still
        lo, hi = self._term(moving[0])
        for term in moving[1:]:
            x, y = self._term(term)
            if lo is None or hi is None or x is None or y is None:
                return UNKNOWN
            if not (self.facts.nonneg(lo) and self.facts.nonneg(x)):
                return UNKNOWN
            lo, hi = lo * x, hi * y
        return self._scaled(lo, hi, still)

    def _scaled(self, lo: Poly | None, hi: Poly | None, factor: Poly) -> Interval:
        sign = self.facts.sign(factor)
        if sign == 0:
            if lo is None or hi is None:
                return UNKNOWN
            return minimum(lo * factor, hi * factor), maximum(lo * factor, hi * factor)
        if sign < 0:
            lo, hi = hi, lo
        return None if lo is None else lo * factor, None if hi is None else hi * factor

    def _term(self, term: Term) -> Interval:
        if not self._moves(term):
            return of(term), of(term)
        match term:
            case Var(name=name):
                return self.box[name]
            case FloorDiv() | Modulo():
                return self._division(term)
            case Element():
                return self._element(term)
            case FirstGe():
                return self._first_ge(term)
            case Extreme():
                return self._extreme(term)
            case Pick():
                return self._pick(term)
            case TileExtreme():
                return UNKNOWN

    def _division(self, term: FloorDiv | Modulo) -> Interval:
        n = term.den
        if self._moves(n) or self.facts.sign(n) <= 0:
            return UNKNOWN
        lo, hi = self.interval(term.num)
        if isinstance(term, Modulo):
            return _residue(lo, hi, n)
        return _map(lo, hi, lambda p: floor_div(p, n))

    def _first_ge(self, term: FirstGe) -> Interval:
        if any(map(self._moves, (*term.row.index[:-1], term.length))):
            return UNKNOWN
        return _map(*self.interval(term.value), lambda p: of(FirstGe(term.row, p, term.length)))

    def _extreme(self, term: Extreme) -> Interval:
        lows, highs = zip(*map(self.interval, term.args), strict=True)
        # the least of a max is no less than any argument's least: unknown ones may be left out
        return (
            _join(term.kind, lows, partial=term.kind == "max"),
            _join(term.kind, highs, partial=term.kind == "min"),
        )

    def _pick(self, term: Pick) -> Interval:
        (a, b), (c, d) = self.interval(term.yes), self.interval(term.no)
        if self._moves(term.condition):
            return _join("min", [a, c]), _join("max", [b, d])
        return (
            None if a is None or c is None else pick(term.condition, a, c),
            None if b is None or d is None else pick(term.condition, b, d),
        )

    def _element(self, element: Element) -> Interval:
        *lead, last = element.index
        lo, hi = self.interval(last)
        if any(map(self._moves, lead)) or lo is None or hi is None:
            return (number(0), number(1)) if element.bits else UNKNOWN
        if element.sorted or lo is hi:
            return _map(lo, hi, lambda p: of(_at(element, p)))
        return of(TileExtreme("min", element, lo, hi)), of(TileExtreme("max", element, lo, hi))


def _at(element: Element, position: Poly) -> Element:
    index = (*element.index[:-1], position)
    return Element(element.tensor, index, element.length, element.bits)


def _residue(lo: Poly | None, hi: Poly | None, n: Poly) -> Interval:
    if lo is None or hi is None:
        return number(0), n - 1
    one_period = equal(floor_div(lo, n), floor_div(hi, n))
    return pick(one_period, modulo(lo, n), number(0)), pick(one_period, modulo(hi, n), n - 1)


def _map(lo: Poly | None, hi: Poly | None, monotone: Callable[[Poly], Poly]) -> Interval:
    return None if lo is None else monotone(lo), None if hi is None else monotone(hi)


def _join(kind: Kind, ends: Sequence[Poly | None], *, partial: bool = False) -> Poly | None:
    known = [p for p in ends if p is not None]
    return extreme(kind, known) if known and (partial or len(known) == len(ends)) else None

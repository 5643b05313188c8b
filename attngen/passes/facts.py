"""What is known to be >= 0, and what follows from it.

The prover subtracts known facts from a polynomial until every term is visibly >= 0: incomplete,
sound, deterministic. It drops arguments of min and max, prunes clauses and joins ranges; an
unproved fact costs a longer expression, never a wrong one. A budget bounds the whole analysis
(random formulas can ask a lot): once it is spent, nothing more is proved.
"""

from __future__ import annotations

from collections.abc import Iterator

from attngen.ir.index import (
    Element,
    Extreme,
    FirstGe,
    FloorDiv,
    Kind,
    Modulo,
    Pick,
    Poly,
    Term,
    Var,
    of,
    var,
)
from attngen.ir.index_build import extreme

DEPTH = 4  # facts subtracted in a row
STEPS = 120  # per question
BUDGET = 30_000  # steps per analysis


class Facts:
    """Non-negative polynomials.

    known: polynomials >= 0. positive: divisors assumed >= 1, which the launcher checks.
    """

    def __init__(
        self, known: tuple[Poly, ...], positive: tuple[Poly, ...] = (), budget: int = BUDGET
    ) -> None:
        self.known = (*known, *(p - 1 for p in positive))
        self.positive = positive
        self.budget = budget
        self._signed = frozenset(p.term or (p + 1).term for p in self.known) - {None}
        self._proved: dict[Poly, bool] = {}
        self._fuel = 0

    def nonneg(self, p: Poly) -> bool:
        """Whether p >= 0 can be proved."""
        if p not in self._proved:
            self._fuel = min(STEPS, self.budget)
            given = self._fuel
            self._proved[p] = self._search(p, DEPTH)
            self.budget -= given - max(self._fuel, 0)
        return self._proved[p]

    def sign(self, p: Poly) -> int:
        """1: p >= 1. -1: p <= -1. 0: unknown, or zero."""
        if p.constant is not None:
            return (p.constant > 0) - (p.constant < 0)
        if p in self.positive or self.nonneg(p - 1):
            return 1
        return -1 if self.nonneg(-p - 1) else 0

    def le(self, a: Poly, b: Poly) -> bool:
        """Whether a <= b can be proved; looks through min, max and where on either side."""
        x, y = a.term, b.term
        if isinstance(x, Pick):
            return self.le(x.yes, b) and self.le(x.no, b)
        if isinstance(y, Pick):
            return self.le(a, y.yes) and self.le(a, y.no)
        if isinstance(x, Extreme):
            every = all if x.kind == "max" else any
            return every(self.le(t, b) for t in x.args)
        if isinstance(y, Extreme):
            every = all if y.kind == "min" else any
            return every(self.le(a, t) for t in y.args)
        return self.nonneg(b - a)

    def extreme(self, kind: Kind, *args: Poly) -> Poly:
        """Min or max without the arguments that can never win."""
        p = extreme(kind, args)
        if not (isinstance(p.term, Extreme) and p.term.kind == kind):
            return p
        keep = list(p.term.args)
        for x in p.term.args:
            others = [y for y in keep if y is not x]
            if any(self.le(y, x) if kind == "min" else self.le(x, y) for y in others):
                keep.remove(x)
        return extreme(kind, keep)

    def _search(self, p: Poly, depth: int) -> bool:
        bad = [(m, c) for m, c in p.terms if c < 0 or not all(map(self._visible, m))]
        if not bad:
            return True
        self._fuel -= 1
        if depth == 0 or self._fuel < 0:
            return False
        monomial, c = max(bad, key=lambda t: len(t[0]))
        for fact in (*self.known, *self._meaning(p)):
            d = fact.coefficient(monomial)
            if d and c * d > 0 and c % d == 0 and self._search(p - fact * (c // d), depth - 1):
                return True
        return False

    def _visible(self, term: Term) -> bool:
        """Whether the term is >= 0 at sight."""
        match term:
            case Element(bits=True) | FirstGe():
                return True
            case Modulo(den=n):
                return self._divisor(n)
            case FloorDiv(num=p, den=n):
                return self._divisor(n) and self._search(p, 2)
            case Var():
                return term in self._signed
        return False

    def _divisor(self, n: Poly) -> bool:
        return n in self.positive if n.constant is None else n.constant > 0

    def _meaning(self, p: Poly) -> Iterator[Poly]:
        """Facts that hold by the meaning of the terms of p."""
        for term in dict.fromkeys(x for monomial, _ in p.terms for x in monomial):
            me = of(term)
            match term:
                case FloorDiv(num=x, den=n) if self._divisor(n):
                    yield from (x - n * me, n * me - x + n - 1)
                case Modulo(den=n) if self._divisor(n):
                    yield n - 1 - me
                case Element(bits=True):
                    yield 1 - me
                case FirstGe(length=length):
                    yield length - me
                    if term.run is not None:
                        which, position = term.run
                        yield position - me if which == "run_start" else me - position - 1
                case Extreme(kind=kind, args=args):
                    yield from (me - x if kind == "max" else x - me for x in args)


def side_facts(name: str, length: Poly) -> tuple[Poly, ...]:
    """What holds when a position x and a tile [x0, x1) of that side exist: 0 <= x < length, ..."""
    x, first, stop = var(name), var(name + "0"), var(name + "1")
    return (x, length - 1 - x, first, stop - first - 1, length - stop, length - 1)

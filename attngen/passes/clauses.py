"""A formula -> or of ands of `p <= 0`, with contradictory, implied and contained parts removed.

`c * max(a, b) + rest <= 0` splits into an and (min, or negative c: an or), `where` into `condition
and .. or not condition and ..`. Every step is an equivalence over the integers. A part that would
grow past the limits stays whole inside its clause (`loose`): weaker bounds, still sound.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import assert_never

from attngen.ir.index import All, AnyOf, Extreme, Formula, Le, Opaque, Pick, Poly
from attngen.ir.index_build import both, either, le, lift, negate
from attngen.passes.facts import Facts

MOST = 24  # clauses of a formula
PAIRS = 200  # pairs of clauses looked at in one product
STEPS = 400  # sub-formulas looked at per expansion


@dataclass(frozen=True)
class Clause:
    """Conditions that hold together; loose: formulas nothing is derived from."""

    conditions: tuple[Le, ...] = ()
    loose: tuple[Formula, ...] = ()

    @property
    def formula(self) -> Formula:
        """The clause as one formula."""
        return both(*self.conditions, *self.loose)


class Expansion:
    """Clauses of formulas, under the facts given."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.steps = 0
        self._implied: dict[tuple[Le, Le], bool] = {}

    def clauses(self, f: Formula) -> list[Clause]:
        """The clauses of f; none: f never holds. A clause without conditions: f always holds."""
        self.steps = 0
        return self._tidy(self._expand(f))

    def _expand(self, f: Formula) -> list[Clause]:
        self.steps += 1
        if self.steps > STEPS:
            return [Clause((), (f,))]
        match f:
            case Opaque():
                return [Clause((), (f,))]
            case AnyOf(args=args):
                parts = [clause for x in args for clause in self._expand(x)]
                return parts if len(parts) <= MOST else [Clause((), (f,))]
            case All():
                return self._product(f)
            case Le(poly=p):
                lifted = lift(p)
                return [Clause((f,))] if lifted is None else self._split(*lifted)
            case _:
                assert_never(f)

    def _split(self, head: Extreme | Pick, args: tuple[Poly, ...]) -> list[Clause]:
        parts = [le(p, 0) for p in args]
        if isinstance(head, Pick):
            yes, no = both(head.condition, parts[0]), both(negate(head.condition), parts[1])
            return self._expand(either(yes, no))
        return self._expand(both(*parts) if head.kind == "max" else either(*parts))

    def _product(self, f: All) -> list[Clause]:
        """Distribute and over or, smallest factor first."""
        out = [Clause()]
        for part, clauses in sorted(
            ((x, self._expand(x)) for x in f.args), key=lambda t: len(t[1])
        ):
            grown = self._distributed(out, clauses) if len(out) * len(clauses) <= PAIRS else None
            if grown is not None and len(grown) <= MOST:
                out = grown
            else:
                out = [Clause(a.conditions, (*a.loose, part)) for a in out]
        return out

    def _distributed(self, left: list[Clause], right: list[Clause]) -> list[Clause]:
        met = (self._meet(a, b) for a in left for b in right)
        return self._tidy([clause for clause in met if clause is not None])

    def _meet(self, a: Clause, b: Clause) -> Clause | None:
        """Both; None when two conditions contradict: p1 <= 0 and p2 <= 0 but p1 + p2 >= 1."""
        nonneg = self.facts.nonneg
        conditions = list(dict.fromkeys(a.conditions + b.conditions))
        for x, y in combinations_with_replacement(conditions, 2):
            if nonneg(x.poly + y.poly - 1):
                return None
        loose = tuple(dict.fromkeys(a.loose + b.loose))
        if any(negate(f) in loose for f in loose):
            return None
        for x in list(conditions):
            others = [y for y in conditions if y is not x]
            if nonneg(-x.poly) or any(self._implies(y, x) for y in others):
                conditions.remove(x)
        return Clause(tuple(conditions), loose)

    def _tidy(self, clauses: list[Clause]) -> list[Clause]:
        """Drop each clause that another one contains."""
        out = list(dict.fromkeys(clauses))
        for c in list(out):
            if any(d is not c and self._within(c, d) for d in out):
                out.remove(c)
        return out

    def _within(self, c: Clause, d: Clause) -> bool:
        return set(d.loose) <= set(c.loose) and all(
            any(self._implies(x, y) for x in c.conditions) for y in d.conditions
        )

    def _implies(self, x: Le, y: Le) -> bool:
        """Whether x holding makes y hold: y.poly <= x.poly."""
        if (x, y) not in self._implied:
            self._implied[x, y] = self.facts.nonneg(x.poly - y.poly)
        return self._implied[x, y]

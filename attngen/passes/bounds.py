"""The mask pass: from a boolean formula to loop bounds. Theory and proof: docs/bounds.md.

    mask_formula  the mask as written -> a formula of `p <= 0` in negation normal form
    clauses       -> or of ands, contradictory and implied parts removed
    isolate       one clause solved for the loop variable: an exact interval per row, or leftovers
    ranges        the clause over a tile: outer (nothing kept outside) and full (all kept inside)

Nothing is tabulated: a window or a length that changes costs no recompile.
"""

from __future__ import annotations

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.ir.attention import Attention
from attngen.ir.index import FALSE, TRUE, Formula, Poly, var
from attngen.ir.index_build import both, negate
from attngen.ir.maskplan import Direction, MaskPlan, Range, RowClause
from attngen.passes.clauses import Clause, Expansion
from attngen.passes.extremes import row_box, tile_box
from attngen.passes.facts import Facts, side_facts
from attngen.passes.isolate import solve
from attngen.passes.mask_formula import mask_formula
from attngen.passes.ranges import full_range, hull, merge, outer_range
from attngen.passes.scalars import divisors, lone_scalars
from attngen.passes.tile_test import tile_test
from attngen.passes.witness import never_empty

MOST_RANGES = 3  # per tile; more are replaced by their hull (outer) or dropped (full)
OTHER = {"q": "k", "k": "q"}


def analyse_mask(attention: Attention) -> MaskPlan:
    """The plan of a spec's mask; SpecError E201 for a mask that keeps nothing."""
    plan = analyse_formula(mask_formula(attention), same_length=attention.same_length)
    if plan.formula is FALSE:
        span = attention.spans.get(attention.mask) if attention.mask is not None else None
        help_text = "compare the two sides of each `and`; True keeps a key, False drops it"
        raise SpecError(
            Diagnostic("E201", "this mask keeps nothing", span, "never true", help_text)
        )
    return plan


def analyse_formula(formula: Formula, *, same_length: bool) -> MaskPlan:
    """The plan of a formula over q and k; `formula` of the plan is FALSE when nothing is kept."""
    analysis = Analysis(formula, same_length=same_length)
    forward, transposed = analysis.direction("k"), analysis.direction("q")
    may, must = tile_test(analysis.clauses, analysis.facts)
    return MaskPlan(
        analysis.formula,
        forward,
        transposed,
        may,
        must,
        never_empty(analysis.formula, *analysis.lengths, analysis.facts_without("k")),
        analysis.needs,
        analysis.notes(forward, transposed),
        lone_scalars(analysis.formula),
    )


class Analysis:
    """One mask under analysis: its clauses and what is known."""

    def __init__(self, formula: Formula, *, same_length: bool) -> None:
        kv_len = var("kv_len")
        self.lengths = (kv_len if same_length else var("q_len"), kv_len)
        self.length = dict(zip("qk", self.lengths, strict=True))
        self.needs: tuple[Poly, ...] = ()
        self.needs = divisors(formula, self.facts_without(""))
        self.facts = self.facts_without("")
        expansion = Expansion(self.facts)
        self.clauses: list[Clause] = expansion.clauses(formula)
        self.formula = formula
        if not self.clauses:
            self.formula = FALSE
        elif not expansion.clauses(negate(formula)):
            self.formula, self.clauses = TRUE, [Clause()]

    def facts_without(self, loop: str) -> Facts:
        """Facts while `loop` is being bounded: its side may be empty, so nothing is known of it."""
        sides = [f for x in "qk" if x != loop for f in side_facts(x, self.length[x])]
        return Facts((*sides, *self.lengths), self.needs)

    def direction(self, loop: str) -> Direction:
        """Ranges of the loop variable for a tile, and for one row, of the other side."""
        fixed, facts = OTHER[loop], self.facts_without(loop)
        solved = [solve(clause, loop, self.length[loop], facts) for clause in self.clauses]
        tile, row = tile_box(fixed), row_box(fixed)
        outer = merge((outer_range(s, fixed, tile, facts) for s in solved), facts)
        full = merge((r for s in solved if (r := full_range(s, tile, facts))), facts)
        return Direction(
            loop,
            _capped(outer, facts),
            tuple(full[:MOST_RANGES]),
            tuple(merge((outer_range(s, fixed, row, facts) for s in solved), facts)),
            tuple(dict.fromkeys(f for s in solved for f in s.leftovers)),
            len(outer) if len(outer) > MOST_RANGES else 0,
            tuple(
                RowClause(
                    facts.extreme("max", *s.lo),
                    facts.extreme("min", *s.hi),
                    both(*s.guards),
                    both(*s.leftovers),
                )
                for s in solved
            ),
        )

    def notes(self, *directions: Direction) -> tuple[str, ...]:
        """What was given up, in words."""
        side = {"k": "keys", "q": "queries"}
        out = [
            f"{d.hulled} ranges of {side[d.loop]}, kept as {MOST_RANGES}"
            for d in directions
            if d.hulled
        ]
        if any(clause.loose for clause in self.clauses):
            out.append("part of the mask is tested per element: too large, or not between integers")
        return tuple(out)


def _capped(ranges: list[Range], facts: Facts) -> tuple[Range, ...]:
    out = list(ranges)
    while len(out) > MOST_RANGES:
        last = out.pop()
        out[-1] = hull(out[-1], last, facts)
    return tuple(out)

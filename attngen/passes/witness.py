"""When does every row keep a key? Try a witness column per row and ask what could go wrong.

For each witness w(q) in q_pos, q, 0, kv_len - 1: `not (0 <= w < kv_len and mask(q, w))` is
expanded; each clause that stays must have a part that is false for all q, which leaves a condition
on scalars: window -> `0 < window`, causal with unequal lengths -> `q_len <= kv_len`, documents ->
True.
"""

from __future__ import annotations

from attngen.ir.index import (
    Element,
    FirstGe,
    Formula,
    IndexNode,
    Poly,
    TileExtreme,
    number,
    var,
    walk,
)
from attngen.ir.index_build import both, either, le, lt, negate, substitute
from attngen.passes.clauses import Clause, Expansion
from attngen.passes.extremes import Extremes
from attngen.passes.facts import Facts


def never_empty(formula: Formula, q_len: Poly, kv_len: Poly, facts: Facts) -> Formula:
    """A condition on scalars under which each row keeps a key; FALSE where none was found.

    facts: of the query side only, for the keys may be none.
    """
    q, expansion = var("q"), Expansion(facts)
    every_row = Extremes(facts, {"q": (number(0), q_len - 1)})
    # a witness may point outside a row vector, so only loads of whole heads and batches are read
    steady = frozenset(node for node in walk(formula) if _steady(node))
    ways = []
    for w in dict.fromkeys((q + kv_len - q_len, q, number(0), kv_len - 1)):
        held = both(le(number(0), w), lt(w, kv_len), substitute(formula, "k", w))
        failing = expansion.clauses(negate(held))
        ways.append(both(*(_impossible(clause, every_row, steady) for clause in failing)))
    tidy = [c for c in expansion.clauses(either(*ways)) if not c.loose]
    # any of them is enough: the shortest reads best (`q_len <= kv_len`, not `q_len <= 1 and ..`)
    shortest = min((len(c.conditions) for c in tidy), default=0)
    return either(*(c.formula for c in tidy if len(c.conditions) == shortest))


def _impossible(clause: Clause, every_row: Extremes, steady: frozenset[IndexNode]) -> Formula:
    """A condition on scalars under which some part of the clause is false on every row."""
    least = (every_row.least(condition.poly) for condition in clause.conditions)
    return either(*(le(number(1), p) for p in least if p is not None and _readable(p, steady)))


def _steady(node: IndexNode) -> bool:
    return isinstance(node, Element) and not node.names & {"q", "k"}


def _readable(p: Poly, steady: frozenset[IndexNode]) -> bool:
    reads = (Element, FirstGe, TileExtreme)
    return not p.names & {"q", "k"} and all(
        node in steady for node in walk(p) if isinstance(node, reads)
    )

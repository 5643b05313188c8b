"""A mask plan in words, for `explain`: what a row keeps, what a tile visits, what is left."""

from __future__ import annotations

from collections.abc import Iterable

from attngen.ir.index import (
    FALSE,
    TRUE,
    All,
    AnyOf,
    Element,
    Extreme,
    FirstGe,
    Formula,
    Modulo,
    Opaque,
    Poly,
    number,
    var,
    walk,
)
from attngen.ir.maskplan import Direction, MaskPlan, Range, RowClause

Q, Q_LEN, KV_LEN = var("q"), var("q_len"), var("kv_len")
POSITIONS = (Q, Q + KV_LEN - Q_LEN)  # of the query among the keys; the first when lengths are equal


def describe(plan: MaskPlan) -> list[str]:
    """Lines of text: the kind of mask, bounds as formulas, leftovers with a reason, conditions."""
    if plan.formula is TRUE:
        return ["every query keeps every key"]
    return [
        *_rows(plan.forward.clauses),
        *_direction(plan.forward, "keys of a query tile [q0, q1)"),
        *_direction(plan.transposed, "queries of a key tile [k0, k1)"),
        *_leftovers(plan.forward),
        _emptiness(plan.never_empty),
        *(f"needs {p} >= 1 at the call" for p in plan.needs),
        *plan.notes,
    ]


def ranges_text(ranges: Iterable[Range]) -> str:
    """A union of ranges: `[0, min(4, q1)) u [max(0, q0 - window + 1), q1)`."""
    return " u ".join(f"[{r.lo}, {r.hi})" for r in ranges) or "none"


def _rows(clauses: tuple[RowClause, ...]) -> list[str]:
    """One line per clause; a second clause adds keys."""
    lines = [clause_words(clause) for clause in clauses]
    return [lines[0], *(f"and also {line}" for line in lines[1:])]


def clause_words(clause: RowClause) -> str:
    """What one clause keeps for a query."""
    words = _shape(clause.lo, clause.hi)
    if clause.guard is not TRUE:
        words += f", if {_bare(clause.guard)}"
    if clause.rest is not TRUE:
        words += f", of these the ones with {_bare(clause.rest)}"
    return words


def _shape(lo: Poly, hi: Poly) -> str:
    everything, first = hi is KV_LEN, lo.constant == 0
    causal = any(hi is p + 1 for p in POSITIONS)
    if first and everything:
        return "every key"
    if first and causal:
        return "causal: keys up to the query itself"
    if first and not hi.names & {"q"}:
        return f"prefix: keys before `{_without_length(hi)}`"
    if causal and (width := _window(lo)) is not None:
        return f"sliding window of `{width}` keys ending at the query"
    return f"keys from {_start(lo)} to {_end(hi)}"


def _start(lo: Poly) -> str:
    term = lo.term
    if isinstance(term, FirstGe) and term.run is not None and term.run[0] == "run_start":
        return f"the start of {_run(term)}"
    if isinstance(term, Extreme) and term.kind == "max" and not any(p.constant for p in term.args):
        parts = [_start(p) for p in term.args if p.constant is None]
        return parts[0] if len(parts) == 1 else f"the later of {' and '.join(parts)}"
    return "the first" if lo.constant == 0 else f"`{lo}`"


def _end(hi: Poly) -> str:
    if hi is KV_LEN:
        return "the last"
    if any(hi is p + 1 for p in POSITIONS):
        return "the query itself"
    term = hi.term
    if isinstance(term, FirstGe) and term.run is not None and term.run[0] == "run_end":
        return f"the end of {_run(term)}"
    if isinstance(term, Extreme) and term.kind == "min":
        parts = [_end(p) for p in term.args if p is not KV_LEN]
        return parts[0] if len(parts) == 1 else f"the earlier of {' and '.join(parts)}"
    return f"`{hi - 1}`"


def _run(term: FirstGe) -> str:
    """`doc` holds one number per document, so a run of equal elements is a document."""
    position = term.run[1] if term.run is not None else Q
    whose = "the query's" if position in POSITIONS else f"`{position}`'s"
    name = term.row.tensor
    return f"{whose} document" if name.startswith("doc") else f"{whose} run in {name}"


def _window(lo: Poly) -> Poly | None:
    """The width w of lo = max(0, position - w + 1)."""
    if not (isinstance(lo.term, Extreme) and lo.term.kind == "max" and len(lo.term.args) == 2):
        return None
    zero, start = lo.term.args
    widths = [p - start + 1 for p in POSITIONS]
    plain = (w for w in widths if not w.names & {"q", "q_len", "kv_len"})
    return next(plain, None) if zero is number(0) else None


def _without_length(hi: Poly) -> str:
    """`min(kv_len, n)` reads `n`."""
    if isinstance(hi.term, Extreme) and hi.term.kind == "min":
        parts = [str(p) for p in hi.term.args if p is not KV_LEN]
        return parts[0] if len(parts) == 1 else str(hi)
    return str(hi)


def _direction(direction: Direction, name: str) -> list[str]:
    return [
        f"{name}: {ranges_text(direction.outer)}",
        f"  of these without a mask: {ranges_text(direction.full)}",
    ]


def _leftovers(direction: Direction) -> list[str]:
    rests = dict.fromkeys(c.rest for c in direction.clauses if c.rest is not TRUE)
    return [
        f"tested per element: {_bare(rest)} ({_reason(rest, direction.loop)})" for rest in rests
    ]


def _emptiness(condition: Formula) -> str:
    if condition is TRUE:
        return "every query keeps a key"
    if condition is FALSE:
        return "a query may keep no key"
    return f"every query keeps a key if {_bare(condition)}"


def _reason(f: Formula, loop: str) -> str:
    """Why no bound could be derived from a leftover."""
    nodes = list(walk(f))
    if any(isinstance(node, Opaque) for node in nodes):
        return "not a comparison of integers"
    unsorted = [n for n in nodes if isinstance(n, Element) and loop in n.names and not n.sorted]
    if flags := [n.tensor for n in unsorted if n.bits]:
        return f"{flags[0]} holds a flag per element"
    if unsorted:
        return f"{unsorted[0].tensor} is not declared sorted"
    if any(isinstance(node, Modulo) and loop in node.names for node in nodes):
        return "a remainder repeats"
    return "the key cannot be isolated"


def _bare(f: Formula) -> str:
    """Without the outer parentheses."""
    text = str(f)
    return text[1:-1] if text.startswith("(") and isinstance(f, All | AnyOf) else text

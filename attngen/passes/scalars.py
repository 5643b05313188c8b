"""Run-time scalars: those a launch must check, and those it may clamp.

A divisor (`k // stride`) must be >= 1: `stride` is checked at the call.

The others are scalars that only ever stand alone in a comparison: `window` in `q - k < window`.
2**31 - 1 is a usual "no window", and `k1 + window` would wrap in 32 bits. A scalar that stands
alone, with coefficient 1 or -1, beside positions, lengths and constants only can be clamped to
+-2**30 at the call: no comparison changes, for positions stay below 2**30.
"""

from __future__ import annotations

from collections.abc import Iterator

from attngen.ir.index import (
    Element,
    FloorDiv,
    Formula,
    IndexNode,
    Le,
    Modulo,
    Poly,
    Var,
    children,
    walk,
)
from attngen.ir.index_build import lift
from attngen.passes.facts import Facts

BUILTIN = frozenset(("q", "k", "q_len", "kv_len", "b", "h", "h_kv"))
MOST = 500  # sums looked at; a mask of more is left alone


def scalars(node: IndexNode) -> set[str]:
    """Run-time scalars in a formula."""
    return set(node.names - BUILTIN)


def divisors(formula: Formula, facts: Facts) -> tuple[Poly, ...]:
    """Divisors made of scalars only that are not proved to be >= 1, in the order they occur."""
    found = [node.den for node in walk(formula) if isinstance(node, FloorDiv | Modulo)]
    return tuple(
        den
        for den in dict.fromkeys(found)
        if not den.names & BUILTIN
        and not any(isinstance(node, Element) for node in walk(den))
        and facts.sign(den) == 0
    )


def lone_scalars(formula: Formula) -> tuple[str, ...]:
    """Scalars that stand alone wherever they occur, sorted."""
    mixed: set[str] = set()
    for count, p in enumerate(_sums(formula)):
        if count >= MOST:
            return ()
        mixed |= _mixed(p)
    return tuple(sorted(scalars(formula) - mixed))


def _sums(node: IndexNode) -> Iterator[Poly]:
    """The sums compared with zero once min, max and where have been moved out of them."""
    if not isinstance(node, Le):
        for child in children(node):
            yield from _sums(child)
        return
    lifted = lift(node.poly)
    if lifted is None:
        yield node.poly
        return
    head, args = lifted
    for p in args:
        yield from _sums(Le(p))
    for child in children(head):
        if not isinstance(child, Poly):
            yield from _sums(child)


def _mixed(p: Poly) -> set[str]:
    """Scalars of a sum that may not be clamped."""
    found = scalars(p)
    alone = [m for m, c in p.terms if len(m) == 1 and isinstance(m[0], Var) and abs(c) == 1]
    lone = {m[0].text for m in alone} & found
    inner = any(not isinstance(t, Var) and scalars(t) for m, _ in p.terms for t in m)
    reads = any(isinstance(node, Element) and not node.bits for node in walk(p))
    return found if len(found) > 1 or reads or found != lone or inner else set()

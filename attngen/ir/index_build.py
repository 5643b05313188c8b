"""Smart constructors of index expressions: they fold constants and keep the normal forms.

`(n * x + r) // n -> x + r // n`, `(n * x + r) % n -> r % n`, `max(max(a, b), c) -> max(a, b, c)`,
`abs(x) -> max(x, -x)`, `not p <= 0 -> 1 - p <= 0`; De Morgan above. All exact over the integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import gcd
from typing import assert_never, overload

from attngen.ir.index import (
    FALSE,
    TRUE,
    All,
    AnyOf,
    Element,
    Extreme,
    FirstGe,
    FloorDiv,
    Formula,
    Kind,
    Le,
    Modulo,
    Monomial,
    Opaque,
    Pick,
    Poly,
    Term,
    TileExtreme,
    Var,
    number,
    of,
    poly,
)

OPPOSITE: dict[Kind, Kind] = {"min": "max", "max": "min"}


def minimum(*args: Poly) -> Poly:
    """Least of the arguments."""
    return extreme("min", args)


def maximum(*args: Poly) -> Poly:
    """Greatest of the arguments."""
    return extreme("max", args)


def extreme(kind: Kind, args: Iterable[Poly]) -> Poly:
    """Least or greatest, flat, without duplicates, at most one constant (first)."""
    flat: list[Poly] = []
    for p in args:
        inner = p.term
        flat += inner.args if isinstance(inner, Extreme) and inner.kind == kind else [p]
    constants = [p.constant for p in flat if p.constant is not None]
    rest = list(dict.fromkeys(p for p in flat if p.constant is None))
    if constants:
        rest.insert(0, number(min(constants) if kind == "min" else max(constants)))
    return rest[0] if len(rest) == 1 else of(Extreme(kind, tuple(rest)))


def absolute(p: Poly) -> Poly:
    """abs(x) = max(x, -x); abs(abs(x)) = abs(x)."""
    inner = p.term
    if (
        isinstance(inner, Extreme)
        and inner.kind == "max"
        and any(-x in inner.args for x in inner.args)
    ):
        return p
    return maximum(p, -p)


def pick(condition: Formula, yes: Poly, no: Poly) -> Poly:
    """The value `yes if condition else no`."""
    if condition is TRUE or yes is no:
        return yes
    return no if condition is FALSE else of(Pick(condition, yes, no))


def lift(p: Poly) -> tuple[Extreme | Pick, tuple[Poly, ...]] | None:
    """Rewrite c * max(a, b) + rest -> max, (c * a + rest, c * b + rest); None for other sums."""
    for monomial, c in p.terms:
        if len(monomial) != 1:
            continue
        inner, rest = monomial[0], p - poly({monomial: c})
        if isinstance(inner, Pick):
            return inner, (inner.yes * c + rest, inner.no * c + rest)
        if isinstance(inner, Extreme):
            kind = inner.kind if c > 0 else OPPOSITE[inner.kind]
            return Extreme(kind, inner.args), tuple(x * c + rest for x in inner.args)
    return None


def floor_div(p: Poly, n: Poly) -> Poly:
    """Quotient rounded down; by a positive constant it is monotone: min, max and where come out."""
    if n.constant is not None:
        if n.constant < 0:
            return floor_div(-p, -n)
        if p.constant is not None:
            return number(p.constant // n.constant)
        if (lifted := lift(p)) is not None:
            return _relift(lifted, lambda x: floor_div(x, n))
    whole, rest = _multiples(p, n)
    if n.constant is not None and (extra := rest.get((), 0)):
        whole[()] = whole.get((), 0) + extra // n.constant
        rest[()] = extra % n.constant
    return poly(whole) + _quotient(poly(rest), n)


def modulo(p: Poly, n: Poly) -> Poly:
    """Remainder p % n, with the sign of n."""
    if n.constant is not None and n.constant < 0:
        return -modulo(-p, -n)
    rest = poly(_multiples(p, n)[1])
    if rest.constant is not None and n.constant is not None:
        return number(rest.constant % n.constant)
    return of(Modulo(rest, n)) if rest.terms else rest


def ceil_div(p: Poly, n: Poly) -> Poly:
    """Quotient p / n, rounded up."""
    return -floor_div(-p, n)


def le(a: Poly, b: Poly | int) -> Formula:
    """The comparison a <= b; g * x + c <= 0 becomes x + ceil(c / g) <= 0."""
    p = a - b
    if p.constant is not None:
        return TRUE if p.constant <= 0 else FALSE
    g = gcd(*(c for m, c in p.terms if m))
    return Le(p if g == 1 else poly({m: c // g if m else -(-c // g) for m, c in p.terms}))


def lt(a: Poly, b: Poly | int) -> Formula:
    """The comparison a < b."""
    return le(a + 1, b)


def equal(a: Poly, b: Poly) -> Formula:
    """The comparison a == b."""
    return both(le(a, b), le(b, a))


def both(*formulas: Formula) -> Formula:
    """All of them, flat, without duplicates."""
    flat = dict.fromkeys(x for f in formulas for x in (f.args if isinstance(f, All) else (f,)))
    if FALSE in flat:
        return FALSE
    return next(iter(flat)) if len(flat) == 1 else All(tuple(flat))


def either(*formulas: Formula) -> Formula:
    """At least one of them, flat, without duplicates."""
    flat = dict.fromkeys(x for f in formulas for x in (f.args if isinstance(f, AnyOf) else (f,)))
    if TRUE in flat:
        return TRUE
    return next(iter(flat)) if len(flat) == 1 else AnyOf(tuple(flat))


def negate(f: Formula) -> Formula:
    """The opposite: 1 - p <= 0 for p <= 0."""
    match f:
        case Le(poly=p):
            return le(1 - p, 0)
        case All(args=args):
            return either(*map(negate, args))
        case AnyOf(args=args):
            return both(*map(negate, args))
        case Opaque(expr=expr, negated=negated):
            return Opaque(expr, not negated)
        case _:
            assert_never(f)


@overload
def substitute(node: Poly, name: str, new: Poly) -> Poly: ...
@overload
def substitute(node: Formula, name: str, new: Poly) -> Formula: ...
def substitute(node: Poly | Formula, name: str, new: Poly) -> Poly | Formula:
    """Replace a variable; an opaque condition stays, and then means its value at the new place."""
    if name not in node.names:
        return node
    match node:
        case Poly(terms=terms):
            out = number(0)
            for monomial, c in terms:
                part = number(c)
                for term in monomial:
                    part = part * _in_term(term, name, new)
                out = out + part
            return out
        case Le(poly=p):
            return le(substitute(p, name, new), 0)
        case All(args=args):
            return both(*(substitute(f, name, new) for f in args))
        case AnyOf(args=args):
            return either(*(substitute(f, name, new) for f in args))
        case Opaque():
            return node
        case _:
            assert_never(node)


def _in_term(term: Term, name: str, new: Poly) -> Poly:
    def go(p: Poly) -> Poly:
        return substitute(p, name, new)

    def at(row: Element) -> Element:
        return Element(row.tensor, tuple(map(go, row.index)), row.length, row.bits)

    match term:
        case Var():
            return new if term.name == name else of(term)
        case Element():
            return of(at(term))
        case FloorDiv(num=num, den=den):
            return floor_div(go(num), go(den))
        case Modulo(num=num, den=den):
            return modulo(go(num), go(den))
        case Extreme(kind=kind, args=args):
            return extreme(kind, map(go, args))
        case Pick(condition=condition, yes=yes, no=no):
            return pick(substitute(condition, name, new), go(yes), go(no))
        case FirstGe(row=row, value=value, length=length):
            return of(FirstGe(at(row), go(value), go(length)))
        case TileExtreme(kind=kind, row=row, lo=lo, hi=hi):
            return of(TileExtreme(kind, at(row), go(lo), go(hi)))
        case _:
            assert_never(term)


def _relift(lifted: tuple[Extreme | Pick, tuple[Poly, ...]], then: Callable[[Poly], Poly]) -> Poly:
    head, args = lifted
    if isinstance(head, Pick):
        return pick(head.condition, *map(then, args))
    return extreme(head.kind, map(then, args))


def _multiples(p: Poly, n: Poly) -> tuple[dict[Monomial, int], dict[Monomial, int]]:
    """The terms of p that are multiples of n, divided by it, and the others."""
    whole: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    for monomial, c in p.terms:
        if n.constant and c % n.constant == 0:
            whole[monomial] = c // n.constant
        elif n.term is not None and n.term in monomial:
            left = list(monomial)
            left.remove(n.term)
            whole[tuple(left)] = c
        else:
            rest[monomial] = c
    return whole, rest


def _quotient(rest: Poly, n: Poly) -> Poly:
    if not rest.terms:
        return rest
    if rest.constant is not None and n.constant:
        return number(rest.constant // n.constant)
    return of(FloorDiv(rest, n))

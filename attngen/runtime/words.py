"""A mask in words."""

from __future__ import annotations

from typing import assert_never

from attngen.ir.index import TRUE, All, AnyOf, Element, Formula, Le, Opaque, Poly, Var, number, var


def describe_mask(formula: Formula) -> str:
    """One sentence: what a query sees."""
    if formula is TRUE:
        return "Every query sees every key."
    return f"A query sees {_words(formula)}."


def _words(formula: Formula) -> str:
    match formula:
        case Le(poly=p):
            return _comparison(p)
        case All(args=args):
            return ", of these only ".join(_conjuncts(args)) or "every key"
        case AnyOf(args=(Le(poly=p), Le(poly=r))) if p + r == number(2):
            return (
                f"keys with another {name}" if (name := _tensor(p - 1)) else f"keys where {formula}"
            )
        case AnyOf(args=args):
            return "; and also ".join(map(_words, args)) or "no key"
        case Opaque():
            return f"keys where {formula}"
        case _:
            assert_never(formula)


def _conjuncts(args: tuple[Formula, ...]) -> list[str]:
    """`a <= b` and `b <= a` are one equality."""
    out: list[str] = []
    left = list(args)
    while left:
        first = left.pop(0)
        twin = Le(-first.poly) if isinstance(first, Le) else None
        if isinstance(first, Le) and twin in left:
            left.remove(twin)
            out.append(_equality(first.poly))
        else:
            out.append(_words(first))
    return out


def _equality(p: Poly) -> str:
    if name := _tensor(p):
        return f"keys with the same {name}"
    return "keys where " + str(All((Le(p), Le(-p)))).removeprefix("(").removesuffix(")")


def _tensor(p: Poly) -> str | None:
    """The tensor, when the polynomial is the difference of two elements of one."""
    terms = [m[0] for m, _ in p.terms if len(m) == 1]
    names = {e.tensor for e in terms if isinstance(e, Element)}
    return names.pop() if len(terms) == len(p.terms) == 2 and len(names) == 1 else None


def _comparison(p: Poly) -> str:
    key, query = p.coefficient((Var("k"),)), p.coefficient((Var("q"),))
    rest = p - key * var("k") - query * var("q")
    if key == -query and query and rest.coefficient((Var("kv_len"),)) == query:
        rest = rest - query * (var("kv_len") - var("q_len"))  # positions count from the end
    if "q" in rest.names or "k" in rest.names:
        return f"keys where {Le(p)}"
    match key, query:
        case (1, -1):
            return _before(-rest)
        case (-1, 1):
            return _behind(-rest)
        case (1, 0):
            return f"keys with {Le(var('kv_idx') + rest)}"
        case (-1, 0):
            return f"keys with {Le(rest - var('kv_idx'))}"
        case _:
            return f"keys where {Le(p)}"


def _before(most: Poly) -> str:
    """Keys k <= q + most."""
    match most.constant:
        case None:
            return f"keys up to {most} after its own position"
        case 0:
            return "keys at or before its own position (causal)"
        case -1:
            return "keys before its own position"
        case int(n) if n < 0:
            return f"keys at least {-n} before its own position"
        case n:
            return f"keys up to {n} after its own position"


def _behind(most: Poly) -> str:
    """Keys q - k <= most."""
    match most.constant:
        case None:
            return f"keys no more than {most} behind it"
        case 0:
            return "keys at or after its own position"
        case int(n) if n < 0:
            return f"keys at least {-n} after its own position"
        case n:
            return f"keys no more than {n} behind it (a window of {n + 1})"

"""Value-preserving rewrites of expressions, as a table of rules.

The constructors of `attngen.ir.build` already keep `x + 0 -> x`, `x * 1 -> x`, `x * 0 -> 0` (of
numbers), `c * (d * x) -> (c d) * x`, `not not x -> x`, `where(c, x, x) -> x` and computed
constants; rebuilding applies them, and the rules below add what they do not see. Left out on
purpose: `exp(log(x)) -> x` (differs for x < 0), `x - x -> 0` and `x / x -> 1` of floats (inf, NaN,
0), and any reordering of a sum of floats: rounding is the user's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from attngen.ir import build
from attngen.ir.attention import Attention
from attngen.ir.build import ZERO, is_number, number, terms
from attngen.ir.expr import Binary, Cast, Const, Expr, Unary, Where
from attngen.ir.walk import rewrite

Fact = TypeVar("Fact")


@dataclass(frozen=True)
class Rule:
    """One rewrite: `text` states it, `apply` returns its argument where it does not fit."""

    text: str
    apply: Callable[[Expr], Expr]


def simplify(e: Expr, memo: dict[Expr, Expr] | None = None) -> Expr:
    """`e` with every rule applied bottom-up until nothing changes; share `memo` between calls."""
    return rewrite(e, _fixpoint, memo)


def simplify_attention(attention: Attention) -> Attention:
    """The spec with simplified mask and outputs; names and spans follow their expressions."""
    memo: dict[Expr, Expr] = {}
    mask = None if attention.mask is None else simplify(attention.mask, memo)
    outputs = tuple((name, simplify(e, memo)) for name, e in attention.outputs)
    return replace(
        attention,
        mask=None if isinstance(mask, Const) and mask.value is True else mask,
        outputs=outputs,
        names=moved(attention.names, memo),
        spans=moved(attention.spans, memo),
    )


def moved(facts: Mapping[Expr, Fact], memo: Mapping[Expr, Expr]) -> dict[Expr, Fact]:
    """Facts about expressions as facts about what they became; the first wins."""
    out: dict[Expr, Fact] = {}
    for e, fact in facts.items():
        out.setdefault(memo.get(e, e), fact)
    return out


def _fixpoint(e: Expr) -> Expr:
    for rule in RULES:
        after = rule.apply(e)
        if after is not e:
            return simplify(after)  # every rule makes the expression smaller
    return e


def _same_arguments(e: Expr) -> Expr:
    match e:
        case Binary(op="max" | "min", a=a, b=b) if a is b:
            return a
    return e


def _idempotent(e: Expr) -> Expr:
    match e:
        case Unary(op="abs" | "relu" | "floor" as outer, x=Unary(op=inner)) if outer == inner:
            return e.x
        case Cast(x=Cast(dtype=inner) as x, dtype=outer) if outer == inner:
            return x
    return e


def _floor_of_int(e: Expr) -> Expr:
    match e:
        case Unary(op="floor", x=x) if x.kind == "int":
            return x
    return e


def _even_of_negative(e: Expr) -> Expr:
    match e:
        case Unary(op="abs", x=Binary(op="mul", a=a, b=b)) if is_number(a, -1):
            return build.unary("abs", b)
    return e


def _log_of_exp(e: Expr) -> Expr:
    match e:
        case Unary(op="log", x=Unary(op="exp", x=x)) | Unary(op="log2", x=Unary(op="exp2", x=x)):
            return x
    return e


def _where_of_not(e: Expr) -> Expr:
    match e:
        case Where(condition=Unary(op="not", x=c), a=a, b=b):
            return build.where(c, b, a)
    return e


def _nested_where(e: Expr) -> Expr:
    match e:
        case Where(condition=c, a=a, b=b):
            inner_a = a.a if isinstance(a, Where) and a.condition is c else a
            inner_b = b.b if isinstance(b, Where) and b.condition is c else b
            return build.where(c, inner_a, inner_b)
    return e


def _where_of_bools(e: Expr) -> Expr:
    match e:
        case Where(condition=c, a=Const(value=True), b=Const(value=False)):
            return c
        case Where(condition=c, a=Const(value=False), b=Const(value=True)):
            return build.unary("not", c)
    return e


def _absorbed_logic(e: Expr) -> Expr:
    match e:
        case Binary(op="and" | "or" as op, a=a, b=b):
            other = "or" if op == "and" else "and"
            for x, y in ((a, b), (b, a)):
                if isinstance(y, Binary) and y.op == other and x in (y.a, y.b):
                    return x
    return e


def _not_of_int_comparison(e: Expr) -> Expr:
    opposite = {"lt": "ge", "le": "gt", "eq": "ne", "ne": "eq"}
    match e:
        case Unary(op="not", x=Binary(op=op, a=a, b=b)) if op in opposite:
            if a.kind != "float" and b.kind != "float":
                return build.binary(opposite[op], a, b)
    return e


def _whole_division(e: Expr) -> Expr:
    match e:
        case Binary(op="floordiv", a=a, b=b) if is_number(b, 1) and a.kind == "int":
            return a
        case Binary(op="mod", a=a, b=b) if is_number(b, 1) and a.kind == "int":
            return ZERO
    return e


def _collected_ints(e: Expr) -> Expr:
    """Whole numbers do not round, so equal terms of a sum of them may be added up."""
    if not isinstance(e, Binary) or e.op != "add" or e.kind != "int":
        return e
    counts: dict[Expr, int] = {}
    parts = terms(e)
    for term in parts:
        count, body = _counted(term)
        counts[body] = counts.get(body, 0) + count
    if len(counts) == len(parts):
        return e
    return build.total(build.mul(Const(n), body) for body, n in counts.items())


def _counted(term: Expr) -> tuple[int, Expr]:
    value = number(term)
    if isinstance(value, int):
        return value, build.ONE
    if isinstance(term, Binary) and term.op == "mul" and isinstance(number(term.a), int):
        return int(number(term.a) or 0), term.b
    return 1, term


RULES: tuple[Rule, ...] = (
    Rule("max(x, x) -> x, min(x, x) -> x", _same_arguments),
    Rule("f(f(x)) -> f(x) for abs, relu, floor and equal casts", _idempotent),
    Rule("floor(i) -> i for a whole number", _floor_of_int),
    Rule("abs(-x) -> abs(x)", _even_of_negative),
    Rule("log(exp(x)) -> x", _log_of_exp),
    Rule("where(not c, x, y) -> where(c, y, x)", _where_of_not),
    Rule("where(c, where(c, x, y), z) -> where(c, x, z), also on the right", _nested_where),
    Rule("where(c, true, false) -> c", _where_of_bools),
    Rule("a and (a or b) -> a, a or (a and b) -> a", _absorbed_logic),
    Rule("not i < j -> i >= j for whole numbers", _not_of_int_comparison),
    Rule("i // 1 -> i, i % 1 -> 0 for a whole number", _whole_division),
    Rule("i + j - i -> j, i + i -> 2 * i for whole numbers", _collected_ints),
)

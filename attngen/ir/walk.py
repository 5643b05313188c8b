"""Walking and rewriting expressions. Nodes are shared, so each is visited once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import assert_never

from attngen.ir import build
from attngen.ir.expr import (
    Binary,
    Cast,
    Const,
    Dot,
    Expr,
    Hot,
    Index,
    Known,
    Load,
    LogSumExp,
    MatMul,
    Outer,
    Recomputed,
    Reduced,
    Row,
    Size,
    Softmax,
    State,
    Sum,
    Top,
    Unary,
    Uniform,
    Where,
    children,
)


def walk(*roots: Expr) -> Iterator[Expr]:
    """Every node below the roots once, arguments before users, in a deterministic order."""
    seen: set[Expr] = set()
    stack: list[tuple[Expr, bool]] = [(e, False) for e in reversed(roots)]
    while stack:
        e, ready = stack.pop()
        if ready:
            yield e
        elif e not in seen:
            seen.add(e)
            stack.append((e, True))
            stack.extend((c, False) for c in reversed(children(e)) if c not in seen)


def rebuild(e: Expr, args: tuple[Expr, ...]) -> Expr:
    """The same node over new arguments, through the smart constructors."""
    if args == children(e):
        return e
    match e:
        case Const() | Size() | Index() | Row() | State() | Known():
            return e
        case Load(tensor=tensor, element=element):
            return Load(tensor, args, element)
        case Unary(op=op):
            return build.unary(op, args[0])
        case Binary(op=op):
            return build.binary(op, args[0], args[1])
        case Where():
            return build.where(*args)
        case Cast(dtype=dtype):
            return Cast(args[0], dtype)
        case Dot():
            return Dot(*args)
        case Uniform():
            return Uniform(*args)
        case Softmax():
            return Softmax(args[0], args[1] if len(args) > 1 else None)
        case Sum():
            return Sum(*args)
        case LogSumExp():
            return LogSumExp(args[0], args[1] if len(args) > 1 else None)
        case Top(count=count, part=part):
            return Top(args[0], count, part)
        case Reduced(what=what, index=index, width=width):
            return Reduced(what, index, args, width)
        case Recomputed(index=number):
            return Recomputed(number, *args)
        case Hot():
            return Hot(*args)
        case Outer():
            return Outer(*args)
        case MatMul():
            return MatMul(*args)
        case _:
            assert_never(e)


def rewrite(e: Expr, rule: Callable[[Expr], Expr], memo: dict[Expr, Expr] | None = None) -> Expr:
    """Bottom-up: every node is rebuilt over rewritten arguments, then passed through `rule`.

    Share `memo` between calls with one rule to visit shared nodes once.
    """
    memo = {} if memo is None else memo
    for node in walk(e):
        if node not in memo:
            memo[node] = rule(rebuild(node, tuple(memo[c] for c in children(node))))
    return memo[e]


def substitute(e: Expr, table: Mapping[Expr, Expr]) -> Expr:
    """Replace nodes; a replaced node's arguments are not visited."""
    memo: dict[Expr, Expr] = dict(table)

    def go(x: Expr) -> Expr:
        if x not in memo:
            memo[x] = rebuild(x, tuple(go(c) for c in children(x)))
        return memo[x]

    return go(e)

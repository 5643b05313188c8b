"""The value of an index expression: exact integers, floor division, no evaluation of text."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, TypeAlias, assert_never, overload

from attngen.ir.expr import Expr
from attngen.ir.index import (
    All,
    AnyOf,
    Element,
    Extreme,
    FirstGe,
    FloorDiv,
    Formula,
    Le,
    Modulo,
    Opaque,
    Pick,
    Poly,
    Term,
    TileExtreme,
    Var,
)

# variables are ints; a tensor is nested sequences (or an array), or a function of its indices
Env: TypeAlias = Mapping[str, Any]
OpaqueRule: TypeAlias = Callable[[Expr, Env], bool]


@overload
def evaluate(node: Poly, env: Env, opaque: OpaqueRule | None = None) -> int: ...
@overload
def evaluate(node: Formula, env: Env, opaque: OpaqueRule | None = None) -> bool: ...
def evaluate(node: Poly | Formula, env: Env, opaque: OpaqueRule | None = None) -> int | bool:
    """The value of a polynomial or formula; `and` and `or` stop early, as in the kernel.

    opaque: gives the value of conditions that are not integer comparisons. Raises IndexError for a
    read outside a tensor (negative indices too), KeyError for a missing name, ValueError for an
    opaque condition without a rule.
    """
    return _Evaluation(env, opaque).value(node)


class _Evaluation:
    def __init__(self, env: Env, opaque: OpaqueRule | None) -> None:
        self.env = env
        self.opaque = opaque

    def value(self, node: Poly | Formula) -> int | bool:
        return self.poly(node) if isinstance(node, Poly) else self.holds(node)

    def holds(self, f: Formula) -> bool:
        match f:
            case Le(poly=p):
                return self.poly(p) <= 0
            case All(args=args):
                return all(map(self.holds, args))
            case AnyOf(args=args):
                return any(map(self.holds, args))
            case Opaque(expr=expr, negated=negated):
                if self.opaque is None:
                    raise ValueError(f"`{f}` has no value here")
                return self.opaque(expr, self.env) != negated
            case _:
                assert_never(f)

    def poly(self, p: Poly) -> int:
        total = 0
        for monomial, c in p.terms:
            total += c * prod(map(self.term, monomial))
        return total

    def term(self, term: Term) -> int:
        match term:
            case Var(name=name):
                return int(self.env[name])
            case Element(tensor=tensor, index=index):
                return self.read(tensor, [self.poly(i) for i in index])
            case FloorDiv(num=num, den=den):
                return self.poly(num) // self.poly(den)
            case Modulo(num=num, den=den):
                return self.poly(num) % self.poly(den)
            case Extreme(kind=kind, args=args):
                return (min if kind == "min" else max)(map(self.poly, args))
            case Pick(condition=condition, yes=yes, no=no):
                return self.poly(yes if self.holds(condition) else no)
            case FirstGe(row=row, value=value, length=length):
                positions = range(self.poly(length))
                return bisect_left(positions, self.poly(value), key=self.reader(row))
            case TileExtreme(kind=kind, row=row, lo=lo, hi=hi):
                span = range(self.poly(lo), self.poly(hi) + 1)
                return (min if kind == "min" else max)(map(self.reader(row), span))
            case _:
                assert_never(term)

    def reader(self, row: Element) -> Callable[[int], int]:
        """Elements of the row by position."""
        lead = [self.poly(i) for i in row.index[:-1]]
        return lambda position: self.read(row.tensor, [*lead, position])

    def read(self, tensor: str, index: Sequence[int]) -> int:
        data = self.env[tensor]
        if callable(data):
            return int(data(*index))
        for i in index:
            if not 0 <= i < len(data):
                raise IndexError(f"{tensor}{list(index)} is outside the tensor")
            data = data[i]
        return int(data)

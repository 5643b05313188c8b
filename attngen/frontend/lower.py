"""Expressions: syntax tree to IR, with the rules of `check` on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

from attngen.frontend import calls, check
from attngen.frontend.mistake import wrong
from attngen.frontend.reads import element
from attngen.frontend.scope import Scope
from attngen.ir import build
from attngen.ir.expr import Expr, children
from attngen.ir.walk import walk
from attngen.syntax import ast
from attngen.syntax.words import nearest

DEEPEST, LARGEST = 100, 20_000  # of an expression with the names in it written out


@dataclass
class Lowering:
    """Lowers the expressions of one spec.

    home: "sparsity", "ranking" or "keep" while inside one; weights: (depth, size) of each node.
    """

    scope: Scope
    home: str = ""
    weights: dict[Expr, tuple[int, int]] = field(default_factory=dict)

    def statement(self, e: ast.Expression) -> Expr:
        """The value of a whole statement, kept small enough for every later pass."""
        value = self.expression(e)
        for node in walk(value):
            inside = [self.weights[c] for c in children(node)]
            depth = 1 + max((d for d, _ in inside), default=0)
            self.weights[node] = depth, 1 + sum(size for _, size in inside)
            if depth > DEEPEST or self.weights[node][1] > LARGEST:
                raise wrong(
                    "E124",
                    "the expression is too large with its names written out:"
                    f" at most {LARGEST:,} operations, {DEEPEST} levels deep",
                    e.span,
                    "grows past the limit here",
                    "split the spec, or use `**` and functions for repeated terms",
                )
        return value

    def expression(self, e: ast.Expression) -> Expr:
        """The value of an expression; remembers where it stands."""
        value = self._expression(e)
        if children(value):
            self.scope.spans.setdefault(value, e.span)
        return value

    def _expression(self, e: ast.Expression) -> Expr:
        match e:
            case ast.Number(value=value):
                return build.const(value)
            case ast.Name():
                return self.scope.read(e)
            case ast.Element():
                return self._element(e)
            case ast.Unary():
                return self._unary(e)
            case ast.Binary(op=op, a=a, b=b):
                left, right = self.expression(a), self.expression(b)
                return check.binary(op, left, right, (a.span, b.span), e.span)
            case ast.Call():
                return calls.call(self, e)
            case ast.Pair():
                raise wrong(
                    "E105",
                    "found a pair, expected one value",
                    e.span,
                    "a pair is a block size",
                    "remove the comma",
                )
            case _:
                assert_never(e)

    def _unary(self, e: ast.Unary) -> Expr:
        x = self.expression(e.x)
        if e.op == "not":
            check.boolean(x, e.x.span, "after `not`")
            return build.unary("not", x)
        check.number(x, e.x.span, "after `-`")
        return check.fits(build.neg(x), e.span)

    def _element(self, e: ast.Element) -> Expr:
        declared = self.scope.declared
        if e.tensor.text not in declared.tensors:
            self.scope.read(ast.Name(e.tensor.text, e.tensor.span))  # raises if it is undefined
            near = nearest(e.tensor.text, declared.tensors)
            raise wrong(
                "E112",
                f"`{e.tensor.text}` is not a tensor and has no elements",
                e.span,
                "cannot be indexed",
                f"did you mean `{near}`?" if near else f"write `{e.tensor.text}`",
            )
        return element(declared, e, [self.expression(i) for i in e.index])

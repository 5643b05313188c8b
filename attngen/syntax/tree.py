"""From Lark's tree to ours, checking what a grammar cannot: names, ranges of numbers, depth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.source import Source, Span
from attngen.syntax import ast
from attngen.syntax.words import bad_name

if TYPE_CHECKING:
    from lark import Token, Tree

DEEPEST = 100
_LARGEST = 2**63 - 1


class TreeReader:
    """Turns one parsed text into a `Spec`; the first mistake raises SpecError."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.depth = 0

    def spec(self, tree: Tree[Token]) -> ast.Spec:
        """The whole file."""
        form, name, *items = tree.children
        return ast.Spec(
            str(form), self.word(name), tuple(self.item(i) for i in items), self.span(tree)
        )

    def span(self, node: Any) -> Span:
        """Where a token or tree stands."""
        if hasattr(node, "data"):
            return Span(self.source, node.meta.start_pos, node.meta.end_pos)
        return Span(self.source, node.start_pos, node.end_pos)

    def word(self, token: Any) -> ast.Word:
        """A name, checked."""
        mistake = bad_name(str(token), self.span(token))
        if mistake is not None:
            raise SpecError(mistake)
        return ast.Word(str(token), self.span(token))

    def item(self, tree: Any) -> ast.Item:
        """A declaration or statement, by the name of its rule."""
        readers: dict[str, Callable[[Any], ast.Item]] = {
            "stream": lambda t: self._tensors(t.children[0], t.children[1:], t),
            "input": lambda t: self._tensors("input", t.children, t),
            "state": lambda t: self._tensors("state", t.children, t),
            "view": self._view,
            "param": lambda t: ast.Param(
                self.word(t.children[0]), self.expression(t.children[1]), self.span(t)
            ),
            "bind": lambda t: ast.Bind(
                self._words(t.children[:-1]), self.expression(t.children[-1]), self.span(t)
            ),
            "result": lambda t: ast.Return(
                tuple(self.expression(c) for c in t.children), self.span(t)
            ),
            "target": lambda t: ast.Targets(self._words(t.children), self.span(t)),
            "schedule": lambda t: ast.Schedule(
                tuple(self._setting(c) for c in t.children), self.span(t)
            ),
        }
        return readers[tree.data](tree)

    def expression(self, node: Any) -> ast.Expression:
        """An expression; deeper than `DEEPEST` levels is E005."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise SpecError(too_deep(self.span(node)))
        try:
            return self._expression(node)
        finally:
            self.depth -= 1

    def _expression(self, node: Any) -> ast.Expression:
        span, inside = self.span(node), node.children
        match str(node.data):
            case "number":
                return ast.Number(self._number(inside[0]), span)
            case "name":
                return ast.Name(self.word(inside[0]).text, span)
            case "call":
                return self._call(node)
            case "element":
                index = tuple(self.expression(c) for c in inside[1:])
                return ast.Element(self.word(inside[0]), index, span)
            case "unary":
                return self._unary(node)
            case "group":
                return self.expression(inside[0])
            case "pair":
                return ast.Pair(self.expression(inside[0]), self.expression(inside[1]), span)
            case _:
                a, op, b = inside
                left, right = self.expression(a), self.expression(b)
                if op.type == "COMPARE" and _is_comparison(a):
                    raise SpecError(_chained(left, op, right, span))
                return ast.Binary(str(op), left, right, span)

    def _unary(self, node: Any) -> ast.Expression:
        op, x = node.children
        if op == "+":
            raise SpecError(
                Diagnostic(
                    "E001",
                    "found `+` without a left side",
                    self.span(op),
                    "expected an expression",
                    "leave the `+` out",
                )
            )
        return ast.Unary(str(op), self.expression(x), self.span(node))

    def _call(self, node: Any) -> ast.Call:
        function, *arguments = [c for c in node.children if c is not None]
        plain: list[ast.Expression] = []
        named: list[tuple[ast.Word, ast.Expression]] = []
        for argument in arguments:
            if argument.data == "named":
                name, value = argument.children
                named.append((_loose(self, name), self.expression(value)))
            elif named:
                raise SpecError(_plain_after_named(self.span(argument), named[-1][0]))
            else:
                plain.append(self.expression(argument))
        return ast.Call(_loose(self, function), tuple(plain), tuple(named), self.span(node))

    def _number(self, token: Any) -> bool | int | float:
        text = str(token)
        if token.type in ("TRUE", "FALSE"):
            return text == "true"
        if token.type == "REAL":
            value = float(text)
            if math.isinf(value):
                raise SpecError(_number_range(self.span(token), "the largest is about 1.8e308"))
            return value
        if len(text) > 19 or int(text) > _LARGEST:
            raise SpecError(_number_range(self.span(token), f"the largest whole is {_LARGEST}"))
        return int(text)

    def _words(self, tokens: Any) -> tuple[ast.Word, ...]:
        return tuple(self.word(t) for t in tokens)

    def _tensors(self, role: Any, rest: Any, tree: Any) -> ast.Tensors:
        names = [c for c in rest if not hasattr(c, "data")]
        trees = [c for c in rest if hasattr(c, "data")]
        facts = tuple(self._fact(f) for f in trees[1:])
        return ast.Tensors(
            str(role), self._words(names), self._type(trees[0]), facts, self.span(tree)
        )

    def _fact(self, tree: Any) -> ast.Fact:
        kind, *names = tree.children
        return ast.Fact(str(kind), self._words(names), self.span(tree))

    def _type(self, tree: Any) -> ast.Type:
        dtype, *axes = tree.children
        listed = axes[0].children if axes else []
        return ast.Type(
            ast.Word(str(dtype), self.span(dtype)),
            tuple(self._axis(a) for a in listed),
            self.span(tree),
        )

    def _axis(self, tree: Any) -> ast.Axis:
        head, *rest = [c for c in tree.children if c is not None]
        if head.type == "INT":
            return ast.Axis("", int(self._number(head)), self.span(tree))
        offset = int(self._number(rest[1])) if rest else 0
        sign = -1 if rest and rest[0] == "-" else 1
        return ast.Axis(self.word(head).text, sign * offset, self.span(tree))

    def _view(self, tree: Any) -> ast.View:
        role, name, parent, *bounds = tree.children
        start, stop = bounds[0].children if bounds else (None, None)
        return ast.View(
            str(role),
            self.word(name),
            self.word(parent),
            None if start is None else int(self._number(start)),
            None if stop is None else int(self._number(stop)),
            self.span(tree),
        )

    def _setting(self, tree: Any) -> ast.Setting:
        name, *rest = [c for c in tree.children if c is not None]
        token = rest[-1]
        value = str(token) if token.type == "NAME" else self._number(token)
        if rest[0].type == "SIGN" and rest[0] == "-" and not isinstance(value, str):
            value = -value
        return ast.Setting(_loose(self, name), value, self.span(tree))


def _loose(reader: TreeReader, token: Any) -> ast.Word:
    # the name of an argument, function or setting is looked up in a closed list, never declared
    return ast.Word(str(token), reader.span(token))


def _is_comparison(node: Any) -> bool:
    return bool(node.data == "binary" and node.children[1].type == "COMPARE")


def _chained(a: ast.Expression, op: Any, b: ast.Expression, span: Span) -> Diagnostic:
    middle = a.b.span.text if isinstance(a, ast.Binary) else a.span.text
    fix = " ".join(f"{a.span.text} and {middle} {op} {b.span.text}".split())
    return Diagnostic(
        "E008",
        "comparisons do not chain",
        span,
        "found a second comparison",
        f"write `{fix}`" if len(fix) < 90 else "join the two comparisons with `and`",
    )


def too_deep(span: Span) -> Diagnostic:
    """E005 at the place where the limit is passed."""
    return Diagnostic(
        "E005",
        f"the expression nests more than {DEEPEST} levels deep",
        Span(span.source, span.start, span.start + 1),
        "the first level too deep",
        "name a part of it: `part = ...`",
    )


def _number_range(span: Span, limit: str) -> Diagnostic:
    return Diagnostic(
        "E007", "the number is too large", span, limit, "write `inf` if you mean infinity"
    )


def _plain_after_named(span: Span, named: ast.Word) -> Diagnostic:
    return Diagnostic(
        "E014",
        f"an argument without a name follows `{named.text} = ...`",
        span,
        "expected a named argument",
        f"move it before `{named.text} = ...`",
    )

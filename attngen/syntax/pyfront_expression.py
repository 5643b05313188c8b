"""Expressions in Python syntax: to those of the language, with Python's numbers put in."""

from __future__ import annotations

import ast as python
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import FunctionType, ModuleType
from typing import Any, TypeAlias

from attngen.core.diagnostics import SpecError
from attngen.core.source import Span
from attngen.syntax import ast
from attngen.syntax.pyfront_source import Written, free_names, refused, written
from attngen.syntax.tree import DEEPEST, too_deep

Value: TypeAlias = bool | int | float
Constants: TypeAlias = dict[tuple[FunctionType, str], Value]
INLINED = 8  # helper functions inside each other
LIBRARIES = ("torch", "math", "numpy", "builtins", "attngen")
_BINARY: Mapping[type, str] = {
    python.Add: "+",
    python.Sub: "-",
    python.Mult: "*",
    python.Div: "/",
    python.FloorDiv: "//",
    python.Mod: "%",
    python.Pow: "**",
    python.MatMult: "@",
    python.BitAnd: "and",
    python.BitOr: "or",
}
_COMPARE: Mapping[type, str] = {
    python.Lt: "<",
    python.LtE: "<=",
    python.Gt: ">",
    python.GtE: ">=",
    python.Eq: "==",
    python.NotEq: "!=",
}


@dataclass
class Expressions:
    """Reads the expressions of one function.

    words: names that mean something in the language; given: parameters of a helper function and
    what they stand for; helpers: functions defined inside; constants: Python numbers met, by
    function and spelling.
    """

    text: Written
    words: frozenset[str] | set[str]
    given: Mapping[str, ast.Expression] = field(default_factory=dict)
    helpers: dict[str, python.FunctionDef] = field(default_factory=dict)
    constants: Constants = field(default_factory=dict)
    level: int = 0
    depth: int = 0

    def read(self, node: python.expr) -> ast.Expression:
        """An expression; deeper than the limit of the language is E005."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise SpecError(too_deep(self.text.span(node)))
        try:
            return self._read(node, self.text.span(node))
        finally:
            self.depth -= 1

    def whole(self, node: python.expr) -> int:
        """A whole number known now."""
        e = self.read(node)
        if isinstance(e, ast.Number) and type(e.value) is int:
            return e.value
        raise refused("E016", "expected a whole number", e.span, "not a constant", "write `512`")

    def _read(self, node: python.expr, span: Span) -> ast.Expression:
        match node:
            case python.Constant(value=bool() | int() | float() as value):
                return ast.Number(value, span)
            case python.Name(id=name):
                return self._name(name, span)
            case python.Attribute():
                return self._attribute(node, span)
            case python.BinOp(left=a, op=op, right=b) if type(op) in _BINARY:
                return ast.Binary(_BINARY[type(op)], self.read(a), self.read(b), span)
            case python.UnaryOp():
                return self._unary(node, span)
            case python.BoolOp() | python.Compare() | python.IfExp():
                return self._truth(node, span)
            case python.Call():
                return self._call(node, span)
            case python.Subscript(value=python.Name(id=name) as base, slice=index):
                parts = tuple(self.read(i) for i in _items(index))
                return ast.Element(ast.Word(name, self.text.span(base)), parts, span)
            case python.Tuple(elts=[a, b]):
                return ast.Pair(self.read(a), self.read(b), span)
        raise self._unsupported(node, span)

    def _unsupported(self, node: python.expr, span: Span) -> SpecError:
        kind = type(node).__name__
        known = {
            "Lambda": "lambda",
            "ListComp": "a list",
            "List": "a list",
            "Await": "await",
            "JoinedStr": "text",
            "Constant": "text",
            "NamedExpr": ":=",
            "Dict": "a dict",
            "BinOp": "this operator",
        }
        return refused(
            "E016",
            f"`{known.get(kind, kind.lower())}` is no expression of a formula",
            span,
            "expected numbers, names, operators and functions of the language",
            "compute it outside, and use the number here",
        )

    def _truth(
        self, node: python.BoolOp | python.Compare | python.IfExp, span: Span
    ) -> ast.Expression:
        match node:
            case python.BoolOp(op=op, values=values):
                word = "and" if isinstance(op, python.And) else "or"
                return _joined(word, [self.read(v) for v in values])
            case python.Compare():
                return self._compare(node, span)
            case python.IfExp(test=test, body=a, orelse=b):
                choice = (self.read(test), self.read(a), self.read(b))
                return ast.Call(ast.Word("where", span), choice, (), span)

    def _unary(self, node: python.UnaryOp, span: Span) -> ast.Expression:
        x = self.read(node.operand)
        if isinstance(node.op, python.UAdd):
            return x
        if isinstance(node.op, python.USub):
            return ast.Unary("-", x, span)
        return ast.Unary("not", x, span)

    def _compare(self, node: python.Compare, span: Span) -> ast.Expression:
        """`a <= b < c` is both comparisons, as in Python."""
        sides = [self.read(x) for x in (node.left, *node.comparators)]
        parts: list[ast.Expression] = []
        for a, op, b in zip(sides, node.ops, sides[1:], strict=False):
            if type(op) not in _COMPARE:
                raise refused(
                    "E016",
                    "`in` and `is` compare objects, not numbers",
                    span,
                    "no comparison of numbers",
                    "write `==`",
                )
            parts.append(ast.Binary(_COMPARE[type(op)], a, b, a.span.to(b.span)))
        return _joined("and", parts)

    def _name(self, name: str, span: Span) -> ast.Expression:
        if name in self.given:
            return self.given[name]
        if name not in self.words and name in self.text.names:
            return self._python(name, self.text.names[name], span)
        return ast.Name(name, span)

    def _python(self, spelled: str, value: Any, span: Span) -> ast.Expression:
        """A number of Python; NumPy's and torch's count if they are one number."""
        if not isinstance(value, bool | int | float):
            raise refused(
                "E018",
                f"`{spelled}` is a {type(value).__name__} of Python, not a number",
                span,
                "cannot stand in a formula",
                f'declare it: `{spelled.rpartition(".")[2]}: "f32"`, and pass it with each call',
            )
        self.constants[self.text.function, spelled] = value
        return ast.Number(value, span)

    def _attribute(self, node: python.Attribute, span: Span) -> ast.Expression:
        """`math.pi`, `config.window`: a number reached through Python objects."""
        spelled = span.text
        value, found = _reached(node, self.text.names)
        if not found:
            raise refused(
                "E018",
                f"`{spelled}` is not known here",
                span,
                "no such number",
                "bind it to a name outside of the function",
            )
        return self._python(spelled, value, span)

    # --- calls ------------------------------------------------------------------------------------
    def _call(self, node: python.Call, span: Span) -> ast.Expression:
        name = node.func
        word = name.id if isinstance(name, python.Name) else ""
        if isinstance(name, python.Attribute):  # torch.exp, math.exp: their last name
            word = name.attr
        if not word or any(k.arg is None for k in node.keywords):
            raise self._unsupported(node, span)
        args = tuple(self.read(a) for a in node.args)
        named = tuple((self._keyword(k), self.read(k.value)) for k in node.keywords)
        helper = self._helper(node)
        if helper is not None:
            return self._inline(helper, args, named, span)
        return ast.Call(ast.Word(word, self.text.span(name)), args, named, span)

    def _keyword(self, keyword: python.keyword) -> ast.Word:
        start = self.text.span(keyword).start
        name = str(keyword.arg)
        return ast.Word(name, Span(self.text.source, start, start + len(name)))

    def _helper(self, node: python.Call) -> Written | None:
        """The Python function that is called, unless it is one of the language or of a library."""
        name = node.func
        if isinstance(name, python.Name) and name.id in self.helpers:
            return replace(self.text, node=self.helpers[name.id])
        value, _ = _reached(name, self.text.names)
        if not isinstance(value, FunctionType):
            return None
        library = value.__module__.partition(".")[0] in LIBRARIES
        return None if library else written(value)

    def _inline(
        self,
        helper: Written,
        args: Sequence[ast.Expression],
        named: Sequence[tuple[ast.Word, ast.Expression]],
        span: Span,
    ) -> ast.Expression:
        node = helper.node
        parameters = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
        keywords = [*parameters, *(a.arg for a in node.args.kwonlyargs)]
        body = [s for s in node.body if not _is_text(s)]
        given = dict(zip(parameters, args, strict=False)) | {w.text: e for w, e in named}
        inner = Expressions(
            helper,
            self.words - set(given),
            {**(self.given if node.name in self.helpers else {}), **given},
            self.helpers if node.name in self.helpers else {},
            self.constants,
            self.level + 1,
            self.depth,
        )
        late = parameters[len(parameters) - len(node.args.defaults) :]
        for name, default in zip(late, node.args.defaults, strict=True):
            if name not in given:
                given[name] = inner.read(default)
        inner.given = {**inner.given, **given}
        fits = set(given) == set(keywords) and len(args) <= len(parameters)
        simple = len(body) == 1 and isinstance(body[0], python.Return) and body[0].value is not None
        if self.level >= INLINED or not fits or not simple:
            raise self._no_helper(node, span, fits, simple)
        assert isinstance(body[0], python.Return) and body[0].value is not None  # as `simple` says
        return inner.read(body[0].value)

    def _no_helper(
        self, node: python.FunctionDef, span: Span, fits: bool, simple: bool
    ) -> SpecError:
        why = (
            "takes other arguments"
            if not fits
            else "is more than one `return`"
            if not simple
            else "calls itself, or too many others"
        )
        return refused(
            "E018",
            f"the Python function `{node.name}` {why}, so it cannot be written out here",
            span,
            "expected a helper of one `return` with these arguments",
            "write its formula in its place, or bind its parts to names",
        )


def current(function: FunctionType, spelled: str) -> Any:
    """What a constant of a function is now."""
    return _reached(python.parse(spelled, mode="eval").body, free_names(function))[0]


def bound_names(body: Sequence[python.stmt]) -> set[str]:
    """Names that statements of a function bind."""
    names: set[str] = set()
    for statement in body:
        targets = statement.targets if isinstance(statement, python.Assign) else []
        if isinstance(statement, python.AnnAssign):
            targets = [statement.target]
        names |= {n.id for t in targets for n in python.walk(t) if isinstance(n, python.Name)}
    return names


def _reached(node: python.expr, names: Mapping[str, Any]) -> tuple[Any, bool]:
    """The Python object a dotted name stands for."""
    if isinstance(node, python.Name):
        return names.get(node.id), node.id in names
    if isinstance(node, python.Attribute):
        value, found = _reached(node.value, names)
        if found and (isinstance(value, ModuleType) or hasattr(value, node.attr)):
            return getattr(value, node.attr, None), hasattr(value, node.attr)
    return None, False


def _joined(word: str, parts: Sequence[ast.Expression]) -> ast.Expression:
    whole = parts[0]
    for part in parts[1:]:
        whole = ast.Binary(word, whole, part, whole.span.to(part.span))
    return whole


def _items(index: python.expr) -> Sequence[python.expr]:
    return index.elts if isinstance(index, python.Tuple) else [index]


def _is_text(statement: python.stmt) -> bool:
    return isinstance(statement, python.Expr) and isinstance(statement.value, python.Constant)

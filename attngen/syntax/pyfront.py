"""`@attention`: the source of a Python function as the syntax tree of a spec.

Parameters declare: `q: "query half[B, H, S, D]"`, `slope: "f32[H]"` (an input), `window: "i32"` (a
run-time scalar), `cap=50.0` (a compile-time parameter). The body is assignments and one `return`.
"""

from __future__ import annotations

import ast as python
from collections.abc import Iterator, Sequence
from types import FunctionType

from attngen.core.diagnostics import SpecError
from attngen.core.source import Span
from attngen.syntax import ast
from attngen.syntax.pyfront_expression import Constants, Expressions, bound_names
from attngen.syntax.pyfront_source import Written, refused, written
from attngen.syntax.pyfront_types import declaration
from attngen.syntax.words import bad_name

VIEWS = ("query", "key", "value")


def read_function(function: FunctionType, words: frozenset[str]) -> tuple[ast.Spec, Constants]:
    """The syntax tree of a function, and the Python constants it was read with.

    words: names of the language, which win over Python's. SpecError E015 to E018, and E009 to E013
    for names that cannot be.
    """
    text = written(function)
    return _Reader(text, words).spec()


class _Reader:
    """Reads one function; the first mistake raises SpecError."""

    def __init__(self, text: Written, words: frozenset[str]) -> None:
        self.text = text
        self.node = text.node
        declared = [*self._parameters()]
        axes = {a.name for d in declared if isinstance(d, ast.Tensors) for a in d.type.axes}
        names = {a.arg for a in self._arguments()} | bound_names(self.node.body)
        self.expressions = Expressions(text, words | axes | names)
        self.declared = declared

    def spec(self) -> tuple[ast.Spec, Constants]:
        """The whole function."""
        items: list[ast.Item] = [*self._params(), *self.declared]
        for statement in self.node.body:
            items += self._statement(statement)
        name = self._word(self.node.name, self.text.name_span())
        spec = ast.Spec("attention", name, tuple(items), self.text.span(self.node))
        return spec, self.expressions.constants

    def _word(self, name: str, span: Span) -> ast.Word:
        mistake = bad_name(name, span)
        if mistake is not None:
            raise SpecError(mistake)
        return ast.Word(name, span)

    # --- parameters -------------------------------------------------------------------------------
    def _arguments(self) -> list[python.arg]:
        given = self.node.args
        for extra in (given.vararg, given.kwarg):
            if extra is not None:
                raise refused(
                    "E017",
                    f"`*{extra.arg}` does not say which tensors arrive",
                    self.text.span(extra),
                    "expected named parameters",
                    'declare each: `q: "query half[B, H, S, D]"`',
                )
        return [*given.posonlyargs, *given.args, *given.kwonlyargs]

    def _defaults(self) -> dict[str, python.expr]:
        given = self.node.args
        plain = [*given.posonlyargs, *given.args]
        late = plain[len(plain) - len(given.defaults) :]
        pairs = [*zip(late, given.defaults, strict=True)]
        pairs += [
            (a, d)
            for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)
            if d is not None
        ]
        return {a.arg: d for a, d in pairs}

    def _parameters(self) -> Iterator[ast.Tensors]:
        """The declarations of tensors and run-time scalars."""
        defaults = self._defaults()
        for argument in self._arguments():
            if argument.arg in defaults:
                continue
            word = self._word(argument.arg, self.text.name_of(argument))
            if argument.annotation is None:
                raise refused(
                    "E017",
                    f"`{argument.arg}` has neither a type nor a default value",
                    word.span,
                    "expected a declaration",
                    f'write `{argument.arg}: "query half[B, H, S, D]"`, or `{argument.arg}=1.0`',
                )
            yield declaration(self.text, word, argument.annotation)

    def _params(self) -> Iterator[ast.Param]:
        """Defaults are compile-time parameters."""
        arguments = {a.arg: a for a in self._arguments()}
        for name, value in self._defaults().items():
            word = self._word(name, self.text.name_of(arguments[name]))
            span = word.span.to(self.text.span(value))
            yield ast.Param(word, self.expressions.read(value), span)

    # --- statements -------------------------------------------------------------------------------
    def _statement(self, node: python.stmt) -> Sequence[ast.Item]:
        match node:
            case python.Expr(value=python.Constant(value=str())) | python.Pass():
                return ()
            case python.FunctionDef():
                self.expressions.helpers[node.name] = node
                return ()
            case python.Assign(targets=[target], value=value):
                words = tuple(self._targets(target))
                return (ast.Bind(words, self.expressions.read(value), self.text.span(node)),)
            case python.AnnAssign():
                return (self._view(node),)
            case python.Return(value=value) if value is not None:
                return self._return(node, value)
        raise refused(
            "E016",
            f"`{_keyword(node)}` is no statement of a formula",
            self.text.first_line(node),
            "expected an assignment or `return`",
            "choose with `where(c, a, b)`; the keys are looped over by `sum`",
        )

    def _targets(self, target: python.expr) -> Iterator[ast.Word]:
        parts = target.elts if isinstance(target, python.Tuple) else [target]
        for part in parts:
            if not isinstance(part, python.Name):
                raise refused(
                    "E016",
                    "a value is given a name, nothing else can be assigned",
                    self.text.span(part),
                    "expected a name",
                    "write `name = ...`",
                )
            yield self._word(part.id, self.text.span(part))

    def _view(self, node: python.AnnAssign) -> ast.View:
        """`v: "value" = k[:512]`."""
        note, target, value = node.annotation, node.target, node.value
        role = note.value if isinstance(note, python.Constant) else None
        base = value.value if isinstance(value, python.Subscript) else value
        if (
            role not in VIEWS
            or not isinstance(target, python.Name)
            or not isinstance(base, python.Name)
        ):
            raise refused(
                "E016",
                "only views of a stream are declared in the body",
                self.text.span(node),
                "expected columns of a query, key or value",
                'write `v: "value" = k[:512]`',
            )
        start, stop = self._columns(value)
        parent = ast.Word(base.id, self.text.span(base))
        word = self._word(target.id, self.text.span(target))
        return ast.View(str(role), word, parent, start, stop, self.text.span(node))

    def _columns(self, value: python.expr | None) -> tuple[int | None, int | None]:
        if not isinstance(value, python.Subscript):
            return None, None
        cut = value.slice
        bounds = (cut.lower, cut.upper) if isinstance(cut, python.Slice) else (None, None)
        numbers = [None if b is None else self.expressions.whole(b) for b in bounds]
        if not isinstance(cut, python.Slice) or cut.step is not None:
            raise refused(
                "E016",
                "columns are a range `[start:stop]`",
                self.text.span(cut),
                "expected a range",
                "write `k[:512]`",
            )
        return numbers[0], numbers[1]

    def _return(self, node: python.Return, value: python.expr) -> Sequence[ast.Item]:
        """Results; the first one, if it has no name, is `out`."""
        parts = value.elts if isinstance(value, python.Tuple) else [value]
        values = [self.expressions.read(p) for p in parts]
        span = self.text.span(node)
        first = values[0]
        if isinstance(first, ast.Name) or "out" in bound_names(self.node.body):
            return (ast.Return(tuple(values), span),)
        out = ast.Word("out", first.span)
        named: ast.Expression = ast.Name("out", first.span)
        return ast.Bind((out,), first, span), ast.Return((named, *values[1:]), span)


def _keyword(node: python.stmt) -> str:
    words = {"AugAssign": "+=", "Expr": "an expression", "AsyncFor": "async for"}
    name = type(node).__name__
    return words.get(name, name.lower())

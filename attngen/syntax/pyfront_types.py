"""Annotations of parameters: `"query half[B, H, S, D]"` is a declaration of the language."""

from __future__ import annotations

import ast as python
import re
from collections.abc import Callable
from typing import TypeAlias

from attngen.core.diagnostics import SpecError
from attngen.core.source import Source, Span
from attngen.syntax import ast
from attngen.syntax.parse import parse
from attngen.syntax.pyfront_source import Written, refused

ROLES = ("query", "key", "value", "input")
_Move: TypeAlias = Callable[[Span], Span]
_ROLE = re.compile(rf"\s*({'|'.join(ROLES)})\b\s*:?")


def declaration(text: Written, word: ast.Word, annotation: python.expr) -> ast.Tensors:
    """The declaration an annotation holds; without a role it is an input.

    The type is read by the grammar of the language, in a spec made around it, and its spans are
    moved to where they stand in the Python file.
    """
    role, written, start = _parts(text, word, annotation)
    head = f"attention a {{ {role} x : "
    made = Source("annotation", f"{head}{written} }}")
    move = start - len(head)

    def moved(span: Span) -> Span:
        low, high = span.start + move, span.stop + move
        limit = text.span(annotation)
        return Span(text.source, max(low, limit.start), min(max(high, low + 1), limit.stop))

    try:
        item = parse(made).items[0]
    except SpecError as error:
        found = error.diagnostics[0]
        span = moved(found.span) if found.span else text.span(annotation)
        raise refused(found.code, found.message, span, found.label, found.help) from None
    if not isinstance(item, ast.Tensors):
        raise _expected(text, word, annotation)
    return ast.Tensors(
        role,
        (word,),
        _type(item.type, moved),
        tuple(_fact(f, moved) for f in item.facts),
        word.span.to(text.span(annotation)),
    )


def _parts(text: Written, word: ast.Word, annotation: python.expr) -> tuple[str, str, int]:
    """(role, type, offset of the type) of `"role type"` or `role("type")`."""
    role, inner = "input", annotation
    if isinstance(annotation, python.Call) and isinstance(annotation.func, python.Name):
        role, inner = annotation.func.id, annotation.args[0] if annotation.args else annotation
    if not isinstance(inner, python.Constant) or not isinstance(inner.value, str):
        raise _expected(text, word, annotation)
    written, start = inner.value, text.span(inner).start + 1
    match = _ROLE.match(written)
    if inner is annotation and match:
        role, written, start = match[1], written[match.end() :], start + match.end()
    if role not in ROLES:
        raise _expected(text, word, annotation)
    return role, written, start


def _expected(text: Written, word: ast.Word, annotation: python.expr) -> SpecError:
    return refused(
        "E017",
        f"the type of `{word.text}` is no declaration",
        text.span(annotation),
        "expected a role and a type in quotes",
        f'write `{word.text}: "query half[B, H, S, D]"`; roles are query, key, value, input',
    )


def _type(t: ast.Type, moved: _Move) -> ast.Type:
    axes = tuple(ast.Axis(a.name, a.offset, moved(a.span)) for a in t.axes)
    return ast.Type(_word(t.dtype, moved), axes, moved(t.span))


def _fact(fact: ast.Fact, moved: _Move) -> ast.Fact:
    names = tuple(_word(w, moved) for w in fact.names)
    return ast.Fact(fact.kind, names, moved(fact.span))


def _word(word: ast.Word, moved: _Move) -> ast.Word:
    return ast.Word(word.text, moved(word.span))

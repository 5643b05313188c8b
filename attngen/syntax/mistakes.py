"""What to say when the text does not follow the grammar."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from attngen.core.diagnostics import Diagnostic
from attngen.core.source import Source, Span
from attngen.syntax.words import KEYWORDS, bad_name, nearest

if TYPE_CHECKING:
    from lark import UnexpectedCharacters, UnexpectedToken

# What people type from other languages, and what it is called here.
_FOREIGN = {
    "&": "`and`",
    "|": "`or`",
    "!": "`not`",
    "^": "`**`",
    "~": "`not`",
    "?": "`where(condition, a, b)`",
    ";": "a line end",
    "'": "a name without quotes",
    '"': "a name without quotes",
    "`": "a name without quotes",
    "\\": "nothing: an expression may go on in the next line",
    "\N{MINUS SIGN}": "`-`",
    "\N{EN DASH}": "`-`",
    "\N{MULTIPLICATION SIGN}": "`*`",
    "\N{MIDDLE DOT}": "`*`",
    "\N{LESS-THAN OR EQUAL TO}": "`<=`",
    "\N{GREATER-THAN OR EQUAL TO}": "`>=`",
    "\N{NOT EQUAL TO}": "`!=`",
}
# Letters of other alphabets that look like ASCII letters (Unicode TR39, the common ones).
_LOOK_ALIKE = dict(
    zip(
        "асеорхуіјѕһԁԛԝАВЕКМНОРСТХІЅЈαοικνρυΑΒΕΖΗΙΚΜΝΟΡΤΥΧℎ",
        "aceopxyijshdqwABEKMHOPCTXISJaoiknpuABEZHIKMNOPTYXh",
        strict=True,
    )
)
_ITEMS = ("ROLE", "INPUT", "PARAM", "STATE", "RETURN", "TARGET", "SCHEDULE")
_SHOWN = {
    "FORM": "`attention` or `recurrence`",
    "NAME": "a name",
    "INT": "a whole number",
    "EQUAL": "`=`",
    "COLON": "`:`",
    "COMMA": "`,`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
}
_START_OF_EXPRESSION = {"NAME", "INT", "REAL", "LPAR", "NOT", "TRUE", "FALSE"}
_OPEN = {"(": ")", "[": "]", "{": "}"}
_ITEM_WORDS = [*"query key value input param state return target schedule".split()]


def character(source: Source, error: UnexpectedCharacters) -> Diagnostic:
    """A character the language does not have (E002), with the one that was probably meant."""
    at = error.pos_in_stream or 0
    found = source.text[at]
    name = unicodedata.name(found, "a character without a name")
    shown = f"`{found}`" if found.isascii() else f"`{found}` (U+{ord(found):04X}, {name})"
    meant = _FOREIGN.get(found) or _plain(found)
    return Diagnostic(
        "E002",
        f"the character {shown} is not part of the language",
        Span(source, at, at + 1),
        "found here",
        f"write {meant} instead" if meant else "leave it out; names use ASCII letters and digits",
    )


def _plain(found: str) -> str | None:
    letter = _LOOK_ALIKE.get(found) or unicodedata.normalize("NFKD", found)[0]
    return f"the ASCII `{letter}`" if letter.isascii() and letter.isprintable() else None


def token(source: Source, error: UnexpectedToken) -> Diagnostic:
    """A word where the grammar has no place for it."""
    found = error.token
    accepts = set(error.accepts or error.expected)
    if found.type == "$END":
        return _end_of_text(source, accepts)
    span = Span(source, found.start_pos or 0, found.end_pos or 0)
    if accepts == {"$END"}:
        return _after_spec(span)
    for special in (_keyword_as_name, _wrong_bracket, _missing_operator, _unknown_item, _assigned):
        if (diagnostic := special(source, found, span, accepts)) is not None:
            return diagnostic
    expected = _expected(accepts)
    return Diagnostic(
        "E001",
        f"found `{found}`, expected {expected}",
        span,
        f"expected {expected}",
        _fix(str(found), accepts),
    )


def _fix(found: str, accepts: Collection[str]) -> str:
    if accepts == {"FORM"}:
        near = nearest(found, ["attention", "recurrence"]) or "attention"
        return f"start with `{near} NAME {{`"
    if found == "=" and "COMPARE" in accepts:
        return "compare with `==`"
    if "COLON" in accepts and "EQUAL" in accepts:
        return "declare a type: `NAME : half[B, H, S, D]`"
    if "COLON" in accepts:
        return "write `NAME : dtype[axes]`"
    one = [t for t in accepts if t in _SHOWN and t != "NAME"]
    if len(accepts) == 1 and one:
        return f"put {_SHOWN[one[0]]} before `{found}`"
    if set(accepts) >= _START_OF_EXPRESSION:
        return "complete the expression, such as `x + 1`, or remove the operator before it"
    return f"remove `{found}`, or complete what stands before it"


def _expected(accepts: Collection[str]) -> str:
    left = set(accepts)
    words: list[str] = []
    if left >= _START_OF_EXPRESSION:
        words.append("an expression")
        left -= _START_OF_EXPRESSION | {"SIGN"}
    if "TIMES" in left:
        left -= {"TIMES", "POWER", "SIGN", "COMPARE", "AND", "OR"}
        words.append("an operator")
    if left.issuperset(_ITEMS):
        left -= {*_ITEMS, "NAME"}
        words.append("a declaration or statement")
    if left >= {"SORTED", "CONST"}:
        left -= {"SORTED", "CONST", "PACKED", "PAGED", "SCALED"}
    words += [_SHOWN.get(t, f"`{t.lower()}`") for t in sorted(left) if t != "$END"]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def _end_of_text(source: Source, accepts: Collection[str]) -> Diagnostic:
    end = len(source.text.rstrip())
    if "FORM" in accepts:
        return Diagnostic(
            "E006",
            "the text holds no spec",
            Span(source, 0, 1),
            "expected `attention NAME {` or `recurrence NAME {`",
            "start from `attention flash { query q : half[B, H, S, D] ... }`",
        )
    opened = _innermost_open(source.text[:end])
    if opened is None:
        last = max(0, end - 1)
        return Diagnostic(
            "E001",
            f"the text ends where {_expected(accepts)} is expected",
            Span(source, last, end),
            f"expected {_expected(accepts)} after this",
            "continue with `{`, the declarations and `}`",
        )
    bracket = source.text[opened]
    return Diagnostic(
        "E011",
        f"`{bracket}` is never closed",
        Span(source, opened, opened + 1),
        f"expected a `{_OPEN[bracket]}` that closes it",
        f"add `{_OPEN[bracket]}` at the end",
    )


def _innermost_open(text: str) -> int | None:
    stack: list[int] = []
    comment = False
    for i, c in enumerate(text):
        comment = c != "\n" and (comment or c == "#")
        if comment:
            continue
        if c in _OPEN:
            stack.append(i)
        elif c in ")]}" and stack:
            stack.pop()
    return stack[-1] if stack else None


def _after_spec(span: Span) -> Diagnostic:
    return Diagnostic(
        "E012",
        f"found `{span.text}` after the end of the spec",
        span,
        "expected the end of the text",
        "keep one spec in a file; remove the rest",
    )


def _keyword_as_name(
    source: Source, found: Any, span: Span, accepts: Collection[str]
) -> Diagnostic | None:
    # `key` at the start of an item is a declaration, so only a place that takes nothing but names counts
    is_word = str(found) in KEYWORDS
    starts_item = found.type in _ITEMS and "RBRACE" in accepts
    return bad_name(str(found), span) if is_word and "NAME" in accepts and not starts_item else None


def _wrong_bracket(
    source: Source, found: Any, span: Span, accepts: Collection[str]
) -> Diagnostic | None:
    if str(found) not in ")]}":
        return None
    opened = _innermost_open(source.text[: span.start])
    if opened is None:
        return Diagnostic(
            "E011",
            f"`{found}` closes nothing",
            span,
            "no bracket is open here",
            f"remove `{found}`",
        )
    bracket = source.text[opened]
    if _OPEN[bracket] == str(found):
        return None
    return Diagnostic(
        "E011",
        f"`{bracket}` is never closed",
        Span(source, opened, opened + 1),
        f"expected `{_OPEN[bracket]}` before `{found}`",
        f"add `{_OPEN[bracket]}`",
    )


def _missing_operator(
    source: Source, found: Any, span: Span, accepts: Collection[str]
) -> Diagnostic | None:
    # two values side by side: `a b`, `2 x`, `f (x) y`
    starts = {"NAME", "INT", "REAL", "LPAR", "TRUE", "FALSE"}
    if found.type not in starts or "TIMES" not in accepts or "NAME" in accepts:
        return None
    return Diagnostic(
        "E001",
        f"found `{found}`, expected {_expected(accepts)}",
        span,
        "expected an operator before this",
        f"multiply with `* {found}`, or add `,`",
    )


def _unknown_item(
    source: Source, found: Any, span: Span, accepts: Collection[str]
) -> Diagnostic | None:
    # `valu v : ...` reads as a statement that starts with the name `valu`
    if found.type != "NAME" or "EQUAL" not in accepts or "COMMA" not in accepts:
        return None
    before = source.text[: span.start].split()
    near = nearest(before[-1], _ITEM_WORDS) if before else None
    if near is None:
        return None
    start = source.text.rfind(before[-1], 0, span.start)
    return Diagnostic(
        "E001",
        f"found `{before[-1]} {found}`, expected a declaration or `NAME = ...`",
        Span(source, start, start + len(before[-1])),
        "no such declaration",
        f"did you mean `{near} {found}`?",
    )


def _assigned(
    source: Source, found: Any, span: Span, accepts: Collection[str]
) -> Diagnostic | None:
    if str(found) != "=" or "COMPARE" not in accepts:
        return None
    return Diagnostic(
        "E001",
        "found `=` inside an expression",
        span,
        f"expected {_expected(accepts)}",
        "compare with `==`",
    )

"""What to say when the text does not follow the grammar."""

from __future__ import annotations

import re
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
    "'": "a name without quotes",
    '"': "a name without quotes",
    "`": "a name without quotes",
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
_NEEDLESS = {
    ";": "leave it out; a statement ends where the next begins",
    "\\": "leave it out; an expression may go on in the next line",
}
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
_START_OF_EXPRESSION = {"NAME", "INT", "REAL", "LPAR", "TRUE", "FALSE"}
_OPEN = {"(": ")", "[": "]", "{": "}"}
_OPEN_NAME = {"(": "RPAR", "[": "RSQB"}
_ITEM_WORDS = ("query", "key", "value", *(w.lower() for w in _ITEMS[1:]))


def character(source: Source, error: UnexpectedCharacters) -> Diagnostic:
    """A character the language does not have (E002), with the one that was probably meant."""
    at = error.pos_in_stream or 0
    found = source.text[at]
    name = unicodedata.name(found, "a character without a name")
    shown = f"`{found}`" if found.isascii() else f"`{found}` (U+{ord(found):04X}, {name})"
    meant = _FOREIGN.get(found) or _plain(found)
    needless = _NEEDLESS.get(found, "leave it out; names use ASCII letters and digits")
    return Diagnostic(
        "E002",
        f"the character {shown} is not part of the language",
        Span(source, at, at + 1),
        "found here",
        f"write {meant} instead" if meant and found not in _NEEDLESS else needless,
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
    for special in (_keyword, _bracket, _operator, _statement, _assigned):
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
        left -= _START_OF_EXPRESSION | {"SIGN", "NOT"}
    if "TIMES" in left:
        words.append("an operator")
        left -= {"TIMES", "POWER", "SIGN", "COMPARE", "AND", "OR", "LPAR", "LSQB", "EQUAL"}
    if left.issuperset(_ITEMS):
        words.append("the next statement or `}`")
        left -= {*_ITEMS, "NAME", "RBRACE", "SORTED", "CONST", "PACKED", "PAGED", "SCALED"}
        left -= {"COMMA"} if "an operator" in words else set()
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


def _keyword(source: Source, found: Any, span: Span, accepts: Collection[str]) -> Diagnostic | None:
    """A keyword where a name belongs: as the word found, or before `=`."""
    before = _word_before(source, span.start)
    if str(found) == "=" and "NAME" in accepts and before is not None and before.text in KEYWORDS:
        return bad_name(before.text, before)
    # `key` where a statement may start is a declaration, not a name
    starts_item = found.type in _ITEMS and "RBRACE" in accepts
    is_name = str(found) in KEYWORDS and "NAME" in accepts and not starts_item
    return bad_name(str(found), span) if is_name else None


def _bracket(source: Source, found: Any, span: Span, accepts: Collection[str]) -> Diagnostic | None:
    """A bracket that closes nothing or the wrong one, or is still open when a statement starts."""
    opened = _innermost_open(source.text[: span.start])
    closes = str(found) in (")", "]", "}")
    if opened is None:
        return (
            Diagnostic(
                "E011",
                f"`{found}` closes nothing",
                span,
                "no bracket is open here",
                f"remove `{found}`",
            )
            if closes
            else None
        )
    bracket = source.text[opened]
    new_line = "\n" in source.text[opened : span.start] and bracket != "{"
    if _OPEN[bracket] == str(found) or not (
        closes
        or (new_line and "TIMES" in accepts)
        or (new_line and _OPEN_NAME.get(bracket) in accepts)
    ):
        return None
    return Diagnostic(
        "E011",
        f"`{bracket}` is never closed",
        Span(source, opened, opened + 1),
        f"expected `{_OPEN[bracket]}` before `{found}`",
        f"add `{_OPEN[bracket]}`",
    )


def _operator(
    source: Source, found: Any, span: Span, accepts: Collection[str]
) -> Diagnostic | None:
    """Two values side by side: `2 x`, `f(x) y`, and `a b` read as the start of a statement."""
    if "TIMES" in accepts and "NAME" not in accepts and found.type in _START_OF_EXPRESSION:
        at = span
    else:
        before = _word_before(source, span.start)
        same_line = before is not None and source.text[: before.start].rpartition("\n")[2].strip()
        starts = accepts in ({"EQUAL", "COMMA"}, {"EQUAL"}) and same_line
        if before is None or not starts or source.text[: before.start].rstrip().endswith("{"):
            return None
        at = before
    return Diagnostic(
        "E001",
        f"found `{at.text}`, expected an operator or the next statement",
        at,
        "expected an operator before this",
        f"multiply with `* {at.text}`, or add `,`",
    )


def _word_before(source: Source, offset: int) -> Span | None:
    match = re.search(r"(\w+)\s*$", source.text[:offset], re.ASCII)
    return Span(source, match.start(1), match.end(1)) if match else None


def _statement(
    source: Source, found: Any, span: Span, accepts: Collection[str]
) -> Diagnostic | None:
    """`valu v : ...` reads as a statement that starts with the name `valu`; `x : f32` lacks a role."""
    before = _word_before(source, span.start)
    if "EQUAL" not in accepts or "COMMA" not in accepts or "COLON" in accepts or before is None:
        return None
    near = nearest(before.text, _ITEM_WORDS) if found.type == "NAME" else None
    if near is None and found != ":":
        return None
    return Diagnostic(
        "E001",
        f"found `{before.text} {found}`, expected a declaration or `NAME = ...`",
        before,
        "no such declaration" if near else "declared as what?",
        f"did you mean `{near} {found}`?" if near else f"write `input {before.text} : ...`",
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

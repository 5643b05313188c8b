"""Which words may be names, and what to say about those that may not."""

from __future__ import annotations

import difflib
import keyword
import re
from collections.abc import Iterable

from attngen.core.diagnostics import Diagnostic
from attngen.core.source import Span

LONGEST = 63
KEYWORDS = frozenset(
    (
        *("attention", "recurrence", "query", "key", "value", "input", "param", "state"),
        *("return", "target", "schedule", "sorted", "const", "packed", "paged", "scaled"),
        *("and", "or", "not", "true", "false"),
    )
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_SYNONYMS = {"True": "true", "False": "false", "None": "", "lambda": "lam", "if": "where"}


def bad_name(text: str, span: Span) -> Diagnostic | None:
    """Why `text` cannot be a name, or None if it can."""
    if text in KEYWORDS:
        return Diagnostic(
            "E010",
            f"`{text}` is a keyword of the language",
            span,
            "expected a name",
            f"another name, such as `{text}_`",
        )
    if keyword.iskeyword(text):
        better = _SYNONYMS.get(text) or f"{text}_"
        return Diagnostic(
            "E013",
            f"`{text}` is a keyword of Python, in which kernels are written",
            span,
            "cannot be used here",
            f"write `{better}`",
        )
    if len(text) > LONGEST:
        return Diagnostic(
            "E009",
            f"a name of {len(text)} characters; at most {LONGEST} are allowed",
            span,
            "too long",
            f"shorten it, such as `{text[:12].rstrip('_')}`",
        )
    if not _NAME.fullmatch(text):
        better = text.lstrip("_") or "x"
        return Diagnostic(
            "E009",
            f"the name `{text}` does not start with a letter",
            span,
            "expected a letter first",
            f"write `{better if better[0].isalpha() else 'x' + better}`",
        )
    return None


def nearest(text: str, known: Iterable[str]) -> str | None:
    """The known word the user most likely meant, or None."""
    words = sorted(set(known))
    exact = [w for w in words if w.lower() == text.lower()]
    close = exact or difflib.get_close_matches(text[:LONGEST], words, 1, 0.6)
    return close[0] if close else None

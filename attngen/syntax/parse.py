"""Text to syntax tree. The grammar is `grammar/attn.lark`, read once per process."""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import TYPE_CHECKING

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.resources import resource
from attngen.core.source import Source, Span
from attngen.syntax import ast, mistakes
from attngen.syntax.tree import TreeReader

if TYPE_CHECKING:
    from lark import Lark

LONGEST_TEXT = 100_000
# Control characters, and those that reorder or hide text (Unicode TR36; "Trojan source", 2021).
_HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def parse(source: Source) -> ast.Spec:
    """The syntax tree of one spec; raises SpecError with an E0xx diagnostic."""
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken  # noqa: PLC0415 - 40 ms

    source = Source(source.name, source.text.removeprefix("\ufeff"))
    _refuse_unreadable(source)
    try:
        tree = _parser().parse(source.text)
    except UnexpectedToken as error:
        raise SpecError(mistakes.token(source, error)) from None
    except UnexpectedCharacters as error:
        raise SpecError(mistakes.character(source, error)) from None
    return TreeReader(source).spec(tree)


@functools.cache
def _parser() -> Lark:
    from lark import Lark  # noqa: PLC0415 - 40 ms

    grammar = resource("grammar", "attn.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", lexer="basic", propagate_positions=True)


def _refuse_unreadable(source: Source) -> None:
    if len(source.text) > LONGEST_TEXT:
        raise SpecError(
            Diagnostic(
                "E004",
                f"the text has {len(source.text):,} characters; at most {LONGEST_TEXT:,} are read",
                None,
                "",
                "check that this is the file you meant; a spec is about one page",
            )
        )
    hidden = _HIDDEN.search(source.text)
    if hidden is not None:
        code = ord(hidden.group())
        name = unicodedata.name(hidden.group(), "a control character")
        raise SpecError(
            Diagnostic(
                "E003",
                f"the text contains the invisible character U+{code:04X} ({name})",
                Span(source, hidden.start(), hidden.end()),
                "found here",
                "delete it; text must read as it is compiled",
            )
        )

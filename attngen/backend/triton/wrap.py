"""Breaks long lines of a generated file where a reader would: after commas, before operators."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise

LONGEST = 110
_END_OF_HEADER = '[attngen:generated]\n"""\n'
_TOKEN = re.compile(r'"[^"\n]*"|[(\[{]|[)\]}]|, | (?:[-+&|*]|//?) ')
_RANK = {",": 0, "-": 1, "+": 1, "&": 1, "|": 1}  # products are broken last
_STATEMENT = re.compile(r"( *)((?:[\w, ]+ = )|return )?(.*)", re.S)


def wrap_source(source: str) -> str:
    """The file with every line of code at most `LONGEST` wide, if a place to break it is found."""
    header, mark, code = source.rpartition(_END_OF_HEADER)
    lines = [piece for line in code.split("\n") for piece in _wrapped(line)]
    return header + mark + "\n".join(lines)


def wrap_fact(text: str) -> str:
    """A sentence of the header, continued with an indent."""
    return textwrap.fill(text, 100, subsequent_indent="  ", break_long_words=False)


def _wrapped(line: str) -> list[str]:
    if len(line) <= LONGEST or line.lstrip().startswith(("#", '"""')):
        return [line]
    code, mark, comment = line.rpartition("  # ")
    if mark and comment.count('"') % 2 == 0:  # the comment goes first, on a line of its own
        indent = " " * (len(line) - len(line.lstrip()))
        return [f"{indent}# {comment}", *_wrapped(code)]
    return _in_parentheses(line) or _aligned(line)


def _breaks(text: str, opened: tuple[int, ...] = ()) -> Iterator[tuple[int, str, tuple[int, ...]]]:
    """(where the next line would start, token, columns of the open brackets) of each place."""
    for m in _TOKEN.finditer(text):
        token = m.group()
        if token in "([{":
            opened = (*opened, m.start())
        elif token in ")]}":
            opened = opened[:-1]
        elif token == ", ":
            yield m.end(), ",", opened
        elif token[0] == " ":
            yield m.start() + 1, token[1], opened


def _in_parentheses(line: str) -> list[str]:
    """A sum or a condition as `name = (` a term or more per line `)`; nothing if it is neither."""
    match = _STATEMENT.fullmatch(line)
    if match is None or not match[2]:
        return []
    indent, start, value = match.groups()
    places = [at for at, token, opened in _breaks(value) if not opened and token in "-+&|"]
    if not places:
        return []
    edges = [0, *places, len(value)]
    pad = f"{indent}    "
    lines = [f"{indent}{start}(", pad]
    for a, b in pairwise(edges):
        piece = value[a:b]
        if len(lines[-1]) + len(piece.rstrip()) > LONGEST and lines[-1].strip():
            lines[-1] = lines[-1].rstrip()
            lines.append(pad)
        lines[-1] += piece
    return [lines[0], *(x for piece in lines[1:] for x in _aligned(piece)), f"{indent})"]


def _aligned(line: str, opened: tuple[int, ...] = ()) -> list[str]:
    """Broken inside the outermost bracket that can be, the rest aligned with what it holds."""
    if len(line) <= LONGEST:
        return [line]
    indent = len(line) - len(line.lstrip())
    places = [p for p in _breaks(line, opened) if p[2] and indent < p[0] - 1 <= LONGEST]
    if not places:
        return [line]
    depth = min(len(p[2]) for p in places)
    best = [p for p in places if len(p[2]) == depth]
    loosest = min(_RANK.get(p[1], 2) for p in best)
    at, _, brackets = [p for p in best if _RANK.get(p[1], 2) == loosest][-1]
    rest = " " * (brackets[-1] + 1) + line[at:]
    return [line[:at].rstrip(), *_aligned(rest, brackets)]

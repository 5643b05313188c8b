"""Where in the user's file a traced operation stands: the frame of Python that asked for it."""

from __future__ import annotations

import itertools
import linecache
import sys
from pathlib import Path
from types import CodeType, FrameType

from attngen.core.resources import PACKAGE
from attngen.core.source import Source, Span


def place() -> Span | None:
    """The expression of the innermost frame that belongs neither to attngen nor to a library."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _foreign(frame.f_code.co_filename):
        frame = frame.f_back
    return None if frame is None else span_of(frame.f_code, frame.f_lasti)


def span_of(code: CodeType, instruction: int) -> Span | None:
    """What the instruction at an offset was compiled from; None without the source."""
    source = source_of(code.co_filename)
    at = next(itertools.islice(code.co_positions(), instruction // 2, None), None)
    if source is None or at is None or at[0] is None:
        return None
    line, last, column, stop = at
    start = _offset(source, at[0], column or 0)
    if line is None or last is None or stop is None or last < line:
        return Span(source, start, start + 1)
    return Span(source, start, max(start + 1, _offset(source, last, stop)))


def source_of(filename: str) -> Source | None:
    """The text of a Python file, named as a user in the current folder would."""
    lines = linecache.getlines(filename)
    return Source(shown(filename), "".join(lines)) if lines else None


def shown(filename: str) -> str:
    """A path relative to the current folder where it lies below it."""
    path = Path(filename)
    if not path.is_absolute():
        return filename
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else filename


def _offset(source: Source, line: int, column: int) -> int:
    """Columns of Python count bytes of UTF-8."""
    if line > len(source.line_starts):
        return len(source.text)
    text = source.line(line).encode()[:column].decode(errors="ignore")
    return source.line_starts[line - 1] + len(text)


def _foreign(filename: str) -> bool:
    inside = filename.startswith(str(PACKAGE) + "/")
    return (
        inside or "/torch/" in filename or "\\torch\\" in filename or filename.startswith("<frozen")
    )

"""The source of a Python function: its text, its tree, and spans in it."""

from __future__ import annotations

import ast as python
import linecache
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.source import Source, Span


@dataclass(frozen=True)
class Written:
    """A function as it stands in its file; names: what its free names mean in Python."""

    source: Source
    node: python.FunctionDef
    names: Mapping[str, Any]
    function: FunctionType

    def span(self, node: Any) -> Span:
        """Where a node of Python's tree stands."""
        start = self._offset(node.lineno, node.col_offset)
        stop = self._offset(node.end_lineno or node.lineno, node.end_col_offset or 0)
        return Span(self.source, start, max(stop, start + 1))

    def first_line(self, node: Any) -> Span:
        """The first line of a statement."""
        whole = self.span(node)
        end = self.source.text.find("\n", whole.start)
        return Span(self.source, whole.start, min(whole.stop, end if end >= 0 else whole.stop))

    def name_of(self, argument: python.arg) -> Span:
        """The name of a parameter, without its annotation."""
        start = self.span(argument).start
        return Span(self.source, start, start + len(argument.arg))

    def name_span(self) -> Span:
        """The name of the function."""
        start = self.source.text.index(self.node.name, self.span(self.node).start + len("def"))
        return Span(self.source, start, start + len(self.node.name))

    def _offset(self, line: int, column: int) -> int:
        """Columns of Python's tree count bytes of UTF-8."""
        text = self.source.line(line).encode()[:column].decode(errors="ignore")
        return self.source.line_starts[line - 1] + len(text)


def written(function: FunctionType) -> Written:
    """The source of a function; SpecError E015 if there is none."""
    code = function.__code__
    text = "".join(linecache.getlines(code.co_filename, function.__globals__))
    node = _find(text, code) if text else None
    if node is None:
        raise refused(
            "E015",
            f"the source of `{function.__name__}` cannot be read from {shown(code.co_filename)!r}",
            None,
            "",
            "put the function into a file, or pass the text of a spec to `attngen.compile`",
        )
    return Written(Source(shown(code.co_filename), text), node, free_names(function), function)


def shown(filename: str) -> str:
    """A path relative to the current folder where it lies below it."""
    path, here = Path(filename), Path.cwd()
    inside = path.is_absolute() and path.is_relative_to(here)
    return str(path.relative_to(here)) if inside else filename


def refused(code: str, message: str, span: Span | None, label: str, fix: str) -> SpecError:
    """A mistake to raise."""
    return SpecError(Diagnostic(code, message, span, label, fix))


def _find(text: str, code: CodeType) -> python.FunctionDef | None:
    try:
        tree = python.parse(text)
    except SyntaxError:  # the file changed since it was imported
        return None
    for node in python.walk(tree):
        if isinstance(node, python.FunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if first == code.co_firstlineno:
                return node
    return None


def free_names(function: FunctionType) -> dict[str, Any]:
    """What names mean in Python where the function stands."""
    names = dict(function.__globals__)
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for name, cell in cells:
        try:
            names[name] = cell.cell_contents
        except ValueError:  # bound later
            names.pop(name, None)
    return names

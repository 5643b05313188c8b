"""Errors as data: code, place, found and expected, one fix to paste; rendered like rustc's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attngen.core.source import Span

MOST = 10  # diagnostics shown per run


@dataclass(frozen=True)
class Diagnostic:
    """One mistake.

    code: `E0xx` syntax, `E1xx` names / axes / dtypes, `E2xx` masks, `E3xx` schedule / target,
    `E4xx` not supported by a backend, `E5xx` call time.
    label: the words under the carets; help: one line with a fix to paste.
    """

    code: str
    message: str
    span: Span | None = None
    label: str = ""
    help: str = ""

    def render(self) -> str:
        """Plain text: code and message, file:line:column, the source line with carets, help."""
        lines = [f"error[{self.code}]: {self.message}"]
        margin = ""
        if self.span is not None:
            line, column = self.span.source.position(self.span.start)
            margin = " " * len(str(line))
            text = self.span.source.line(line)
            width = max(1, min(self.span.stop - self.span.start, len(text) - column + 1))
            carets = " " * (column - 1) + "^" * width
            lines += [
                f"{margin}--> {self.span.source.name}:{line}:{column}",
                f"{margin} |",
                f"{line} | {_visible(text)}",
                f"{margin} | {carets}{' ' + self.label if self.label else ''}",
            ]
        if self.help:
            lines.append(f"{margin} = help: {self.help}")
        return "\n".join(line.rstrip() for line in lines)


class AttngenError(Exception):
    """Base of every error attngen raises on purpose; `diagnostics` says what to mend."""

    def __init__(self, diagnostics: Sequence[Diagnostic] | Diagnostic) -> None:
        self.diagnostics = (
            (diagnostics,) if isinstance(diagnostics, Diagnostic) else tuple(diagnostics)
        )
        super().__init__(self.render())

    def render(self) -> str:
        """All diagnostics, at most ten, in source order as given."""
        shown = "\n\n".join(d.render() for d in self.diagnostics[:MOST])
        more = len(self.diagnostics) - MOST
        return shown + (f"\n\n... and {more} more" if more > 0 else "")


class SpecError(AttngenError):
    """The spec, an option or the target is wrong (exit status 2)."""


class CallError(AttngenError, ValueError):
    """A kernel was called with tensors it cannot take; raised before any launch."""


def _visible(text: str) -> str:
    """Characters that would move the caret line or hide text are shown as a replacement mark."""
    return "".join(
        c if c.isprintable() else " " if c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )

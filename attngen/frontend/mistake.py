"""How the front end reports: a mistake stops its statement, the others are still checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.source import Span


class Mistake(Exception):  # noqa: N818 - it is what the user made, not what went wrong here
    """One diagnostic on its way to its statement; None if another mistake is the cause."""

    def __init__(self, diagnostic: Diagnostic | None) -> None:
        super().__init__()
        self.diagnostic = diagnostic


def wrong(code: str, message: str, span: Span | None, label: str = "", fix: str = "") -> Mistake:
    """A mistake to raise."""
    return Mistake(Diagnostic(code, message, span, label, fix))


class Report:
    """Collects the mistakes of one spec."""

    def __init__(self) -> None:
        self.found: list[Diagnostic] = []

    @contextmanager
    def statement(self) -> Iterator[None]:
        """Collects a mistake made inside the block and goes on after it."""
        try:
            yield
        except Mistake as mistake:
            if mistake.diagnostic is not None and mistake.diagnostic not in self.found:
                self.found.append(mistake.diagnostic)

    def stop_if_wrong(self) -> None:
        """Raises SpecError with what was found, in source order; returns if nothing was."""
        if self.found:
            raise SpecError(sorted(self.found, key=lambda d: d.span.start if d.span else 0))

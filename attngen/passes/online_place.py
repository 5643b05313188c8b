"""Where an expression of the online pass came from: spans, names, and errors that point at them."""

from __future__ import annotations

from collections.abc import Mapping

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.source import Span
from attngen.ir.expr import Expr
from attngen.passes.online_text import text


class Places:
    """Names and spans of the spec, carried over to the expressions made from them."""

    def __init__(self, names: Mapping[Expr, str], spans: Mapping[Expr, Span]) -> None:
        self.names = dict(names)
        self.spans = dict(spans)
        self.inside: list[Expr] = []  # what is being lowered, outermost first

    def carry(self, old: Expr, new: Expr) -> None:
        """`new` now stands for `old`."""
        if old in self.names:
            self.names.setdefault(new, self.names[old])
        if old in self.spans:
            self.spans.setdefault(new, self.spans[old])

    def refuse(
        self, code: str, message: str, e: Expr, label: str = "", help: str = ""
    ) -> SpecError:
        """An error that points at `e`, or at the nearest thing around it with a place."""
        around = [e, *reversed(self.inside)]
        span = next((self.spans[x] for x in around if x in self.spans), None)
        return SpecError(Diagnostic(code, f"`{text(e)}` {message}", span, label, help))

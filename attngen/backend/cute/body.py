"""Functions of a generated file: values named where they are used twice, or hoisted out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from attngen.backend.cute.printer import PairPrinter
from attngen.backend.triton.names import Names
from attngen.ir.expr import (
    Axes,
    Binary,
    Const,
    Dot,
    Expr,
    Index,
    Load,
    Reduced,
    Row,
    Unary,
    Where,
    children,
)
from attngen.ir.walk import walk

AT = frozenset(
    "b h h_kv row0 row1 q_len kv_len heads grid row key position with_values batch".split()
)


@dataclass(frozen=True)
class Function:
    """One function: its head `name(parameters)`, docstring and statements; wish: its first name."""

    head: str
    doc: str
    lines: tuple[str, ...]
    wish: str = ""

    @property
    def name(self) -> str:
        """Its name."""
        return self.head.partition("(")[0]

    @property
    def parameters(self) -> str:
        """Its parameters, with the closing bracket."""
        return self.head.partition("(")[2]


@dataclass
class Hoisted:
    """Values computed once per tile or once per row, and read as attributes of `at`.

    What varies along no position, and is more than an index or a number passed, is a tile's; what
    varies along the queries alone is a row's.
    """

    printer: PairPrinter
    names: Names
    tile: dict[str, str] = field(default_factory=dict)
    row: dict[str, str] = field(default_factory=dict)

    def hoist(self, e: Expr) -> None:
        """Bind the largest parts of `e` that can leave the loop over keys."""
        if e in self.printer.bound or isinstance(e, Const | Index | Dot | Reduced):
            return
        if e.feature is None and not e.axes & Axes.KEY and costly(e):
            if e.axes & Axes.QUERY:
                self._row(e)
            else:
                self._tile(e)
            return
        for child in children(e):
            self.hoist(child)

    def _tile(self, e: Expr) -> None:
        name = self.names.take(_wish(e))
        self.tile[name] = self.printer.text(e)
        self.printer.bound[e] = f"at.{name}"

    def _row(self, e: Expr) -> None:
        for x in walk(e):
            if not x.axes & Axes.QUERY and costly(x) and x not in self.printer.bound:
                self._tile(x)
        name = self.names.take(_wish(e))
        self.row[name] = self.printer.text(e)
        self.printer.bound[e] = f"at.{name}"


def statements(printer: PairPrinter, names: Names, *roots: Expr) -> tuple[list[str], list[str]]:
    """(lines that name what is used twice, text of each root); names are bound only here."""
    uses: Counter[Expr] = Counter(roots)
    for e in _inside(printer, *roots):
        uses.update(children(e))
    kept = dict(printer.bound)
    lines = []
    for e in _inside(printer, *roots):
        if uses[e] > 1 and children(e) and not isinstance(e, Row | Load) and e not in roots:
            name = names.take("t")
            lines.append(f"{name} = {printer.text(e)}")
            printer.bound[e] = name
    texts = [printer.text(e) for e in roots]
    printer.bound.clear()
    printer.bound.update(kept)
    return lines, texts


def _inside(printer: PairPrinter, *roots: Expr) -> list[Expr]:
    """Nodes that are printed: nothing below a bound one."""
    out: dict[Expr, None] = {}

    def visit(e: Expr) -> None:
        if e in printer.bound or e in out:
            return
        for child in children(e):
            visit(child)
        out[e] = None

    for e in roots:
        visit(e)
    return list(out)


def costly(e: Expr) -> bool:
    """Whether it is worth a register for the whole loop."""
    return not any(isinstance(x, Reduced) for x in walk(e)) and any(
        isinstance(x, Unary | Where)
        or (isinstance(x, Load) and bool(x.index))
        or (isinstance(x, Binary) and x.op in ("floordiv", "mod", "pow", "logaddexp"))
        for x in walk(e)
    )


def _wish(e: Expr) -> str:
    loads = [x for x in walk(e) if isinstance(x, Load)]
    if len(loads) != 1:
        return "row_term" if e.axes & Axes.QUERY else "factor"
    side = "row" if e.axes & Axes.QUERY else "tile"
    return f"{loads[0].tensor}_{side}" if e is loads[0] else f"{loads[0].tensor}_scaled"


def items(texts: Sequence[str]) -> str:
    """A tuple of the texts."""
    return f"({texts[0]},)" if len(texts) == 1 else f"({', '.join(texts)})"

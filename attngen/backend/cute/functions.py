"""The functions of a generated file: bounds, limits, score, mask, and what a row ends with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from attngen.backend.cute.body import AT, Function, Hoisted, items, statements
from attngen.backend.cute.finish import finish
from attngen.backend.cute.printer import NoScalarForm, PairPrinter, TilePrinter
from attngen.backend.cute.riders import Riding
from attngen.backend.cute.shape import Shape
from attngen.backend.cute.split import ANCHOR
from attngen.backend.triton.names import Names
from attngen.ir import index as ix
from attngen.ir.expr import Expr, Row
from attngen.ir.program import Program
from attngen.passes.score import distance_of


class Library:
    """The functions of a file, each once: kernels of one file share what they have in common."""

    def __init__(self, taken: frozenset[str]) -> None:
        self.functions: list[Function] = []
        self._taken = set(taken)

    def add(self, function: Function) -> str:
        """The name of this function in the file."""
        for f in self.functions:
            same = f.wish == function.name and f.head.partition("(")[2] == function.parameters
            if same and f.lines == function.lines:
                return f.name
        name, count = function.name, 1
        while name in self._taken:
            count += 1
            name = f"{function.name}_{count}"
        self._taken.add(name)
        head = f"{name}({function.parameters}"
        self.functions.append(replace(function, head=head, wish=function.name))
        return name


class Functions:
    """Prints the functions of one program.

    library: functions of the file; hooks: name in the file of each function of this program;
    attributes: name of each tensor at `at`.
    """

    def __init__(self, program: Program, shape: Shape, library: Library) -> None:
        self.program, self.shape, self.library = program, shape, library
        self.hooks: dict[str, str] = {}
        self.names = Names(AT)
        self.attributes = {
            t.name: self.names.take(t.name) for t in program.attention.tensors if t.view is None
        }
        for name, _ in program.online.outputs:
            self.attributes[name] = self.names.take(name)
        self.riders: dict[Riding, str] = {}
        self.printer = PairPrinter(program.attention, self.attributes)
        self.printer.bound[ANCHOR] = "at.row0"
        self.printer.bound[shape.split.dot] = "s"
        self.hoisted = Hoisted(self.printer, self.names)
        self.numbers: list[str] = []
        self.rows: list[tuple[str, str]] = []
        self.row_streams: dict[Row, str] = {}
        self._runs: dict[str, str] = {}
        self.near: tuple[int, int] | None = None
        self._limits()
        self._tiles()
        doc = "Sorted elements; the mask follows runs of equal ones."
        self.runs = [
            (name, self._add(f"{name[:-5]}_row(at)", doc, [f"return {text}"]))
            for name, text in self._runs.items()
        ]
        self._score()
        self._payloads()
        self._finish()
        self._hoists()

    @property
    def read(self) -> frozenset[str]:
        """Attributes of `at` that the functions of this program read."""
        used = {*self.hooks.values()}
        text = "\n".join(x for f in self.library.functions if f.name in used for x in f.lines)
        return frozenset(re.findall(r"\bat\.(\w+)", text))

    def _add(self, head: str, doc: str, lines: Sequence[str]) -> str:
        """A function of the file; its name there."""
        name = self.library.add(Function(head, doc, tuple(lines)))
        self.hooks[head.partition("(")[0]] = name
        return name

    # ---- bounds and limits ----------------------------------------------------------------------
    def _limits(self) -> None:
        """Limits of a row where the mask is one range per row, else the mask of a pair."""
        plan, mask = self.program.mask, self.program.online.mask
        if mask is None:
            return
        way = plan.forward
        if len(way.row) == 1 and not way.leftovers:
            printer = TilePrinter(self.program.attention, self.attributes, "q_idx", self._runs)
            try:
                low, high = printer.text(way.row[0].lo), printer.text(way.row[0].hi)
            except NoScalarForm:
                pass
            else:
                if way.row[0].lo.constant != 0:
                    self._add(
                        "first_key(at, q_idx)", "The first key a query keeps.", [f"return {low}"]
                    )
                if way.row[0].hi is not ix.var("kv_len"):
                    self._add(
                        "end_key(at, q_idx)",
                        "The key after the last a query keeps.",
                        [f"return {high}"],
                    )
                return
        self.hoisted.hoist(mask)
        lines, (text,) = statements(self.printer, Names(AT), mask)
        self._add(
            "keep(at, q_idx, kv_idx)", "Whether the mask keeps a pair.", [*lines, f"return {text}"]
        )

    def _tiles(self) -> None:
        way = self.program.mask.forward
        printer = TilePrinter(self.program.attention, self.attributes, None, self._runs)
        outer = way.outer[0] if way.outer else None
        low = "0" if outer is None else printer.text(outer.lo)
        high = "0" if outer is None else printer.text(outer.hi)
        lines = [f"lo, hi = {low}, {high}"]
        if way.full:
            full = way.full[0]
            lines.append(f"return lo, hi, {printer.text(full.lo)}, {printer.text(full.hi)}")
        else:
            lines.append("return lo, hi, 0, 0")
        self._add(
            "tiles(at)",
            "Keys lo..hi are visited; every query keeps those of the second range.",
            lines,
        )

    # ---- score ----------------------------------------------------------------------------------
    def _score(self) -> None:
        for x in self.shape.riders:
            name = self.attributes[x.load.tensor]
            self.riders[x] = name = self.names.take(f"{name}_{'pair' if x.pairs else 'keys'}")
            self.printer.bound[x.load] = f"at.{name}" if x.pairs else f"at.{name}.of(kv_idx)"
        self._score_functions()
        for x in self.shape.riders:  # what else reads these tensors reads them in memory
            self.printer.bound.pop(x.load)

    def _score_functions(self) -> None:
        parts = self.shape.split
        for e in (parts.slope, parts.column, parts.diagonal, parts.core, parts.rest):
            if e is not None:
                self.hoisted.hoist(e)
        if parts.slope is not None:
            self._value("slope(at)", "What a score grows by per key, log2 units.", parts.slope)
        if parts.column is not None:
            self._value("column(at, kv_idx)", "Terms of the key alone.", parts.column)
        if parts.diagonal is not None:
            self._value(
                "diagonal(at, q_idx, kv_idx)",
                "Terms of kv_idx - q_idx alone: once per diagonal.",
                parts.diagonal,
            )
        if parts.plain:
            return
        self._distance()
        roots = [e for e in (parts.core, parts.rest) if e is not None]
        lines, texts = statements(self.printer, Names(AT), *roots)
        core, rest = texts[0], texts[1:]
        if rest:  # by itself: terms of large numbers that cancel are added first
            lines.append(f"rest = {rest[0]}")
            rest = ["rest"]
        text = " + ".join([core, *rest, *(n for n in parts.terms if n != "rest")])
        doc = "The score of a pair from its product s, without terms of the row; log2 units"
        doc += "." if parts.scale == 1.0 else f" over {parts.scale!r}."
        self._add("score(at, s, column, diagonal, q_idx, kv_idx)", doc, [*lines, f"return {text}"])

    def _distance(self) -> None:
        """Far from the diagonal a clamped table is one number, which needs no work per score."""
        parts = self.shape.split
        found = None if parts.diagonal is None else distance_of(parts.diagonal)
        if found is None or parts.terms != ("diagonal",) or parts.core is not parts.dot:
            return
        self.near = (found[1], found[2])
        self._value(
            "distance(at, q_idx, kv_idx)", "What the terms of the diagonal depend on.", found[0]
        )

    def _value(self, head: str, doc: str, e: Expr) -> None:
        lines, (text,) = statements(self.printer, Names(AT), e)
        self._add(head, doc, [*lines, f"return {text}"])

    # ---- sums -----------------------------------------------------------------------------------
    def _payloads(self) -> None:
        """The numbers of a pair that weights are multiplied with."""
        sums = self.shape.sums
        if not sums.payloads:
            return
        products = [f"u_{i}" if i else "u" for i in range(len(sums.dots))]
        self.printer.bound.update(zip(sums.dots, products, strict=True))
        for e in sums.payloads:
            self.hoisted.hoist(e)
        lines, texts = statements(self.printer, Names(AT), *sums.payloads)
        arguments = ", ".join(["at", "s", *products, "q_idx", "kv_idx"])
        doc = (
            "What weights are multiplied with before they are summed, from the products of a pair."
        )
        self._add(f"payloads({arguments})", doc, [*lines, f"return {items(texts)}"])

    # ---- after the loop -------------------------------------------------------------------------
    def _finish(self) -> None:
        """What a row ends with."""
        made = finish(self.program, self.shape, self.printer, self.hoisted, self.names)
        self._add(made.function.head, made.function.doc, made.function.lines)
        self.numbers, self.row_streams = made.numbers, made.row_streams
        self.rows = [(n, self._add(f.head, f.doc, f.lines)) for n, f in made.rows]

    # ---- hoisted --------------------------------------------------------------------------------
    def _hoists(self) -> None:
        for name, values in (("per_tile", self.hoisted.tile), ("per_row", self.hoisted.row)):
            if values:
                head = f"{name}(at)" if name == "per_tile" else f"{name}(at, q_idx)"
                doc = f"Values that are the same for a whole {name[4:]}."
                items = ", ".join(f'"{n}": {text}' for n, text in values.items())
                self._add(head, doc, [f"return {{{items}}}"])

"""The functions of a generated backward: bounds, limits, a pair's weight and its derivative."""

from __future__ import annotations

import re

from attngen.backend.cute.backward.limits import KeyLimits, limits
from attngen.backend.cute.backward.shape import BackwardShape
from attngen.backend.cute.body import AT, Function, Hoisted, costly, statements
from attngen.backend.cute.printer import PairPrinter
from attngen.backend.cute.split import ANCHOR
from attngen.backend.triton.backward.program import Backward
from attngen.backend.triton.names import Names
from attngen.backend.triton.printer import scale_by
from attngen.ir import build
from attngen.ir.expr import (
    Axes,
    Binary,
    Const,
    Dot,
    Expr,
    Index,
    Load,
    Recomputed,
    children,
)
from attngen.ir.walk import walk

KEY_AT = AT | frozenset("col0 col1 group".split())
_PAIR = "at, s, column, diagonal, q_idx, kv_idx"


class KeyHoisted(Hoisted):
    """Values computed once per head or once per key; queries are others in each step."""

    def hoist(self, e: Expr) -> None:
        """Bind the largest parts of `e` that do not depend on the queries."""
        if e in self.printer.bound or isinstance(e, Const | Index | Dot | Recomputed):
            return
        moves = e.axes & Axes.QUERY or any(x is ANCHOR for x in walk(e))
        if e.feature is None and not moves and costly(e):
            if e.axes & Axes.KEY:
                self._row(e)
            else:
                self._tile(e)
            return
        for child in children(e):
            self.hoist(child)

    def _row(self, e: Expr) -> None:
        """A value of a key: parts that are a head's are hoisted further."""
        for x in walk(e):
            if not x.axes & Axes.KEY and costly(x) and x not in self.printer.bound:
                self._tile(x)
        name = self.names.take("key_term")
        self.row[name] = self.printer.text(e)
        self.printer.bound[e] = f"at.{name}"


class Functions:
    """Prints the functions of one backward.

    attributes: name of each tensor at `at`; made: the functions in order; numbers, late_numbers:
    tensors of numbers per query that `before` and `after` take; used: tensors the functions read.
    """

    def __init__(self, backward: Backward, shape: BackwardShape) -> None:
        self.backward, self.shape = backward, shape
        attention = backward.program.attention
        self.names = Names(KEY_AT)
        self.attributes = {
            t.name: self.names.take(t.name) for t in attention.tensors if t.view is None
        }
        self.printer = PairPrinter(attention, self.attributes)
        self.printer.bound[ANCHOR] = "at.row0"
        self.hoisted = KeyHoisted(self.printer, self.names)
        self.made: list[Function] = []
        (self.norm,) = backward.norms.values()
        self.numbers: tuple[str, ...] = (self.norm,)
        self.late_numbers: tuple[str, ...] = ()
        self.limits: KeyLimits = limits(backward.program, self.attributes)
        self._limits()
        self._terms()
        self._before()
        self._after()
        self._sums()
        self._hoists()

    @property
    def used(self) -> set[str]:
        """Attributes of `at` that the functions read."""
        text = "\n".join(line for f in self.made for line in f.lines)
        return set(re.findall(r"\bat\.(\w+)", text))

    def _add(self, head: str, doc: str, *lines: str) -> None:
        self.made.append(Function(head, doc, lines))

    # ---- bounds and limits ----------------------------------------------------------------------
    def _limits(self) -> None:
        found = self.limits
        lines = [_range("lo, hi", "hull", found.outer), _range("low, high", "longest", found.full)]
        self._add(
            "tiles(at)",
            "Queries lo..hi are visited; those of low..high keep every key.",
            *lines,
            "return lo, hi, low, high",
        )
        if found.first is not None:
            self._add(
                "first_query(at, kv_idx)",
                "The first query that keeps a key.",
                f"return {found.first}",
            )
        if found.end is not None:
            self._add(
                "end_query(at, kv_idx)",
                "The query after the last that keeps a key.",
                f"return {found.end}",
            )
        mask = self.backward.program.online.mask
        if not found.exact and mask is not None:
            self._hoist(mask)
            lines, (text,) = statements(self.printer, Names(KEY_AT), mask)
            self._add(
                "keep(at, q_idx, kv_idx)",
                "Whether the mask keeps a pair.",
                *lines,
                f"return {text}",
            )

    # ---- a pair ---------------------------------------------------------------------------------
    def _hoist(self, *found: Expr | None) -> None:
        """Values of a head and of a key leave the loop."""
        for e in found:
            if e is not None:
                self.hoisted.hoist(e)

    def _terms(self) -> None:
        parts = self.shape.split
        self.printer.bound[parts.dot] = "s"
        column = self._column()
        self._hoist(column, parts.diagonal, parts.core, parts.rest, self.shape.derivative.early)
        self.column, self.diagonal = column is not None, parts.diagonal is not None
        if column is not None:
            lines, (text,) = statements(self.printer, Names(KEY_AT), column)
            self._add(
                "column(at, kv_idx)",
                "Terms of the key alone.",
                *lines,
                f"return {text}",
            )
        if parts.diagonal is not None:
            lines, (text,) = statements(self.printer, Names(KEY_AT), parts.diagonal)
            self._add(
                "diagonal(at, q_idx, kv_idx)",
                "Terms of kv_idx - q_idx alone: once per diagonal.",
                *lines,
                f"return {text}",
            )

    def _column(self) -> Expr | None:
        """Terms of a key over `scale`; linear ones are measured from the step's first query."""
        parts = self.shape.split
        found = [] if parts.column is None else [parts.column]
        if parts.slope is not None:
            slope = scale_by(parts.slope, 1.0 / parts.scale)
            found.append(Binary("mul", slope, build.sub(Index("kv_idx"), ANCHOR)))
        return build.total(found) if found else None

    def _before(self) -> None:
        """From the product: the weight, and the factor of the derivative that it decides."""
        d, names, printer = self.shape.derivative, Names(KEY_AT), self.printer
        kept = dict(printer.bound)
        numbers = self._numbers(d.early, self.shape.weight)
        lines: list[str] = []
        lines.append(f"p = ops.exp2({self._exponent(names, lines)})")
        printer.bound[self.shape.score] = "p"
        more, (weight, early) = statements(printer, names, self.shape.weight, d.early)
        parameters = ", ".join([_PAIR, *numbers])
        self._add(
            f"before({parameters})",
            "The weight of a pair from its product s; with it, what its derivative multiplies.",
            *lines,
            *more,
            f"return {weight}, {early}",
        )
        self.numbers = tuple(numbers)
        printer.bound.clear()
        printer.bound.update(kept)

    def _exponent(self, names: Names, lines: list[str]) -> str:
        """Log2 of the weight, one multiply-add; lines: what comes before it."""
        parts, x = self.shape.split, "s"
        if parts.core is not parts.dot:
            more, (text,) = statements(self.printer, names, parts.core)
            lines += [*more, f"x = {text}"]
            self.printer.bound[parts.core] = x = "x"
        terms = [x]
        if parts.rest is not None:
            more, (text,) = statements(self.printer, names, parts.rest)
            lines += [*more, f"rest = {text}"]
            terms.append("rest")
        terms += [n for n in ("column", "diagonal") if getattr(self, n)]
        norm, total = self.attributes[self.norm], " + ".join(terms)
        if parts.scale == 1.0:
            return f"{total} - {norm}"
        return f"ops.fma({total}, {parts.scale!r}, -{norm})"

    def _numbers(self, *roots: Expr) -> list[str]:
        """Bind the numbers per query that the expressions read; the normaliser is always one."""
        names = [self.norm]
        for x in walk(*roots):
            if isinstance(x, Load) and x.tensor in self.backward.numbers and x.tensor not in names:
                names.append(x.tensor)
        for name in names:
            self.printer.bound[self.backward.number(name)] = self.attributes[name]
        return [self.attributes[n] for n in names]

    def _after(self) -> None:
        late, printer = self.shape.derivative.late, self.printer
        kept = dict(printer.bound)
        numbers = [n for n in self._numbers(late) if n != self.attributes[self.norm]]
        printer.bound[self.shape.product] = "product"
        lines, (text,) = statements(printer, Names(KEY_AT), late)
        text = printer_factor(text)
        parameters = ", ".join(["at, kept, product, q_idx, kv_idx", *numbers])
        self._add(
            f"after({parameters})",
            "The derivative of a pair's score, from the product of the second rows.",
            *lines,
            f"return kept * {text}",
        )
        self.late_numbers = tuple(numbers)
        printer.bound.clear()
        printer.bound.update(kept)

    def _sums(self) -> None:
        if not self.shape.sums:
            return
        roots = [e for _, e in self.shape.sums]
        self._hoist(*roots)
        names = Names(KEY_AT | {"ds"})
        lines, texts = statements(self.printer, names, *roots)
        values = [f"ds * ops.real({t})" for t in texts]
        comma = "," if len(values) == 1 else ""
        self._add(
            "sums(at, ds, q_idx, kv_idx)",
            "What a pair adds to the gradients of numbers per head.",
            *lines,
            f"return {', '.join(values)}{comma}",
        )

    def _hoists(self) -> None:
        for name, values in (("per_tile", self.hoisted.tile), ("per_row", self.hoisted.row)):
            if values:
                items = ", ".join(f"{n}={text}" for n, text in values.items())
                whole = "head" if name == "per_tile" else "key"
                doc = f"Values that are the same for a whole {whole}."
                head = "per_tile(at)" if name == "per_tile" else "per_key(at, kv_idx)"
                self.made.insert(0, Function(head, doc, (f"return dict({items})",)))


def _range(names: str, function: str, ranges: tuple[tuple[str, str], ...]) -> str:
    if len(ranges) == 1:
        return f"{names} = {', '.join(ranges[0])}"
    return f"{names} = ops.{function}({', '.join(f'({low}, {high})' for low, high in ranges)})"


def printer_factor(text: str) -> str:
    """Text as a factor."""
    return text if re.fullmatch(r"[\w.]+", text) else f"({text})"

"""What a row ends with: normalisers, results that are numbers, results that are rows of numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from attngen.backend.cute.body import AT, Function, Hoisted, items, statements
from attngen.backend.cute.printer import PairPrinter
from attngen.backend.cute.shape import Shape
from attngen.backend.triton.names import Names
from attngen.backend.triton.printer import ADD, LN2, LOG2E
from attngen.ir import build
from attngen.ir.expr import Binary, Expr, Reduced, Row, Side, children
from attngen.ir.program import Program
from attngen.ir.walk import walk

LOCAL = AT | frozenset("m l acc lse total inverse".split())


@dataclass
class Finish:
    """The function of a finished row, and those of one element of each result with rows.

    numbers: results that are one number; row_streams: rows of queries that results read, by the
    name of their element.
    """

    program: Program
    shape: Shape
    printer: PairPrinter
    hoisted: Hoisted
    names: Names
    local: Names = field(default_factory=lambda: Names(LOCAL))
    lines: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    rows: list[tuple[str, Function]] = field(default_factory=list)
    row_streams: dict[Row, str] = field(default_factory=dict)
    function: Function = field(init=False)
    inverses: dict[tuple[Expr, ...], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plan, sums = self.program.online, self.shape.sums
        several = len(sums.rows) > 1
        self.sums = {
            i: self.local.take(plan.accumulators[i].name) if several else "acc"
            for i, _ in sums.rows
        }
        self.totals = {i: self.local.take(plan.accumulators[i].name) for i, _ in sums.numbers}

    def run(self) -> None:
        """Print everything."""
        outputs = self.program.online.outputs
        numbers = [(n, e) for n, e in outputs if e.feature is None]
        rows = [(n, e) for n, e in outputs if e.feature is not None]
        self._logarithm()
        self._moments(rows)
        stored = []
        for name, e in numbers:
            more, (text,) = statements(self.printer, Names(AT), e)
            self.lines += more
            stored.append(text)
            self.numbers.append(name)
        self._streams(rows)
        self.rows = [(name, self._element(name, e)) for name, e in rows]
        self.function = Function(
            f"finish({', '.join(['at', 'q_idx', 'm', 'l', *self.totals.values()])})",
            "After the last key: l sums 2**(score - m). What its rows need; numbers stored.",
            (*self.lines, f"return {items(self.passed)}, {items(stored) if stored else '()'}"),
        )

    def _logarithm(self) -> None:
        """The logarithm of the sum, where a result reads it other than as a normaliser."""
        readers = [e for _, e in self.program.online.outputs if any(_logarithms(e))]
        if not readers:
            return
        row = self.shape.split.row
        shift = "" if row is None else f" + {self.printer.text(row, ADD)}"
        self.lines.append(f"lse = (m + ops.log2(l)) * {LN2}{shift}")
        self.printer.bound[next(_logarithms(readers[0]))] = "lse"

    def _moments(self, rows: list[tuple[str, Expr]]) -> None:
        """Normalisers; moments that are numbers; what of both the rows read is passed on."""
        outputs = [e for _, e in self.program.online.outputs]
        found = [x for x in walk(*outputs) if isinstance(x, Reduced) and x.what == "moment"]
        for x in found:
            self._inverse(x)
        self.passed += dict.fromkeys(self.inverses.values())
        read = list(walk(*(e for _, e in rows)))
        for x in found:
            if x.width is None:
                name = self.local.take(f"{self.totals[x.index]}_mean")
                self.lines.append(f"{name} = {self.totals[x.index]} * {self.inverses[x.norms]}")
                self.printer.bound[x] = name
                self.passed += [name] if x in read else []
        if any(True for _, e in rows for _ in _logarithms(e)):
            self.passed.append("lse")

    def _inverse(self, moment: Reduced) -> None:
        """Name 1 / normaliser of a moment."""
        if moment.norms in self.inverses:
            return
        name = "inverse" if not self.inverses else f"inverse_{len(self.inverses) + 1}"
        self.inverses[moment.norms] = name
        totals = []
        for norm in moment.norms:
            total = "l"
            if isinstance(norm, Binary):
                sink = build.mul(build.const(LOG2E), norm.b)
                row = self.shape.split.row
                if row is not None:
                    sink = build.sub(sink, build.mul(build.const(LOG2E), row))
                total = f"l + ops.exp2({self.printer.text(sink, ADD)} - m)"
                self.lines.append(f"total = {total}")
                total = "total"
            totals.append(total)
        one = " * ".join(totals)
        safe = (
            one
            if any(isinstance(n, Binary) for n in moment.norms)
            else (f"ops.select({one} == 0.0, 1.0, {one})")
        )
        note = "" if safe == one else "  # a row without keys gives 0"
        self.lines.append(f"{name} = ops.rcp({safe}){note}")

    def _streams(self, rows: list[tuple[str, Expr]]) -> None:
        for _, e in rows:
            for x in walk(e):
                if isinstance(x, Row) and x.side is Side.QUERY and x not in self.row_streams:
                    self.row_streams[x] = self.names.take(f"{x.tensor}_row")

    def _element(self, name: str, e: Expr) -> Function:
        """One element of a result that is a row."""
        bound: dict[Expr, str] = {
            x: f"{self.sums[x.index]} * {self.inverses[x.norms]}"
            for x in walk(e)
            if isinstance(x, Reduced) and x.width
        }
        bound.update({x: stream for x, stream in self.row_streams.items()})
        self.printer.bound.update(bound)
        self.hoisted.hoist(e)
        lines, (text,) = statements(self.printer, Names(LOCAL), e)
        passed = self.passed
        unpack = f"{', '.join(passed)}{',' if len(passed) == 1 else ''} = row"
        arguments = ["at", "row", *self.sums.values(), *self.row_streams.values()]
        doc = f"One element of {name}, from its sum over the keys."
        if len(self.sums) > 1:
            doc = f"One element of {name}, from its sums over the keys."
        head = f"{name}_element({', '.join(arguments)})"
        return Function(head, doc, (unpack, *lines, f"return {text}"))


def finish(
    program: Program, shape: Shape, printer: PairPrinter, hoisted: Hoisted, names: Names
) -> Finish:
    """The functions after the loop."""
    made = Finish(program, shape, printer, hoisted, names)
    made.run()
    return made


def _logarithms(e: Expr) -> Iterator[Reduced]:
    """Logarithms of the sum that an expression reads (not those of a moment's normaliser)."""
    if isinstance(e, Reduced):
        if e.what == "lse":
            yield e
        return
    for child in children(e):
        yield from _logarithms(child)

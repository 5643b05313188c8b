"""After the loop over keys: normalisers, moments, results."""

from __future__ import annotations

from attngen.backend.triton.binder import Binder
from attngen.backend.triton.printer import ADD, LN2, LOG2E
from attngen.backend.triton.shape import ROW
from attngen.backend.triton.step import Step
from attngen.ir import build
from attngen.ir.expr import Binary, Expr, Reduced, children
from attngen.ir.online import OnlinePlan
from attngen.ir.walk import walk


def holds_list(e: Expr) -> bool:
    """Whether a result is a top list of several values, or computed from one slot by slot."""
    tops = (x for x in walk(e) if isinstance(x, Reduced) and x.what in ("values", "indices"))
    return any(x.width is not None for x in tops)


class Finish:
    """Prints row algebra over the finished state of one or more stages.

    never_empty: each row keeps a key, so no sum is zero; operands: text of the dtype that rows take
    where a later pass reads them ("" for float32). They are rounded once, so that what a backward
    reads back is what the forward used.
    """

    def __init__(
        self, binder: Binder, plan: OnlinePlan, never_empty: bool, operands: str = ""
    ) -> None:
        self.binder, self.plan, self.never_empty = binder, plan, never_empty
        self.operands = operands
        self.lines = binder.sections[ROW]
        self._below: dict[Expr, str] = {}
        self._moments: dict[Expr, list[str]] = {}

    def stage(self, step: Step) -> None:
        """Bind what this stage reduced: lse, moments, top lists."""
        self._step = step
        classes = {c.index: c for c in step.classes}
        accumulators = {a.index: a for a in step.accumulators}
        tops = {t.index for t in step.tops}
        wanted = [r for r in self._reduced() if r not in self._moments]
        self._uses = {r: self._count(r) for r in wanted}
        self._later = set(walk(*self._of_passes()))
        for r in wanted:
            if r.what == "lse" and r.index in classes:
                self._lse(r)
            elif r.what in ("values", "indices") and r.index in tops:
                self._tops(r)
        for r in wanted:
            if r.what == "moment" and r.index in accumulators:
                self._moment(r)

    def _reduced(self) -> list[Reduced]:
        roots = [e for _, e in self.plan.outputs] + self._of_passes()
        return [x for x in walk(*roots) if isinstance(x, Reduced)]

    def _of_passes(self) -> list[Expr]:
        """What the passes over the keys evaluate."""
        roots = [x for a in self.plan.accumulators for x in (a.scalar, a.row) if x is not None]
        roots += [c.score for c in self.plan.classes] + [t.score for t in self.plan.tops]
        return roots

    def _count(self, r: Expr) -> int:
        return sum(1 for _, e in self.plan.outputs for x in walk(e) if r in children(x)) + sum(
            r is e for _, e in self.plan.outputs
        )

    def _lse(self, r: Reduced) -> None:
        c = next(c for c in self._step.classes if c.index == r.index)
        m = c.m if c.fixed is None else repr(c.fixed)
        text = f"({m} + tl.log2({c.l})) * {LN2}"
        if c.row_shift is not None:
            self.binder.place(c.row_shift, ROW)
            text = f"{text} + {self.binder.printer.text(c.row_shift, ADD)}"
        name = self.binder.names.take("lse" if len(self.plan.classes) == 1 else f"lse_{c.p}")
        self.lines.append(f"{name} = {text}")
        self.binder.printer.bound[r] = name

    def below(self, norm: Expr) -> str:
        """The divisor exp(norm - m): the running sum, plus the sink's share."""
        if norm in self._below:
            return self._below[norm]
        r = norm.a if isinstance(norm, Binary) else norm
        c = next(c for c in self._step.classes if isinstance(r, Reduced) and c.index == r.index)
        if isinstance(norm, Binary):
            sink = build.mul(build.const(LOG2E), norm.b)
            if c.row_shift is not None:
                sink = build.sub(sink, build.mul(build.const(LOG2E), c.row_shift))
            self.binder.place(sink, ROW)
            m = c.m if c.fixed is None else repr(c.fixed)
            text = f"{c.l} + tl.exp2({self.binder.printer.text(sink, ADD)} - {m})"
            if self.binder.printer.frame.shape(sink) == "" and c.fixed is not None:
                text = f"{c.l} + tl.exp2({self.binder.printer.text(sink, ADD)} - {m})"
        elif self.never_empty:
            self._below[norm] = c.l
            return c.l
        else:
            text = f"tl.where({c.l} == 0.0, 1.0, {c.l})  # a row with no key gives 0"
        name = self.binder.names.take("total" if len(self.plan.classes) == 1 else f"total_{c.p}")
        self.lines.append(f"{name} = {text}")
        self._below[norm] = name
        return name

    def _moment(self, r: Reduced) -> None:
        a = next(a for a in self._step.accumulators if a.index == r.index)
        below = [self.below(n) for n in r.norms]
        texts = []
        for name in a.names:
            divisor = " / ".join(
                self.binder.printer.frame.spread_row(b)
                if r.width is not None and self._has_rows()
                else b
                for b in below
            )
            texts.append(f"{name} / {divisor}" if below else name)
        if not below:
            self._moments[r] = list(a.names)
        elif self._only_result(r):
            self._moments[r] = texts
        else:
            wish = (
                a.names[0].removeprefix("acc_").removeprefix("sum_")
                if len(a.names) == 1
                else "mean"
            )
            out = []
            for i, text in enumerate(texts):
                name = self.binder.names.take(
                    f"{wish}_bar" if len(texts) == 1 else f"{wish}_bar_{i}"
                )
                self.lines.append(f"{name} = {text}")
                out.append(name)
            self._moments[r] = out
        if r.width is None:
            self.binder.printer.bound[r] = self._moments[r][0]
        elif r in self._later:
            self._as_operand(r)

    def _as_operand(self, r: Reduced) -> None:
        """A row that a later pass reads, in the dtype of the rows it meets there."""
        names = self._moments[r]
        if self.operands:
            own = [self.binder.names.take(f"{name}_row") for name in names]
            lines = zip(own, names, strict=True)
            self.lines += [f"{row} = {name}.to({self.operands})" for row, name in lines]
            names = own
        self.binder.known[r] = names

    def _has_rows(self) -> bool:
        return bool(self.binder.printer.frame.rows.value)

    def _only_result(self, r: Reduced) -> bool:
        result = r.width is not None and any(e is r for _, e in self.plan.outputs)
        return result and self._uses[r] == 1 and r not in self._later

    def _tops(self, r: Reduced) -> None:
        t = next(t for t in self._step.tops if t.index == r.index)
        if t.count == 1:
            self.binder.printer.bound[r] = t.value if r.what == "values" else t.position
            return
        self.binder.printer.helpers.add("unpack_value" if r.what == "values" else "unpack_index")
        function = "unpack_value" if r.what == "values" else "unpack_index"
        name = self.binder.names.take(f"top_{r.what}")
        self.lines.append(f"{name} = {function}({t.value})")
        self._moments[r] = [name]
        self.binder.printer.bound[r] = name

    def output(self, e: Expr) -> list[str]:
        """Text of a result, one per chunk of its feature axis."""
        if e.feature is None or holds_list(e):
            self._numbers(e)
            return [self.binder.printer.text(e)]
        self.binder.note_rows(e)
        self._numbers(e)
        inside = {
            x: self._moments[x] for x in walk(e) if x.feature is not None and x in self._moments
        }
        return self.binder.chunk_texts(e, inside)

    def _numbers(self, e: Expr) -> None:
        """Name the numbers a row-valued result uses twice."""
        self.binder.count(e)
        for x in walk(e):
            if x.feature is None and not isinstance(x, Reduced):
                self.binder.place(x, ROW)

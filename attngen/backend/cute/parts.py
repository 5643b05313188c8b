"""A program of several softmaxes as several kernels, each of one.

Every softmax but the last leaves its normalised rows, and its logarithm where a result asks for it;
the last kernel reads them beside its own sums when it finishes a row. Two softmaxes over the same
keys share no product, so nothing is computed twice.
"""

from __future__ import annotations

from dataclasses import replace

from attngen.backend.triton.layout import side_tensors
from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention, Axis, Tensor
from attngen.ir.expr import Binary, Expr, Index, Load, Reduced, Row, Side
from attngen.ir.online import Accumulator, OnlinePlan
from attngen.ir.program import Program
from attngen.ir.walk import substitute, walk

_INDEX = {"batch": "b", "head": "h", "position": "q_idx"}


def parts_of(program: Program) -> tuple[Program, ...]:
    """The program itself, or one program for each softmax; tensors in between are `kept`."""
    plan = program.online
    single = all(len(a.weights) == 1 and a.weights[0][1] == 1 for a in plan.accumulators)
    if len(plan.classes) < 2 or not single or plan.tops or plan.stages > 1:
        return (program,)
    if any(len(_classes(x)) != 1 for x in _moments(plan)):
        return (program,)
    return _Cut(program).parts()


def kept(part: Program, whole: Program) -> list[Tensor]:
    """Tensors of a part that the whole does not declare."""
    known = {t.name for t in whole.attention.tensors}
    return [t for t in part.attention.tensors if t.name not in known]


class _Cut:
    """One program per class of weights."""

    def __init__(self, program: Program) -> None:
        self.program, self.plan = program, program.online
        self.query = side_tensors(program.attention, Side.QUERY)[0]
        self.made: list[Tensor] = []
        self.known: dict[Expr, Expr] = {}

    def parts(self) -> tuple[Program, ...]:
        count = len(self.plan.classes)
        return tuple(self._part(i, last=i == count - 1) for i in range(count))

    def _part(self, i: int, last: bool) -> Program:
        """The program of class i: it leaves rows for the last one, or makes the results."""
        accumulators = [
            (j, a) for j, a in enumerate(self.plan.accumulators) if a.weights[0][0] == i
        ]
        renamed: dict[Expr, Expr] = {Reduced("lse", i, (), None): Reduced("lse", 0, (), None)}
        moments = [x for x in _moments(self.plan) if _classes(x) == {i}]
        for x in moments:
            place = next(n for n, (j, _) in enumerate(accumulators) if j == x.index)
            norms = tuple(substitute(n, dict(renamed)) for n in x.norms)
            renamed[x] = Reduced("moment", place, norms, x.width)
        outputs: tuple[tuple[str, Expr], ...]
        if last:
            outputs = tuple(
                (n, substitute(e, {**self.known, **renamed})) for n, e in self.plan.outputs
            )
        else:
            outputs = tuple(self._keep(x, renamed[x], n) for n, x in enumerate(moments))
            outputs += self._logarithm(i, renamed)
        shared = [replace(a, weights=((0, 1),)) for _, a in accumulators]
        return self._program(i, shared, outputs)

    def _keep(self, x: Reduced, own: Expr, n: int) -> tuple[str, Expr]:
        """A moment that is kept for the last kernel."""
        name = f"{self.plan.classes[next(iter(_classes(x)))].name}_part" + (f"_{n}" if n else "")
        if x.width is None:
            self.made.append(self._tensor(name, Dtype.F32, None))
            self.known[x] = self._number(name)
        else:
            self.made.append(self._tensor(name, self.query.dtype, x.width))
            self.known[x] = Row(name, Side.QUERY, x.width, 0)
        return name, own

    def _logarithm(self, i: int, renamed: dict[Expr, Expr]) -> tuple[tuple[str, Expr], ...]:
        lse = Reduced("lse", i, (), None)
        if not any(lse in _numbers(e) for _, e in self.plan.outputs):
            return ()
        name = f"{self.plan.classes[i].name}_lse"
        self.made.append(self._tensor(name, Dtype.F32, None))
        self.known[lse] = self._number(name)
        return ((name, renamed[lse]),)

    def _tensor(self, name: str, dtype: Dtype, width: int | str | None) -> Tensor:
        axes = self.query.axes[:-1]
        if width is not None:
            axes = (*axes, Axis(str(width), "feature", int(width)))
        return Tensor(name, "input", dtype, axes, packed=self.query.packed)

    def _number(self, name: str) -> Load:
        index = tuple(Index(_INDEX[a.role]) for a in self.query.axes[:-1])
        return Load(name, index, "float")

    def _program(
        self, i: int, accumulators: list[Accumulator], outputs: tuple[tuple[str, Expr], ...]
    ) -> Program:
        plan = self.plan
        moments = [
            x
            for x in walk(*(e for _, e in outputs))
            if isinstance(x, Reduced) and x.what == "moment"
        ]
        own = OnlinePlan(
            plan.mask, (plan.classes[i],), tuple(accumulators), (), tuple(moments), outputs
        )
        read = {x.tensor for _, e in outputs for x in walk(e) if isinstance(x, Row | Load)}
        tensors = (*self.program.attention.tensors, *(t for t in self.made if t.name in read))
        attention: Attention = replace(self.program.attention, tensors=tensors)
        return Program(attention, own, self.program.mask)


def _moments(plan: OnlinePlan) -> list[Reduced]:
    found = walk(*(e for _, e in plan.outputs))
    return [x for x in found if isinstance(x, Reduced) and x.what == "moment"]


def _classes(moment: Reduced) -> set[int]:
    """Classes whose normalisers a moment is over."""
    inside = (n.a if isinstance(n, Binary) else n for n in moment.norms)
    return {n.index for n in inside if isinstance(n, Reduced)}


def _numbers(e: Expr) -> set[Expr]:
    """Logarithms of sums that an expression reads other than as normalisers."""
    from attngen.ir.expr import children  # noqa: PLC0415 - beside its only use

    if isinstance(e, Reduced):
        return {e} if e.what == "lse" else set()
    return set().union(*(_numbers(x) for x in children(e)))

"""`emit_cute_backward(...)`: a backward of two kernels, rows in Triton and tiles in CuTe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attngen.backend.cute.backward.functions import Functions
from attngen.backend.cute.backward.rows import RowsLessTerms
from attngen.backend.cute.backward.shape import BackwardShape, shape_of
from attngen.backend.cute.emit import argument_kind, roles, tuple_text
from attngen.backend.cute.host import Allocate, Call, CuteStep, Ends, Launch, Let
from attngen.backend.emitted import DeviceKernel, Emitted
from attngen.backend.templates import render
from attngen.backend.triton.backward.emit import BackwardFile, Part
from attngen.backend.triton.backward.heads import Heads
from attngen.backend.triton.backward.ledger import TORCH
from attngen.backend.triton.backward.rows import RowsKernel
from attngen.backend.triton.host import host_lines, host_plan
from attngen.backend.triton.layout import head_axis, side_tensors
from attngen.backend.triton.names import Names
from attngen.backend.triton.tensors import POINTER, sizes
from attngen.backend.triton.text import call
from attngen.backend.triton.wrap import wrap_fact, wrap_source
from attngen.backend.value import cdiv, count_of, sum_over, variable
from attngen.core.dtype import Dtype
from attngen.core.target import Target
from attngen.ir.attention import Tensor
from attngen.ir.backward import BackwardPlan
from attngen.ir.expr import Row, Side
from attngen.ir.program import Program
from attngen.ir.text import spec_text
from attngen.schedule.backward import BackwardSchedule
from attngen.schedule.cute_backward import CuteBackwardSchedule

CAST = 2048  # numbers of dQ that a program of the last kernel casts
WARPS = 8  # consumer warps: partial sums of a block of keys
_HOOKS = ("tiles", "before", "after", "first_query", "end_query", "keep", "column", "diagonal")
_MORE = ("sums", "per_tile", "per_key")
OWN = frozenset("torch triton tl ops Backward BackwardPlan BackwardSchedule Stream PLAN".split())


def emit_cute_backward(
    program: Program, plan: BackwardPlan, schedule: CuteBackwardSchedule, target: Target
) -> Emitted:
    """The backward of one program for which `shape.missing` finds nothing.

    The host function is that of the Triton backward: the same arguments, the same results.
    """
    return _File(program, plan, schedule, target).emitted()


class _File(BackwardFile):
    """One file. names: of arrays of the host."""

    def __init__(
        self, program: Program, plan: BackwardPlan, schedule: CuteBackwardSchedule, target: Target
    ) -> None:
        rows = replace(schedule.rows, block_q=schedule.tile_m)
        super().__init__(program, plan, BackwardSchedule(rows, rows, rows), target)
        self.cute, self.pad = schedule, schedule.tile_m
        self.shape: BackwardShape = shape_of(self.backward)
        self.functions = Functions(self.backward, self.shape)
        self.names = Names(OWN | {f.name for f in self.functions.made})
        for t in self.backward.program.attention.tensors:
            self.names.take(t.name)
        self.ends = self.functions.limits.ends
        for name in self.ends.values():
            self.names.take(name)
        self.dq = self.names.take("dq_sum")
        self.turns = self.names.take("turns")
        self.parts = [self.names.take(f"{n.leaf.name}_parts") for n, _ in self.shape.sums]
        self.results = {
            r.tensor: self.ledger.name(f"d_{r.tensor}")
            for r in (self.shape.query, self.shape.key, self.shape.value)
        }

    def make_rows(self) -> RowsKernel:
        """The rows kernel; row terms of the score belong to its normaliser."""
        schedule = self.schedule.rows
        rows = RowsLessTerms(self.backward, schedule, self.target, self.entry, self.cuts)
        rows.row, rows.tile_m = self.shape.split.row, self.cute.tile_m
        return rows

    def emitted(self) -> Emitted:
        """The file."""
        part = self.rows_part()
        if part is None:
            raise TypeError("a softmax has a normaliser, so rows have something to do")
        taken = {self.shape.query.tensor, self.shape.key.tensor, self.shape.value.tensor}
        for g in self.backward.gradients:
            if g.place == "heads" and g.tensor not in taken:
                Heads(self.program.attention).gradient(self.ledger, g)
        for row in (self.shape.query, self.shape.key, self.shape.value):
            self.ledger.part(row.tensor, variable(self.results[row.tensor]))
        arguments = [t.name for t in self.program.attention.tensors if t.view is None]
        arguments += self.backward.given
        host = self._host(part)
        source = self._source(part, arguments, host_lines(host))
        tiles = DeviceKernel(f"{self.entry}_tiles", {}, {}, (), 12, self.cute.stages)
        half = POINTER[self.shape.half]
        cast = DeviceKernel(
            f"{self.entry}_cast",
            {"sums": "*fp32", "out": f"*{half}", "count": "i64"},
            {},
            ("sums", "out"),
            4,
            1,
        )
        return Emitted(
            wrap_source(source),
            self.entry,
            tuple(arguments),
            tuple(f"d_{t}" for t in self.backward.plan.tensors),
            (self.device(part), tiles, cast),
            host=host_plan(host),
            schedule=self.cute.describe(),
            backend="cute",
        )

    def _source(self, part: Part, arguments: list[str], host: list[str]) -> str:
        context = part.context
        return render(
            "cute/backward.py.j2",
            title=f"{self.program.attention.name}, backward, {self.target.name}: by attngen.",
            spec=spec_text(self.program.attention).strip(),
            facts=[wrap_fact(f"Schedule: {self.cute.describe()}")],
            descriptors=any(context.parameters.table[p].descriptor for p in part.parameters),
            helpers=render(
                "triton/helpers.py.j2",
                helpers=set(context.printer.helpers),
                tanh_approx=self.target.tanh_approx,
            ),
            kernel=self.kernel_text(part),
            cast=f"{self.entry}_cast",
            block=CAST,
            scale=self.shape.scales[0],
            functions=self.functions.made,
            plan=self._plan(),
            host_signature=call(f"def {self.entry}", arguments, ":"),
            host_lines=host,
        )

    # ---- the host function ----------------------------------------------------------------------
    def _host(self, part: Part) -> list[CuteStep]:
        query = self.shape.query.tensor
        steps: list[CuteStep] = [*part.context.sizes.steps, *self.made_steps()]
        steps += [*self.ledger.allocations, *self._memory(), *self.launch_steps(part)]
        steps.append(Allocate(self.results[query], query))
        arguments = tuple(n for n, _, _ in self._arguments())
        steps.append(Call("BACKWARD", f"{self.entry}_tiles", arguments))
        count = count_of(self.dq)
        given = {"sums": variable(self.dq), "out": variable(self.results[query]), "count": count}
        steps.append(Launch(f"{self.entry}_cast", (cdiv(count, CAST),), tuple(given.items()), ()))
        for (number, _), name in zip(self.shape.sums, self.parts, strict=True):
            total = sum_over(variable(name), (-1,))
            steps.append(Let(number.leaf.name, total, after="[batch, heads]"))
        return [*steps, *self.ledger.finishing, self.returned()]

    def _memory(self) -> Iterator[CuteStep]:
        """What the kernel of tiles writes and counts in."""
        shape, s = self.shape, self.cute
        sized, query = sizes(self.backward.program.attention), shape.query.tensor
        yield Allocate(self.dq, query, None, "torch.float32", zero=True)
        for row in (shape.key, shape.value):
            yield Allocate(self.results[row.tensor], row.tensor)
        pairs = (sized.batch, sized.heads)
        if s.ordered:
            counts = (*pairs, cdiv(sized.q_len, s.tile_m))
            yield Allocate(self.turns, query, counts, "torch.int32", zero=True)
        for tensor, name in self.ends.items():
            yield Ends(name, tensor)
        for name in self.parts:
            counts = (*pairs, cdiv(sized.kv_len, s.tile_n) * WARPS)
            yield Allocate(name, query, counts, TORCH[Dtype.F32], zero=True)

    # ---- the plan -------------------------------------------------------------------------------
    def _arguments(self) -> list[tuple[str, str, str]]:
        """(array of the host, name in the kernel, kind) of everything the kernel takes."""
        shape, f = self.shape, self.functions
        attention = self.backward.program.attention
        streams = [shape.query.tensor, shape.key.tensor, shape.value.tensor, shape.seed.tensor]
        numbers = [*f.numbers, *f.late_numbers]
        by_name = {n: t for t, n in f.attributes.items()}
        out = []
        for t in attention.tensors:
            own = f.attributes.get(t.name)
            if own is not None and (t.name in streams or own in numbers or own in f.used):
                out.append((t.name, own, argument_kind(t)))
        assert set(numbers) <= set(by_name)
        for tensor, name in self.ends.items():
            out.append((name, name, f"i32 {len(attention.tensor(tensor).axes)} 0"))
        rank = len(attention.tensor(shape.query.tensor).axes)
        half = shape.half.value
        out.append((self.dq, "dq", f"f32 {rank} {shape.query.width}"))
        for own, row in (("dk", shape.key), ("dv", shape.value)):
            axes = len(attention.tensor(row.tensor).axes)
            out.append((self.results[row.tensor], own, f"{half} {axes} {row.width}"))
        if self.cute.ordered:
            out.append((self.turns, "turns", "i32 3 0"))
        out += [(name, name, "f32 3 0") for name in self.parts]
        return out

    def _plan(self) -> list[str]:
        shape, f, s = self.shape, self.functions, self.cute
        made = {x.name for x in f.made}
        arguments = tuple_text([repr((own, kind)) for _, own, kind in self._arguments()])
        fields = [
            ("name", repr(f"{self.entry}_tiles")),
            ("half", repr(shape.half.value)),
            *((n, self._stream(getattr(shape, n))) for n in ("query", "key", "value", "seed")),
            ("dq", self._stream(shape.query, "dq")),
            ("dk", self._stream(shape.key, "dk")),
            ("dv", self._stream(shape.value, "dv")),
            ("arguments", arguments),
            ("schedule", self._schedule(s)),
            ("numbers", tuple_text([repr(n) for n in f.numbers])),
            ("late_numbers", tuple_text([repr(n) for n in f.late_numbers])),
            ("dk_scale", repr(shape.scales[1])),
            ("dv_scale", repr(shape.scales[2])),
            ("nested", repr(f.limits.nested)),
            ("turns", repr("turns" if s.ordered else "")),
            ("sum_names", tuple_text([repr(n) for n in self.parts])),
        ]
        fields += [(n, n) for n in (*_HOOKS, *_MORE) if n in made]
        empty = {
            "sum_names": "()",
            "turns": "''",
            "dk_scale": "1.0",
            "dv_scale": "1.0",
            "nested": "False",
        }
        lines = [f"    {n}={text}," for n, text in fields if empty.get(n) != text]
        return ["PLAN = BackwardPlan(", *lines, ")", "BACKWARD = Runner(PLAN)"]

    def _stream(self, row: Row, name: str = "") -> str:
        t: Tensor = self.backward.program.attention.tensor(row.tensor)
        own = head_axis(side_tensors(self.program.attention, Side.QUERY)[0])
        parts = [repr(name or self.functions.attributes[t.name]), repr(roles(t)), str(row.width)]
        if t.axis("head") is not None and head_axis(t) != own:
            parts.append("own_head=False")
        return f"Stream({', '.join(parts)})"

    def _schedule(self, s: CuteBackwardSchedule) -> str:
        parts = [f"tile_m={s.tile_m}", f"tile_n={s.tile_n}", f"stages={s.stages}"]
        parts += [f"ordered={s.ordered}", f"pin={s.pin}", f"beside={s.beside}"]
        return f"BackwardSchedule({', '.join(parts)})"

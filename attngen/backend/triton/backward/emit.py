"""`emit_backward(program, plan, schedules, target)`: the source file of a backward."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from attngen.backend.emitted import DeviceKernel, Emitted
from attngen.backend.templates import render
from attngen.backend.triton.backward.base import BackwardContext
from attngen.backend.triton.backward.heads import Heads
from attngen.backend.triton.backward.join import can_join, joined_body, joined_parameters
from attngen.backend.triton.backward.kernels import KeysKernel, QueriesKernel
from attngen.backend.triton.backward.ledger import TORCH, Ledger
from attngen.backend.triton.backward.program import Backward, backward_layout, backward_programs
from attngen.backend.triton.backward.rows import RowsKernel
from attngen.backend.triton.context import Context
from attngen.backend.triton.host import (
    Allocate,
    Let,
    Return,
    Step,
    Zeros,
    host_lines,
    host_plan,
    share_of_cache,
)
from attngen.backend.triton.names import Names
from attngen.backend.triton.pieces import (
    device_kernel,
    function_piece,
    kernel_piece,
    launch,
    stage_piece,
)
from attngen.backend.triton.tensors import Parameters, sizes
from attngen.backend.triton.text import call
from attngen.backend.triton.view import Stage
from attngen.backend.triton.wrap import wrap_fact, wrap_source
from attngen.backend.value import Value, cdiv, product, value, variable
from attngen.core.target import Target
from attngen.ir.backward import BackwardPlan
from attngen.ir.program import Program
from attngen.ir.text import spec_text
from attngen.schedule.backward import BackwardSchedule


def emit_backward(
    program: Program, plan: BackwardPlan, schedule: BackwardSchedule, target: Target
) -> Emitted:
    """The backward of one program. SpecError E430 names what has no kernel yet.

    The host function takes the tensors of the spec, then the saved rows, the results that are read
    back and the gradients of the results (`Backward.given`), and returns the gradients of
    `plan.tensors` in order.
    """
    return BackwardFile(program, plan, schedule, target).emitted()


def training_program(program: Program, backward: Backward) -> Program:
    """The forward that also returns the saved rows after the results of the spec.

    Numbers are saved in float32, rows in the dtype of the results.
    """
    saved = tuple((name, r) for name, r in backward.saved)
    outputs = (*program.online.outputs, *saved)
    attention = replace(program.attention, outputs=(*program.attention.outputs, *saved))
    return replace(program, attention=attention, online=replace(program.online, outputs=outputs))


@dataclass(frozen=True)
class Part:
    """One kernel of the file: its context, step (if it loops), text, parameters and grid.

    table: what the names of the parameters mean; inner: functions of the file that it calls.
    """

    context: BackwardContext
    name: str
    doc: str
    stage: Stage | None
    body: str
    parameters: list[str]
    grid: Value
    table: Parameters
    inner: tuple[Part, ...] = ()


class BackwardFile:
    """The file of a backward being printed.

    pad: numbers per query come in multiples of it; backward: the pass being printed, the last one
    before and after.
    """

    pad = 64

    def __init__(
        self, program: Program, plan: BackwardPlan, schedule: BackwardSchedule, target: Target
    ) -> None:
        self.program, self.schedule, self.target = program, schedule, target
        self.passes = backward_programs(program, plan)
        self.backward = self.passes[-1]
        self.entry = Names().take(f"{program.attention.name}_backward")
        by_pass = Counter(n for b in self.passes for n in {g.tensor for g in b.gradients})
        self.ledger = Ledger(wide={n for n, count in by_pass.items() if count > 1})
        self.cuts = backward_layout(self.passes)

    def emitted(self) -> Emitted:
        """The file."""
        parts: list[Part] = []
        for one in self.passes:
            self.backward = one
            parts += self._parts()
        for leaf, several in self.backward.several.items():
            total = functools.reduce(Value.__add__, (variable(x.name) for x in several))
            self.ledger.finishing.append(Let(leaf.name, total))
        for g in self.backward.gradients:
            if g.place == "heads":
                Heads(self.program.attention).gradient(self.ledger, g)
        context = parts[-1].context
        host: list[Step] = [
            *context.sizes.steps,
            *self.made_steps(),
            *self.ledger.allocations,
            *(step for p in parts for step in self.launch_steps(p)),
            *(x.launch(self.by_element) for x in self.ledger.elements),
            *self.ledger.finishing,
            self.returned(),
        ]
        devices = tuple(self.device(p) for p in parts)
        devices += tuple(x.device(self.by_element) for x in self.ledger.elements[:1])
        arguments = [t.name for t in self.program.attention.tensors if t.view is None]
        arguments += self.backward.given
        source = self._render(parts, host, arguments)
        outputs = tuple(f"d_{t}" for t in self.backward.plan.tensors)
        words = f"{self.schedule.queries.describe()}; {self.schedule.keys.describe()}"
        return Emitted(
            source, self.entry, tuple(arguments), outputs, devices, host_plan(host), words
        )

    def _render(self, parts: list[Part], host: list[Step], arguments: list[str]) -> str:
        context = parts[-1].context
        every = [p for part in parts for p in (*part.inner, part)]
        return wrap_source(
            render(
                "triton/forward.py.j2",
                title=f"{self.program.attention.name}, backward, {self.target.name}: by attngen.",
                spec=spec_text(self.program.attention).strip(),
                facts=[
                    wrap_fact(f"Loop over keys: {self.schedule.queries.describe()}"),
                    wrap_fact(f"Loop over queries: {self.schedule.keys.describe()}"),
                ],
                descriptors=any(
                    p.table.table[name].descriptor for p in parts for name in p.parameters
                ),
                helpers=render(
                    "triton/helpers.py.j2",
                    helpers={name for p in every for name in p.context.printer.helpers},
                    tanh_approx=self.target.tanh_approx and not context.facts.wide,
                ),
                stages=[stage_piece(p.stage, p.context.tile) for p in every if p.stage is not None],
                kernels=[
                    *(self.kernel_text(p) for p in every),
                    *(x.text(self.by_element) for x in self.ledger.elements[:1]),
                ],
                host_signature=call(f"def {self.entry}", arguments, ":"),
                host_lines=host_lines(host),
            )
        )

    @property
    def by_element(self) -> str:
        """The name of the kernel that sums by element."""
        return f"{self.entry}_elements"

    def _parts(self) -> list[Part]:
        """The kernels of one pass."""
        own = (self.target, self.entry, self.cuts)
        queries = QueriesKernel(self.backward, self.schedule.queries, *own)
        keys = KeysKernel(self.backward, self.schedule.keys, *own)
        keys.without_end()
        joined = can_join(self.schedule, queries, keys)
        for kernel in (queries, keys):
            kernel.joined = joined
            kernel.float_positions = self.schedule.float_positions
            kernel.skip_empty = self.schedule.skip_empty
        loops = []
        if queries.needed:
            loops.append(self._tiles(queries, "queries", "keys", self._query_grid))
        if keys.needed:
            loops.append(self._tiles(keys, "keys", "queries", self._key_grid))
        if joined:
            loops = [self._join(loops[0], loops[1])]
        rows = self.rows_part()
        return [rows, *loops] if rows is not None else loops

    def _named(self, own: str) -> str:
        """The name of a kernel of this pass."""
        stage = f"_{self.backward.tiles.stage}" if len(self.passes) > 1 else ""
        return f"{self.entry}_{own}{stage}"

    def _join(self, queries: Part, keys: Part) -> Part:
        table, parameters = joined_parameters(
            (queries.table, queries.parameters), (keys.table, keys.parameters), keys.grid
        )
        inner = [replace(p, parameters=["program", *p.parameters]) for p in (queries, keys)]
        body = joined_body((queries.name, queries.parameters), (keys.name, keys.parameters))
        return Part(
            keys.context,
            self._named("tiles"),
            "Both loops in one launch: key tiles first, then query tiles.",
            None,
            body,
            parameters,
            keys.grid + queries.grid,
            table,
            tuple(inner),
        )

    def rows_part(self) -> Part | None:
        """The rows kernel, if there is anything for it to do."""
        kernel = self.make_rows()
        kernel.stores.ledger = self.ledger
        if not kernel.needed:
            return None
        body, parameters = kernel.kernel()
        doc = "What the loops need per query: rows of one tile of queries of one head."
        grid = self._query_grid(kernel)
        return Part(
            kernel, self._named("rows"), doc, None, body, parameters, grid, kernel.parameters
        )

    def make_rows(self) -> RowsKernel:
        """The kernel that prints the rows."""
        return RowsKernel(self.backward, self.schedule.rows, self.target, self.entry, self.cuts)

    def _tiles(
        self,
        kernel: QueriesKernel | KeysKernel,
        own: str,
        other: str,
        grid: Callable[[BackwardContext], Value],
    ) -> Part:
        kernel.stores.ledger = self.ledger
        name = self._named(own)
        stage, body, parameters = kernel.kernel(name)
        doc = f"Gradients of a tile of {own}: a loop over its {other}."
        return Part(kernel, name, doc, stage, body, parameters, grid(kernel), kernel.parameters)

    def _query_grid(self, k: Context) -> Value:
        return self._grid(k, k.sizes.q_len, k.schedule.block_q, "slots")

    def _key_grid(self, k: Context) -> Value:
        return self._grid(k, k.sizes.kv_len, k.schedule.block_k, "key_slots")

    def _grid(self, k: Context, length: Value, block: int, slots: str) -> Value:
        tiles = cdiv(length, block)
        if k.facts.packed:
            tiles = length // block + k.sizes.batch
            k.parameters.add(slots, "i32", tiles)
        return product([tiles, k.programs])

    def made_steps(self) -> list[Step]:
        """Arrays that the rows kernel fills."""
        attention = self.backward.program.attention
        host = sizes(attention)
        counts = {"batch": host.batch, "head": host.heads, "position": host.q_len}
        first = self.program.attention.tensors[0].name
        steps: list[Step] = []
        padded = {name for b in self.passes for name in b.numbers}
        handed = {name for b in self.passes for name in b.handed.values()}
        if padded:  # rows of a multiple of 16 bytes, so that descriptors can hold them
            steps.append(Let("padded", cdiv(host.q_len, self.pad) * self.pad))
        for name in (name for b in self.passes for name in b.own):
            t = attention.tensor(name)
            shape = [counts[a.role] if a.role in counts else value(a.size or 0) for a in t.axes]
            shape = [*shape[:-1], variable("padded")] if name in padded else shape
            # what a loop hands on is stored by rows that exist: its padding has to be zeros
            zero = name in padded and name in handed
            steps.append(Allocate(name, first, tuple(shape), TORCH[t.dtype], zero=zero))
        return steps

    def returned(self) -> Return:
        """The gradients, in order."""
        values: list[Value | Zeros] = []
        for tensor in self.backward.plan.tensors:
            if tensor not in self.ledger.parts:
                scalar = self.program.attention.tensor(tensor).is_scalar
                device = self.program.attention.tensors[0].name if scalar else tensor
                values.append(Zeros(tensor, device, scalar))
            else:
                values.append(self.ledger.gradient(tensor))
        return Return(tuple(values))

    def launch_steps(self, p: Part) -> list[Step]:
        """The launch of one kernel and what comes before it."""
        k, steps = p.context, list[Step]()
        if "heads_in_l2" in p.parameters:
            steps += [Let("programs", k.programs), share_of_cache(variable("programs"))]
        options = [f"num_warps={k.schedule.warps}", f"num_stages={k.schedule.stages}"]
        return [*steps, launch(p.name, (p.grid,), p.table, p.parameters, options)]

    def kernel_text(self, p: Part) -> dict[str, str]:
        """A kernel, or a function that one calls, as the template takes it."""
        if p.parameters[:1] == ["program"]:
            return function_piece(p.name, p.doc, p.body, p.parameters)
        return kernel_piece(p.name, p.doc, p.body, p.table, p.parameters)

    def device(self, p: Part) -> DeviceKernel:
        """A kernel as `triton.compile` takes it."""
        schedule = p.context.schedule
        return device_kernel(p.name, p.table, p.parameters, schedule.warps, schedule.stages)

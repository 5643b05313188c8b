"""`emit(program, schedule, target)`: the complete source file of a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attngen.backend.emitted import DeviceKernel, Emitted
from attngen.backend.templates import render
from attngen.backend.triton.context import Context
from attngen.backend.triton.forward import Forward
from attngen.backend.triton.host import Let, Result, Return, Step, host_lines, host_plan
from attngen.backend.triton.names import Names
from attngen.backend.triton.outputs import Outputs, exact_numbers
from attngen.backend.triton.pieces import device_kernel, kernel_piece, launch, stage_piece
from attngen.backend.triton.split import Merge, Split, Stored, buffer_name, buffers, can_split
from attngen.backend.triton.tensors import Parameters
from attngen.backend.triton.text import call
from attngen.backend.triton.view import Stage
from attngen.backend.triton.wrap import wrap_fact, wrap_source
from attngen.backend.value import (
    ONE,
    cdiv,
    largest,
    low_bit,
    power2,
    product,
    smallest,
    value,
    variable,
)
from attngen.core.target import Target
from attngen.ir.expr import Side
from attngen.ir.program import Program
from attngen.ir.text import spec_text
from attngen.schedule.schedule import Schedule

TORCH_PARTS = {"fp32": "torch.float32", "i32": "torch.int32", "i64": "torch.int64"}
LEAST_PART = 512  # keys a part should have at least
PROGRAMS_PER_SM = 2
MERGE_WARPS, MERGE_STAGES = 4, 2


def emit(program: Program, schedule: Schedule, target: Target) -> Emitted:
    """Source text for one program, schedule and target; a pure function of the three."""
    if schedule.form == "split" and can_split(program):
        return _SplitFile(program, schedule, target).emitted()
    return _TileFile(program, replace(schedule, form="tile"), target).emitted()


class _File:
    """What both forms share: header, helpers, decorators, launches."""

    def __init__(self, program: Program, schedule: Schedule, target: Target) -> None:
        self.program, self.schedule, self.target = program, schedule, target
        self.entry = Names().take(program.attention.name)

    def _render(
        self,
        forward: Context,
        helpers: set[str],
        stages: list[Stage],
        kernels: list[dict[str, str]],
        host: Sequence[Step],
        descriptors: bool,
    ) -> str:
        return wrap_source(
            render(
                "triton/forward.py.j2",
                title=f"{self.program.attention.name}, forward, {self.target.name}: by attngen.",
                spec=spec_text(self.program.attention).strip(),
                facts=[wrap_fact(f"Schedule: {self.schedule.describe()}")],
                descriptors=descriptors,
                helpers=render(
                    "triton/helpers.py.j2",
                    helpers=helpers,
                    tanh_approx=self.target.tanh_approx
                    and not forward.facts.wide
                    and not exact_numbers(self.program.online),
                ),
                stages=[stage_piece(s, f"{self.schedule.block_k} keys") for s in stages],
                kernels=kernels,
                host_signature=call(f"def {self.entry}", self._arguments(), ":"),
                host_lines=host_lines(host),
            )
        )

    def _device(self, name: str, table: Parameters, parameters: list[str]) -> DeviceKernel:
        s = self.schedule
        return device_kernel(name, table, parameters, s.warps, s.stages, s.max_registers)

    def _options(self, warps: int, stages: int) -> list[str]:
        options = [f"num_warps={warps}", f"num_stages={stages}"]
        if self.schedule.max_registers and self.target.family == "cuda":
            options.append(f"maxnreg={self.schedule.max_registers}")
        return options

    def _emitted(
        self, source: str, host: Sequence[Step], kernels: tuple[DeviceKernel, ...]
    ) -> Emitted:
        arguments = tuple(self._arguments())
        plan, words = host_plan(host), self.schedule.describe()
        return Emitted(source, self.entry, arguments, self._outputs(), kernels, plan, words)

    def _arguments(self) -> list[str]:
        return [t.name for t in self.program.attention.tensors if t.view is None]

    def _outputs(self) -> tuple[str, ...]:
        return tuple(n for n, _ in self.program.attention.outputs)


class _TileFile(_File):
    """One kernel: a program owns a tile of queries of one head."""

    def emitted(self) -> Emitted:
        """The file."""
        forward = Forward(self.program, self.schedule, self.target, self.entry)
        body, stages, parameters = forward.kernel()
        table, name = forward.parameters, f"{self.entry}_forward"
        doc = (
            f"{self.schedule.block_q} queries of one head; heads that share the cache run together."
        )
        host = self._host(forward, name, parameters)
        source = self._render(
            forward,
            forward.printer.helpers,
            stages,
            [kernel_piece(name, doc, body, table, parameters)],
            host,
            any(table.table[p].descriptor for p in parameters),
        )
        kernel = self._device(name, table, parameters)
        return self._emitted(source, host, (kernel,))

    def _host(self, f: Forward, name: str, parameters: list[str]) -> list[Step]:
        block, length = self.schedule.block_q, f.sizes.q_len
        steps: list[Step] = [*f.sizes.steps, *f.outputs.allocations()]
        if f.facts.packed:
            steps.append(Let("tiles", length // block + f.sizes.batch, after="an upper bound"))
        else:
            steps.append(Let("tiles", cdiv(length, block)))
        grid = variable("tiles")
        if f.programs != ONE:
            programs = variable("programs")
            grid = grid * programs
            held = value(self.target.l2 // 2) // largest(1, f.sizes.kv_len * self._key_bytes(f))
            share = smallest(power2(variable("in_l2")), low_bit(programs))
            why = "a power of two that divides the number of programs of a tile"
            steps += [
                Let("programs", f.programs),
                Let("in_l2", largest(1, held)),
                Let("heads_in_l2", share, before=why),
            ]
        options = self._options(self.schedule.warps, self.schedule.stages)
        steps.append(launch(name, (grid,), f.parameters, parameters, options))
        return [*steps, _returned(f.outputs)]

    def _key_bytes(self, f: Forward) -> int:
        """Bytes of all key-side rows per key of one head."""
        return sum(
            f.layout.width(t.name) * t.dtype.bytes
            for t in self.program.attention.tensors
            if t.name in f.layout.cuts and f.streams.side(t) is Side.KEY
        )


class _SplitFile(_File):
    """Two kernels: parts of the keys for all queries of a group of heads, then the merge."""

    def emitted(self) -> Emitted:
        """The file."""
        split = Split(self.program, self.schedule, self.target, self.entry)
        body, stage, stored, step, parameters = split.split_kernel()
        merge = Merge(self.program, self.schedule, self.target, self.entry)
        merge_body, merge_parameters = merge.merge_kernel(step, stored)
        name, merge_name = f"{self.entry}_split", f"{self.entry}_merge"
        kernels = [
            kernel_piece(
                name,
                "One part of the keys for the queries of one group of heads.",
                body,
                split.parameters,
                parameters,
            ),
            kernel_piece(
                merge_name,
                "One query of one head: merges its parts and finishes the row.",
                merge_body,
                merge.parameters,
                merge_parameters,
            ),
        ]
        table = split.parameters.table
        host = self._host(split, merge, stored, (name, parameters), (merge_name, merge_parameters))
        source = self._render(
            split,
            split.printer.helpers | merge.printer.helpers,
            [stage],
            kernels,
            host,
            any(table[p].descriptor for p in parameters),
        )
        devices = (
            self._device(name, split.parameters, parameters),
            device_kernel(
                merge_name,
                merge.parameters,
                merge_parameters,
                MERGE_WARPS,
                MERGE_STAGES,
                dependent=self.target.dependent_launch,
            ),
        )
        return self._emitted(source, host, devices)

    def _host(
        self,
        split: Split,
        merge: Merge,
        stored: list[Stored],
        first: tuple[str, list[str]],
        second: tuple[str, list[str]],
    ) -> list[Step]:
        sizes, block = split.sizes, self.schedule.block_q
        heads, group = split.together.count, split.together.group
        per_group = sizes.q_len if group == ONE else sizes.q_len * group
        most = value(self.target.multiprocessors * PROGRAMS_PER_SM) // variable("places")
        parts = smallest(cdiv(sizes.kv_len, LEAST_PART), most)
        if split.facts.packed:  # upper bounds: nobody knows here how long each sequence is
            rows = product([sizes.heads, sizes.q_len])
            places = product([per_group // block + sizes.batch, heads])
            merges = [Let("slots", sizes.q_len + sizes.batch)]
            merged = product([variable("slots"), sizes.heads])
        else:
            rows = product([sizes.batch, sizes.heads, sizes.q_len])
            places = product([sizes.batch, heads, cdiv(per_group, block)])
            merges, merged = [], variable("rows")
        steps: list[Step] = [
            *sizes.steps,
            *split.together.steps,
            *merge.outputs.allocations(),
            Let("rows", rows),
            Let("places", places),
            Let("splits", largest(1, parts)),
            Let("cells", variable("rows") * variable("splits")),
            *merges,
        ]
        for dtype, width in buffers(stored).items():
            name, query = buffer_name(dtype), merge.outputs.query.name
            shape = (variable("cells") * width,)
            steps.append(Result(name, query, shape, TORCH_PARTS[dtype]))
        options = self._options(self.schedule.warps, self.schedule.stages)
        grid = (variable("splits"), variable("places"))
        steps.append(launch(first[0], grid, split.parameters, first[1], options))
        options = [f"num_warps={MERGE_WARPS}", f"num_stages={MERGE_STAGES}"]
        options += ["launch_pdl=True"] if self.target.dependent_launch else []
        steps.append(launch(second[0], (merged,), merge.parameters, second[1], options))
        return [*steps, _returned(merge.outputs)]


def _returned(outputs: Outputs) -> Return:
    return Return(tuple(variable(r.name) for r in outputs.results))

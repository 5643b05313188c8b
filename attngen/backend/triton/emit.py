"""`emit(program, schedule, target)`: the complete source file of a kernel."""

from __future__ import annotations

from dataclasses import replace

from attngen.backend.emitted import DeviceKernel, Emitted
from attngen.backend.templates import render
from attngen.backend.triton.context import Context
from attngen.backend.triton.forward import Forward
from attngen.backend.triton.names import Names
from attngen.backend.triton.outputs import Outputs, exact_numbers
from attngen.backend.triton.pieces import device_kernel, kernel_piece, launch_lines, stage_piece
from attngen.backend.triton.split import Merge, Split, Stored, buffer_name, buffers, can_split
from attngen.backend.triton.tensors import Parameters
from attngen.backend.triton.text import call
from attngen.backend.triton.view import Stage
from attngen.backend.triton.wrap import wrap_fact, wrap_source
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
        host_lines: list[str],
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
                stages=[stage_piece(s) for s in stages],
                block_k=self.schedule.block_k,
                kernels=kernels,
                host_signature=call(f"def {self.entry}", self._arguments(), ":"),
                host_lines=host_lines,
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
        source = self._render(
            forward,
            forward.printer.helpers,
            stages,
            [kernel_piece(name, doc, body, table, parameters)],
            self._host(forward, name, parameters),
            any(table.table[p].descriptor for p in parameters),
        )
        kernel = self._device(name, table, parameters)
        return Emitted(source, self.entry, tuple(self._arguments()), self._outputs(), (kernel,))

    def _host(self, f: Forward, name: str, parameters: list[str]) -> list[str]:
        block, batch = self.schedule.block_q, f.sizes.batch
        lines = [*f.sizes.lines, *f.outputs.allocations()]
        if f.facts.packed:
            lines.append(f"tiles = {f.sizes.q_len} // {block} + {batch}  # an upper bound")
        else:
            lines.append(f"tiles = triton.cdiv({f.sizes.q_len}, {block})")
        grid = "(tiles,)"
        if f.programs != "1":
            grid = "(tiles * programs,)"
            lines += [
                f"programs = {f.programs}",
                f"in_l2 = max(1, {self.target.l2 // 2} "
                f"// max(1, {f.sizes.kv_len} * {self._key_bytes(f)}))",
                "# a power of two that divides the number of programs of a tile",
                "heads_in_l2 = min(1 << (in_l2.bit_length() - 1), programs & -programs)",
            ]
        options = self._options(self.schedule.warps, self.schedule.stages)
        lines += launch_lines(name, grid, f.parameters, parameters, options)
        return [*lines, _returned(f.outputs)]

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
        source = self._render(
            split,
            split.printer.helpers | merge.printer.helpers,
            [stage],
            kernels,
            self._host(split, merge, stored, (name, parameters), (merge_name, merge_parameters)),
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
                self.schedule.max_registers,
            ),
        )
        return Emitted(source, self.entry, tuple(self._arguments()), self._outputs(), devices)

    def _host(
        self,
        split: Split,
        merge: Merge,
        stored: list[Stored],
        first: tuple[str, list[str]],
        second: tuple[str, list[str]],
    ) -> list[str]:
        sizes, block = split.sizes, self.schedule.block_q
        heads = "kv_heads" if sizes.groups else sizes.heads
        groups = " * ".join(x for x in (sizes.batch, heads) if x != "1") or "1"
        rows = " * ".join(x for x in (sizes.batch, sizes.heads, sizes.q_len) if x != "1") or "1"
        per_group = f"{sizes.q_len} * ({sizes.heads} // {heads})" if sizes.groups else sizes.q_len
        lines = [
            *sizes.lines,
            *merge.outputs.allocations(),
            f"rows = {rows}",
            f"places = {groups} * triton.cdiv({per_group}, {block})",
            f"splits = max(1, min(triton.cdiv({sizes.kv_len}, {LEAST_PART}), "
            f"{self.target.multiprocessors * PROGRAMS_PER_SM} // places))",
            "cells = rows * splits",
        ]
        for dtype, width in buffers(stored).items():
            lines.append(
                f"{buffer_name(dtype)} = {merge.outputs.query.name}.new_empty(cells * {width}, "
                f"dtype={TORCH_PARTS[dtype]})"
            )
        options = self._options(self.schedule.warps, self.schedule.stages)
        early = ["launch_pdl=True"] if self.target.dependent_launch else []
        lines += launch_lines(first[0], "(splits, places)", split.parameters, first[1], options)
        lines += launch_lines(
            second[0],
            "(rows,)",
            merge.parameters,
            second[1],
            [f"num_warps={MERGE_WARPS}", f"num_stages={MERGE_STAGES}", *early],
        )
        return [*lines, _returned(merge.outputs)]


def _returned(outputs: Outputs) -> str:
    names = ", ".join(r.name for r in outputs.results)
    return f"return ({names},)" if len(outputs.results) == 1 else f"return {names}"

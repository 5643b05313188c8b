"""`emit(program, schedule, target)`: the complete source file of a kernel."""

from __future__ import annotations

from attngen.backend.emitted import DeviceKernel, Emitted
from attngen.backend.templates import render
from attngen.backend.triton.forward import Forward, Stage
from attngen.backend.triton.names import Names
from attngen.backend.triton.outputs import Outputs
from attngen.backend.triton.tensors import Parameters
from attngen.backend.triton.text import call, used
from attngen.core.target import Target
from attngen.ir.expr import Side
from attngen.ir.program import Program
from attngen.ir.text import spec_text
from attngen.schedule.schedule import Schedule


def emit(program: Program, schedule: Schedule, target: Target) -> Emitted:
    """Source text for one program, schedule and target; a pure function of the three."""
    return _File(program, schedule, target).emitted()


class _File:
    def __init__(self, program: Program, schedule: Schedule, target: Target) -> None:
        self.program, self.schedule, self.target = program, schedule, target
        self.entry = Names().take(program.attention.name)
        self.forward = Forward(program, schedule, target, self.entry)

    def emitted(self) -> Emitted:
        kernel_body, stages, parameters = self.forward.kernel()
        name = f"{self.entry}_forward"
        table = self.forward.parameters
        source = render(
            "triton/forward.py.j2",
            title=f"{self.program.attention.name}: forward, {self.target.name}. Written by attngen.",
            spec=spec_text(self.program.attention).strip(),
            facts=[f"Schedule: {self.schedule.describe()}"],
            descriptors=any(p.endswith("_tiles") or "_tiles" in p for p in parameters),
            helpers=self._helpers(stages, kernel_body),
            stages=[self._stage(s) for s in stages],
            block_k=self.schedule.block_k,
            kernel_decorator=self._decorator(table, parameters),
            kernel_signature=call(f"def {name}", parameters, ":"),
            kernel_doc=f"{self.schedule.block_q} queries of one head. Heads whose keys fit in the L2 cache together run together.",
            kernel_body=kernel_body,
            host_signature=call(f"def {self.entry}", self._arguments(), ":"),
            host_doc="Launches the kernel; the tensors have been checked. Returns the results in the order of the spec.",
            host_lines=self._host(name, table, parameters),
        )
        kernel = DeviceKernel(
            name, {p: table.table[p].type for p in parameters}, {},
            tuple(p for p in parameters if table.table[p].specialised),
            self.schedule.warps, self.schedule.stages, self.schedule.max_registers,
        )  # fmt: skip
        outputs = tuple(n for n, _ in self.program.attention.outputs)
        return Emitted(source, self.entry, tuple(self._arguments()), outputs, (kernel,))

    def _helpers(self, stages: list[Stage], body: str) -> str:
        return render(
            "triton/helpers.py.j2",
            helpers=self.forward.printer.helpers,
            tanh_approx=self.target.tanh_approx and not self.forward.wide,
        )

    def _stage(self, s: Stage) -> dict[str, str]:
        signature = call(f"def {s.name}", [*s.parameters, "PARTIAL: tl.constexpr"], ":")
        return {"signature": signature, "body": s.body, "any_kept_function": s.any_kept_function}

    def _decorator(self, table: Parameters, parameters: list[str]) -> str:
        free = [f'"{p}"' for p in parameters if table.table[p].type in ("i32", "i64") and not table.table[p].specialised]
        if not free:
            return "@triton.jit"
        return call("@triton.jit", [f"do_not_specialize=[{', '.join(free)}]"], "")

    def _arguments(self) -> list[str]:
        return [t.name for t in self.program.attention.tensors if t.view is None]

    def _host(self, name: str, table: Parameters, parameters: list[str]) -> list[str]:
        f = self.forward
        outputs: Outputs = f.outputs
        lines = [*f.sizes.lines, *outputs.allocations()]
        block = self.schedule.block_q
        batch = f.sizes.batch
        if f.packed:
            lines.append(f"tiles = {f.sizes.q_len} // {block} + {batch}  # an upper bound; empty ones return at once")
            total = f.sizes.heads
        else:
            lines.append(f"tiles = triton.cdiv({f.sizes.q_len}, {block})")
            total = " * ".join(x for x in (batch, f.sizes.heads) if x != "1") or "1"
        keys = f.sizes.kv_len
        lines += [
            f"heads_total = {total}",
            f"in_l2 = max(1, {self.target.l2 // 2} // max(1, {keys} * {self._key_bytes()}))",
            "heads_in_l2 = min(1 << (in_l2.bit_length() - 1), heads_total & -heads_total)",
        ]
        arguments = [self._host_argument(table, p) for p in parameters]
        options = [f"num_warps={self.schedule.warps}", f"num_stages={self.schedule.stages}"]
        if self.schedule.max_registers and self.target.family == "cuda":
            options.append(f"maxnreg={self.schedule.max_registers}")
        lines += call(f"{name}[(tiles * heads_total,)]", arguments + options, "", 4).split("\n    ")
        results = ", ".join(r.name for r in outputs.results)
        lines.append(f"return ({results},)")
        return lines

    def _host_argument(self, table: Parameters, name: str) -> str:
        return table.table[name].host

    def _key_bytes(self) -> int:
        """Bytes of all key-side rows per key of one head."""
        f = self.forward
        return sum(
            f.layout.width(t.name) * t.dtype.bytes
            for t in self.program.attention.tensors
            if t.name in f.layout.cuts and f.streams.side(t) is Side.KEY
        )


__all__ = ["emit", "used"]

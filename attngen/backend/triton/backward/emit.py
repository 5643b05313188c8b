"""`emit_backward(program, plan, schedules, target)`: the source file of a backward."""

from __future__ import annotations

from dataclasses import replace

from attngen.backend.emitted import DeviceKernel, Emitted
from attngen.backend.templates import render
from attngen.backend.triton.backward.kernels import KeysKernel, QueriesKernel, TileKernel
from attngen.backend.triton.backward.program import Backward, backward_layout, backward_program
from attngen.backend.triton.backward.rows import RowsKernel
from attngen.backend.triton.backward.store import Ledger, head_gradient
from attngen.backend.triton.context import Context
from attngen.backend.triton.emit import decorator, lines_of
from attngen.backend.triton.names import Names
from attngen.backend.triton.text import call
from attngen.backend.triton.view import Stage
from attngen.core.dtype import Dtype
from attngen.core.target import Target
from attngen.ir.backward import BackwardPlan
from attngen.ir.program import Program
from attngen.ir.text import spec_text
from attngen.schedule.backward import BackwardSchedule
from attngen.schedule.schedule import Schedule

TORCH = {Dtype.F16: "torch.float16", Dtype.BF16: "torch.bfloat16", Dtype.F32: "torch.float32"}


def emit_backward(
    program: Program, plan: BackwardPlan, schedule: BackwardSchedule, target: Target
) -> Emitted:
    """The backward of one program. SpecError E430 names what has no kernel yet.

    The host function takes the tensors of the spec, then the saved rows, the results that are read
    back and the gradients of the results (`Backward.given`), and returns the gradients of
    `plan.tensors` in order.
    """
    return _File(program, plan, schedule, target).emitted()


def training_program(program: Program, backward: Backward) -> Program:
    """The forward that also returns the saved rows, in fp32, after the results of the spec."""
    saved = tuple((name, r) for name, r in backward.saved)
    outputs = (*program.online.outputs, *saved)
    attention = replace(program.attention, outputs=(*program.attention.outputs, *saved))
    return replace(program, attention=attention, online=replace(program.online, outputs=outputs))


class _File:
    def __init__(self, program: Program, plan: BackwardPlan, schedule: BackwardSchedule, target: Target) -> None:
        self.program, self.schedule, self.target = program, schedule, target
        self.backward = backward_program(program, plan)
        self.entry = Names().take(f"{program.attention.name}_backward")
        self.ledger = Ledger()

    def emitted(self) -> Emitted:
        cuts = backward_layout(self.backward)
        made = (self.backward, self.target, self.entry, cuts)
        rows = self._rows(*made)
        queries, keys = self._tiles(QueriesKernel, "queries", *made), self._tiles(KeysKernel, "keys", *made)
        parts = [p for p in (rows, queries, keys) if p is not None]
        for g in self.backward.gradients:
            if g.place == "heads":
                head_gradient(self.ledger, g)
        kernels, stages, host, devices, helpers = [], [], [], [], set()
        for context, stage, name, body, parameters, doc, grid in parts:
            kernels.append(self._kernel(context, name, doc, body, parameters))
            stages += [stage] if stage is not None else []
            host += self._launch(context, name, grid, parameters)
            devices.append(self._device(context, name, parameters))
            helpers |= context.printer.helpers
        context = parts[-1][0]
        arguments = [t.name for t in self.program.attention.tensors if t.view is None]
        arguments += self.backward.given
        source = render(
            "triton/forward.py.j2",
            title=f"{self.program.attention.name}, backward, {self.target.name}: by attngen.",
            spec=spec_text(self.program.attention).strip(),
            facts=[
                f"Schedule of the loop over keys: {self.schedule.queries.describe()}",
                f"Schedule of the loop over queries: {self.schedule.keys.describe()}",
            ],
            descriptors=any(c.parameters.table[p].descriptor for c, _, _, _, ps, _, _ in parts for p in ps),
            helpers=render("triton/helpers.py.j2", helpers=helpers,
                           tanh_approx=self.target.tanh_approx and not context.facts.wide),
            stages=[self._stage(s) for s in stages],
            block_k="keys or queries",
            kernels=kernels,
            host_signature=call(f"def {self.entry}", arguments, ":"),
            host_lines=[*self._sizes(context), *self._made(), *self.ledger.allocations, *host,
                        *self.ledger.finishing, self._returned()],
        )
        outputs = tuple(f"d_{t}" for t in self.backward.plan.tensors)
        return Emitted(source, self.entry, tuple(arguments), outputs, tuple(devices))

    def _rows(self, backward, target, entry, cuts):  # type: ignore[no-untyped-def]
        kernel = RowsKernel(backward, self.schedule.rows, target, entry, cuts)
        kernel.stores.ledger = self.ledger
        if not kernel.needed:
            return None
        body, parameters = kernel.kernel()
        doc = "What the loops need per query: rows of one tile of queries of one head."
        return kernel, None, f"{entry}_rows", body, parameters, doc, self._query_grid(kernel)

    def _tiles(self, kind, which, backward, target, entry, cuts):  # type: ignore[no-untyped-def]
        schedule: Schedule = getattr(self.schedule, which)
        kernel: TileKernel = kind(backward, schedule, target, entry, cuts)
        kernel.stores.ledger = self.ledger
        stage, body, parameters = kernel.kernel(f"{entry}_{which}")
        other = {"queries": "keys", "keys": "queries"}[which]
        doc = f"Gradients of a tile of {which}: a loop over its {other}."
        grid = self._query_grid(kernel) if which == "queries" else self._key_grid(kernel)
        return kernel, stage, f"{entry}_{which}", body, parameters, doc, grid

    def _query_grid(self, k: Context) -> str:
        block = k.schedule.block_q
        tiles = f"triton.cdiv({k.sizes.q_len}, {block})"
        if k.facts.packed:
            tiles = f"({k.sizes.q_len} // {block} + {k.sizes.batch})"
            k.parameters.add("slots", "i32", tiles)
        return tiles if k.programs == "1" else f"{tiles} * {k.programs}"

    def _key_grid(self, k: Context) -> str:
        block = k.schedule.block_k
        tiles = f"triton.cdiv({k.sizes.kv_len}, {block})"
        if k.facts.packed:
            tiles = f"({k.sizes.kv_len} // {block} + {k.sizes.batch})"
            k.parameters.add("key_slots", "i32", tiles)
        return tiles if k.programs == "1" else f"{tiles} * {k.programs}"

    def _sizes(self, k: Context) -> list[str]:
        return list(k.sizes.lines)

    def _made(self) -> list[str]:
        lines = []
        attention = self.backward.program.attention
        counts = RowsKernel(self.backward, self.schedule.rows, self.target, "", backward_layout(self.backward)).sizes
        sizes = {"batch": counts.batch, "head": counts.heads, "position": counts.q_len}
        for name in self.backward.made.values():
            t = attention.tensor(name)
            shape = [sizes.get(a.role) or str(a.size) for a in t.axes]
            comma = "," if len(shape) == 1 else ""
            device = f"{self.program.attention.tensors[0].name}.device"
            lines.append(f"{name} = torch.empty(({', '.join(shape)}{comma}), dtype={TORCH[t.dtype]}, device={device})")
        return lines

    def _returned(self) -> str:
        texts = []
        for tensor in self.backward.plan.tensors:
            parts = self.ledger.parts.get(tensor)
            if not parts and self.program.attention.tensor(tensor).is_scalar:
                device = f"{self.program.attention.tensors[0].name}.device"
                parts = [f"torch.zeros((), dtype=torch.float32, device={device})"]
            texts.append(" + ".join(parts) if parts else f"torch.zeros({tensor}.shape, dtype={tensor}.dtype, device={tensor}.device)")
        return f"return ({', '.join(texts)},)" if len(texts) == 1 else f"return {', '.join(texts)}"

    def _launch(self, k: Context, name: str, grid: str, parameters: list[str]) -> list[str]:
        lines = []
        table = k.parameters.table
        for p in parameters:
            if table[p].descriptor:
                lines += lines_of(call(f"{p} = TensorDescriptor", table[p].descriptor, "", 4))
        if "heads_in_l2" in parameters:
            lines.append(f"programs = {k.programs}")
            lines.append("heads_in_l2 = min(4, programs & -programs)")
        options = [f"num_warps={k.schedule.warps}", f"num_stages={k.schedule.stages}"]
        return lines + lines_of(call(f"{name}[({grid},)]", [table[p].host for p in parameters] + options, "", 4))

    def _kernel(self, k: Context, name: str, doc: str, body: str, parameters: list[str]) -> dict[str, str]:
        table = k.parameters.table
        free = [p for p in parameters if table[p].type in ("i32", "i64") and not table[p].specialised]
        return {"decorator": decorator(free), "signature": call(f"def {name}", parameters, ":"), "doc": doc, "body": body}

    def _stage(self, s: Stage) -> dict[str, str]:
        flag = ["PARTIAL: tl.constexpr"] if s.flagged else []
        return {"signature": call(f"def {s.name}", [*s.parameters, *flag], ":"), "body": s.body, "any_kept_function": ""}

    def _device(self, k: Context, name: str, parameters: list[str]) -> DeviceKernel:
        table = k.parameters.table
        return DeviceKernel(
            name, {p: table[p].type for p in parameters}, {},
            tuple(p for p in parameters if table[p].specialised), k.schedule.warps, k.schedule.stages,
        )

"""`emit(program, schedule, target)`: the complete source file of a CuTe kernel."""

from __future__ import annotations

from attngen.backend.cute.functions import Functions
from attngen.backend.cute.shape import Shape, shape_of
from attngen.backend.emitted import DeviceKernel, Emitted
from attngen.backend.templates import render
from attngen.backend.triton.layout import head_axis
from attngen.backend.triton.names import Names
from attngen.backend.triton.outputs import Outputs, Result
from attngen.backend.triton.printer import LOG2E
from attngen.backend.triton.tensors import Parameters, sizes
from attngen.backend.triton.text import call
from attngen.backend.triton.wrap import wrap_fact, wrap_source
from attngen.core.dtype import Dtype
from attngen.core.target import Target
from attngen.ir.attention import Tensor
from attngen.ir.expr import Row, Side
from attngen.ir.program import Program
from attngen.ir.text import spec_text
from attngen.schedule.cute import L2, CuteSchedule

OWN = frozenset("torch ops Forward Plan Schedule Stream FORWARD PLAN flags tickets".split())
_HOOKS = ("tiles", "finish", "first_key", "end_key", "keep", "slope", "column", "diagonal",
          "distance", "score")
_SCALARS = {Dtype.F32: "f32", Dtype.I32: "i32", Dtype.BOOL: "i32"}
WARPS = 4  # of a warpgroup


def emit(program: Program, schedule: CuteSchedule, target: Target) -> Emitted:
    """Source text for one program, schedule and target; a pure function of the three."""
    return _File(program, schedule, target).emitted()


class _File:
    def __init__(self, program: Program, schedule: CuteSchedule, target: Target) -> None:
        self.program, self.schedule, self.target = program, schedule, target
        self.attention = program.attention
        self.shape: Shape = shape_of(program)
        self.functions = Functions(program, self.shape)
        made = frozenset(f.name for f in self.functions.made)
        self.entry = Names(OWN | made).take(self.attention.name)
        self.sizes = sizes(self.attention)
        self.outputs = Outputs(
            self.attention, program.online, self.sizes, schedule.tile_m, Parameters()
        )

    def emitted(self) -> Emitted:
        """The file."""
        declared = [t for t in self.attention.tensors if t.view is None]
        source = render(
            "cute/forward.py.j2",
            title=f"{self.attention.name}, forward, {self.target.name}: by attngen.",
            spec=spec_text(self.attention).strip(),
            facts=[wrap_fact(f"Schedule: {self.schedule.describe()}")],
            functions=self.functions.made,
            plan=self._plan(declared),
            host_signature=call(f"def {self.entry}", [t.name for t in declared], ":"),
            host_lines=self._host(declared),
        )
        name = f"{self.entry}_forward"
        s = self.schedule
        kernel = DeviceKernel(name, {}, {}, (), WARPS * (s.tile_m // 64 + 1), s.stages)
        return Emitted(
            wrap_source(source),
            self.entry,
            tuple(t.name for t in declared),
            tuple(n for n, _ in self.program.online.outputs),
            (kernel,),
            "cute",
        )

    # ---- the plan -------------------------------------------------------------------------------
    def _plan(self, declared: list[Tensor]) -> list[str]:
        f, shape, s = self.functions, self.shape, self.schedule
        made = {x.name for x in f.made}
        split = shape.split
        fields = [
            ("name", repr(f"{self.entry}_forward")),
            ("half", repr(shape.half.value)),
            ("query", self._stream(shape.query)),
            ("key", self._stream(shape.key)),
            ("value", self._stream(shape.value)),
            ("arguments", _tuple([repr(x) for x in self._arguments(declared)])),
            ("rows", _tuple([f'("{name}", {function})' for name, function in f.rows])),
            ("numbers", _tuple([repr(n) for n in f.numbers])),
            ("result_roles", repr(_roles(self.outputs.query))),
            ("row_streams", _tuple([self._stream(x) for x in f.row_streams])),
            ("schedule", self._schedule(s)),
            ("scale", repr(split.scale)),
            ("near", repr(f.near)),
            ("fixed", repr(self._fixed())),
            ("runs", _tuple([f'("{name}", {function})' for name, function in f.runs])),
        ]
        fields += [(n, n) for n in (*_HOOKS, "per_tile", "per_row") if n in made]
        empty = {"row_streams": "()", "near": "None", "runs": "()", "numbers": "()", "fixed": "0.0"}
        kept = [(n, text) for n, text in fields if empty.get(n) != text]
        lines = [f"    {n}={text}," for n, text in kept]
        return ["PLAN = Plan(", *lines, ")", "FORWARD = Forward(PLAN)"]

    def _stream(self, row: Row) -> str:
        t = self.attention.tensor(row.tensor)
        own = head_axis(self.outputs.query)
        parts = [repr(self.functions.attributes[t.name]), repr(_roles(t)), str(row.width)]
        if row.start:
            parts.append(f"start={row.start}")
        name = self._key_name(row)
        if name != self.functions.attributes[t.name]:
            parts[0] = repr(name)
            parts.append(f"of={self.functions.attributes[t.name]!r}")
        if t.axis("head") is not None and head_axis(t) != own:
            parts.append("own_head=False")
        return f"Stream({', '.join(parts)})"

    def _key_name(self, row: Row) -> str:
        """A tensor read as keys and as values has a view for each."""
        name = self.functions.attributes[row.tensor]
        twice = row.side is Side.KEY and self.shape.key.tensor == self.shape.value.tensor
        return f"{name}_values" if twice and row is self.shape.value else name

    def _arguments(self, declared: list[Tensor]) -> list[tuple[str, str]]:
        names = self.functions.attributes
        out = [(names[t.name], _kind(t)) for t in declared]
        out += [(names[r.name], _result_kind(r, self.outputs.query)) for r in self.outputs.results]
        return out + [(name, "i32 1 0") for name in self._working()]

    def _working(self) -> list[str]:
        """Working memory the host passes: flags of tiles to redo, the ticket of the next tile."""
        flags = ["flags"] if self.schedule.reference == "first" else []
        return flags + (["tickets"] if self.schedule.form == "flat" else [])

    def _schedule(self, s: CuteSchedule) -> str:
        parts = [f"tile_m={s.tile_m}", f"tile_n={s.tile_n}", f"stages={s.stages}"]
        parts += [f"turns={s.order == 'turns'}", f"reference={s.reference!r}"]
        parts += ["flat=True"] if s.form == "flat" else []
        parts += [f"l2={s.l2}"] if s.l2 != L2 else []
        return f"Schedule({', '.join(parts)})"

    def _fixed(self) -> float:
        """The middle of the bounds, in log2 units."""
        c = self.program.online.classes[0]
        return (c.low + c.high) / 2 * LOG2E if self.schedule.reference == "fixed" else 0.0

    # ---- the host function ----------------------------------------------------------------------
    def _host(self, declared: list[Tensor]) -> list[str]:
        arguments = [t.name for t in declared] + [r.name for r in self.outputs.results]
        lines = [*self.outputs.allocations()]
        if self.schedule.reference == "first":
            s = self.sizes
            pairs = " * ".join(x for x in (s.batch, s.heads) if x != "1") or "1"
            warps = WARPS * (self.schedule.tile_m // 64)
            lines.append(f"blocks = -(-{s.q_len} // {self.schedule.tile_m}) * {pairs}")
            lines.append(
                f"flags = {self.outputs.query.name}.new_empty((blocks * {warps},), dtype=torch.int32)"
                "  # by warp"
            )
        if self.schedule.form == "flat":
            lines.append(f"tickets = {self.outputs.query.name}.new_zeros((1,), dtype=torch.int32)")
        arguments += self._working()
        names = ", ".join(r.name for r in self.outputs.results)
        body = "\n".join(lines)
        sizes_ = [x for x in self.sizes.lines if x.split(" = ")[0] in body]
        comma = "," if len(self.outputs.results) == 1 else ""
        returned = f"({names}{comma})" if comma else names
        return [*sizes_, *lines, call("FORWARD", arguments, ""), f"return {returned}"]


def _roles(t: Tensor) -> tuple[str, ...]:
    return tuple(a.role for a in t.axes)


def _kind(t: Tensor) -> str:
    if t.is_scalar:
        return _SCALARS[t.dtype]
    last = t.axes[-1]
    width = last.size if last.role == "feature" and last.size else 0
    return f"{t.dtype.value} {len(t.axes)} {width}"


def _result_kind(r: Result, query: Tensor) -> str:
    dtype = {"torch.bfloat16": "bf16", "torch.float16": "f16"}.get(r.dtype, "f32")
    rank = len(query.axes) - (0 if r.width else 1)
    return f"{dtype} {rank} {r.width or 0}"


def _tuple(items: list[str]) -> str:
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"

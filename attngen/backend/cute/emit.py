"""`emit(program, schedule, target)`: the complete source file of a CuTe kernel."""

from __future__ import annotations

from dataclasses import replace

from attngen.backend.cute.functions import Functions, Library
from attngen.backend.cute.host import Call, CuteStep, Let, Return, Working
from attngen.backend.cute.parts import parts_of
from attngen.backend.cute.riders import Riding
from attngen.backend.cute.shape import Shape, shape_of
from attngen.backend.emitted import DeviceKernel, Emitted
from attngen.backend.templates import render
from attngen.backend.triton.host import host_lines, host_plan
from attngen.backend.triton.layout import head_axis
from attngen.backend.triton.names import Names
from attngen.backend.triton.outputs import Outputs, Result
from attngen.backend.triton.printer import LOG2E
from attngen.backend.triton.tensors import Parameters, Sizes, sizes
from attngen.backend.triton.text import call
from attngen.backend.triton.wrap import wrap_fact, wrap_source
from attngen.backend.value import product, value, variable
from attngen.core.dtype import Dtype
from attngen.core.target import Target
from attngen.ir.attention import Tensor
from attngen.ir.expr import Row, Side
from attngen.ir.program import Program
from attngen.ir.text import spec_text
from attngen.schedule.cute import L2, CuteSchedule
from attngen.schedule.cute_blackwell import BLACKWELL, NOT_RUN

OWN = frozenset("torch ops Forward Plan Rider Schedule Stream FORWARD flags tickets blocks".split())
_HOOKS = """
tiles finish first_key end_key keep slope column diagonal distance score payloads per_tile per_row
""".split()
HOOKS = frozenset(_HOOKS)
HOOKS_TAKEN = frozenset({"FORWARD"})
# fields of a plan that are left out where they have this value
EMPTY = dict.fromkeys(("row_streams", "runs", "riders", "numbers"), "()")
EMPTY |= {"near": "None", "fixed": "0.0"}
EMPTY |= {"products": "()", "reads_score": "False", "sums": "(0,)", "totals": "()"}
_SCALARS = {Dtype.F32: "f32", Dtype.I32: "i32"}
WARPS = 4  # of a warpgroup


def emit(program: Program, schedule: CuteSchedule, target: Target) -> Emitted:
    """Source text for one program, schedule and target; a pure function of the three."""
    return _File(program, schedule, target).emitted()


class _File:
    """The file: functions, the plan of each kernel, the host function."""

    def __init__(self, program: Program, schedule: CuteSchedule, target: Target) -> None:
        self.program, self.schedule, self.target = program, schedule, target
        self.attention = program.attention
        programs = parts_of(program)
        self.entry = Names(OWN | HOOKS).take(self.attention.name)
        library = Library(OWN | HOOKS_TAKEN | {self.entry})
        self.parts = [
            Part(
                part,
                _schedule_of(part, schedule),
                library,
                self.entry,
                number,
                len(programs),
                target,
            )
            for number, part in enumerate(programs)
        ]
        self.library = library
        self.sizes = sizes(self.attention)
        self.outputs = self.parts[-1].outputs

    def emitted(self) -> Emitted:
        """The file."""
        declared = [t for t in self.attention.tensors if t.view is None]
        steps = self._host()
        source = render(
            "cute/forward.py.j2",
            title=f"{self.attention.name}, forward, {self.target.name}: by attngen.",
            spec=spec_text(self.attention).strip(),
            facts=[wrap_fact(f"Schedule: {self.schedule.describe()}"), *self._warning()],
            riders=any(part.functions.riders for part in self.parts),
            functions=self.library.functions,
            plans=[part.plan() for part in self.parts],
            host_signature=call(f"def {self.entry}", [t.name for t in declared], ":"),
            host_lines=host_lines(steps),
        )
        s = self.schedule
        warps = 16 if self.target.name == BLACKWELL else WARPS * (s.tile_m // 64 + 1)
        own = {t.name for t in declared}
        rows = {x.tensor for p in self.parts for x in p.functions.row_streams}
        rows |= {x.tensor for p in self.parts for x in p.shape.sums.queries}
        rows |= {x.load.tensor for p in self.parts for x in p.functions.riders}
        aligned = rows & own
        return Emitted(
            wrap_source(source),
            self.entry,
            tuple(t.name for t in declared),
            tuple(n for n, _ in self.program.online.outputs),
            tuple(
                DeviceKernel(n, {}, {}, (), warps, s.stages) for p in self.parts for n in p.names
            ),
            host=host_plan(steps),
            schedule=self.schedule.describe(),
            backend="cute",
            aligned=tuple(sorted(aligned)),
        )

    def _warning(self) -> list[str]:
        """What whoever reads the file has to know."""
        return [wrap_fact(NOT_RUN)] if self.target.name == BLACKWELL else []

    def _host(self) -> list[CuteStep]:
        """Sizes, then results, working memory and launch of each kernel."""
        steps: list[CuteStep] = []
        for part in self.parts:
            steps += part.launch(self.sizes)
        body = "\n".join(host_lines(steps))
        used = [step for step in self.sizes.steps if step.name in body]
        returned = tuple(variable(r.name) for r in self.outputs.results)
        return [*used, *steps, Return(returned)]


def _schedule_of(part: Program, schedule: CuteSchedule) -> CuteSchedule:
    """A constant reference only where the scores of this kernel are bounded."""
    if schedule.reference == "fixed" and not shape_of(part).bounded:
        return replace(schedule, reference="lazy")
    return schedule


class Part:
    """One kernel of the file."""

    def __init__(
        self,
        program: Program,
        schedule: CuteSchedule,
        library: Library,
        entry: str,
        number: int,
        count: int,
        target: Target,
    ) -> None:
        self.program, self.schedule, self.target = program, schedule, target
        self.attention = program.attention
        self.shape: Shape = shape_of(program)
        if target.name == BLACKWELL:  # its kernel reads them in memory
            self.shape = replace(self.shape, riders=())
        self.functions = Functions(program, self.shape, library)
        last = number == count - 1
        self.name = f"{entry}_forward" if last else f"{entry}_part_{number + 1}"
        self.constant = "FORWARD" if last else f"PART_{number + 1}"
        self.working = "" if last else f"_{number + 1}"
        sizes_ = sizes(self.attention)
        self.outputs = Outputs(
            self.attention, program.online, sizes_, schedule.tile_m, Parameters()
        )

    @property
    def names(self) -> list[str]:
        """Its device functions."""
        again = [f"{self.name}_again"] if self.schedule.reference == "first" else []
        return [self.name, *again]

    def plan(self) -> list[str]:
        """The plan as a statement."""
        f, shape, s = self.functions, self.shape, self.schedule
        split = shape.split
        fields = [
            ("name", repr(self.name)),
            ("half", repr(shape.half.value)),
            ("query", self._stream(shape.query)),
            ("key", self._stream(shape.key)),
            ("value", self._stream(shape.value)),
            ("arguments", tuple_text([repr(x) for x in self._arguments()])),
            ("rows", tuple_text([f'("{name}", {function})' for name, function in f.rows])),
            ("numbers", tuple_text([repr(n) for n in f.numbers])),
            ("result_roles", repr(roles(self.outputs.query))),
            ("row_streams", tuple_text([self._stream(x) for x in f.row_streams])),
            ("schedule", self._schedule(s)),
            ("scale", repr(split.scale)),
            ("near", repr(f.near)),
            ("fixed", repr(self._fixed())),
            ("riders", tuple_text([self._rider(x, name) for x, name in f.riders.items()])),
            ("runs", tuple_text([f'("{name}", {function})' for name, function in f.runs])),
            *self._sums(),
        ]
        fields += [(n, f.hooks[n]) for n in _HOOKS if n in f.hooks]
        kept = [(n, text) for n, text in fields if EMPTY.get(n) != text]
        lines = [f"    {n}={text}," for n, text in kept]
        return [f"{self.constant} = Forward(Plan(", *lines, "))"]

    def _sums(self) -> list[tuple[str, str]]:
        """What is summed beside weights, and weights times values."""
        sums = self.shape.sums
        return [
            ("products", tuple_text([self._stream(x) for x in sums.queries])),
            ("reads_score", repr(sums.reads_score)),
            ("sums", repr(tuple(payload for _, payload in sums.rows))),
            ("totals", repr(tuple(payload for _, payload in sums.numbers))),
        ]

    def launch(self, host: Sizes) -> list[CuteStep]:
        """Results, working memory and launch; host: sizes in the host function."""
        steps: list[CuteStep] = [*self.outputs.allocations()]
        arguments = [t.name for t in self._inputs()] + [r.name for r in self.outputs.results]
        flags, tickets = f"flags{self.working}", f"tickets{self.working}"
        query, kind = self.outputs.query.name, "torch.int32"
        if self.schedule.reference == "first":
            warps = WARPS * (self.schedule.tile_m // 64)
            tile = self.schedule.tile_m
            blocks = product(((host.q_len + (tile - 1)) // tile, host.batch, host.heads))
            if self.outputs.query.packed:
                blocks = product((host.q_len // tile + host.batch, host.heads))
            steps.append(Let("blocks", blocks))
            count = value(warps) * variable("blocks")
            steps.append(Working(flags, query, (count,), kind, after="by warp"))
            arguments.append(flags)
        if self.schedule.form == "flat":
            steps.append(Working(tickets, query, (value(1),), kind, zero=True))
            arguments.append(tickets)
        return [*steps, Call(self.constant, self.name, tuple(arguments))]

    def _stream(self, row: Row) -> str:
        t = self.attention.tensor(row.tensor)
        own = head_axis(self.outputs.query)
        parts = [repr(self.functions.attributes[t.name]), repr(roles(t)), str(row.width)]
        if row.start:
            parts.append(f"start={row.start}")
        name = self._key_name(row)
        if name != self.functions.attributes[t.name]:
            parts[0] = repr(name)
            parts.append(f"of={self.functions.attributes[t.name]!r}")
        if t.axis("head") is not None and head_axis(t) != own:
            parts.append("own_head=False")
        if t.packed:
            parts.append(f"packed={self.functions.attributes[t.packed]!r}")
        return f"Stream({', '.join(parts)})"

    def _rider(self, x: Riding, name: str) -> str:
        tensor = self.functions.attributes[x.load.tensor]
        return f"Rider({name!r}, {tensor!r}, {x.roles!r}, {x.dtype.value!r})"

    def _key_name(self, row: Row) -> str:
        """A tensor read as keys and as values has a view for each."""
        name = self.functions.attributes[row.tensor]
        twice = row.side is Side.KEY and self.shape.key.tensor == self.shape.value.tensor
        return f"{name}_values" if twice and row is self.shape.value else name

    def _inputs(self) -> list[Tensor]:
        """What the kernel reads of the tensors and scalars of the program."""
        f, shape = self.functions, self.shape
        rows = {x.tensor for x in (shape.query, shape.key, shape.value, *f.row_streams)}
        rows |= {x.tensor for x in shape.sums.queries}
        rows |= {t.packed for t in self.attention.tensors if t.packed and t.name in rows}
        declared = [t for t in self.attention.tensors if t.view is None]
        rows |= {x.load.tensor for x in f.riders}
        return [t for t in declared if t.name in rows or f.attributes[t.name] in f.read]

    def _arguments(self) -> list[tuple[str, str]]:
        names = self.functions.attributes
        out = [(names[t.name], argument_kind(t)) for t in self._inputs()]
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
        parts += [f"arch={BLACKWELL!r}"] if self.target.name == BLACKWELL else []
        return f"Schedule({', '.join(parts)})"

    def _fixed(self) -> float:
        """The middle of the bounds, in log2 units."""
        c = self.program.online.classes[0]
        return (c.low + c.high) / 2 * LOG2E if self.schedule.reference == "fixed" else 0.0


def roles(t: Tensor) -> tuple[str, ...]:
    """Roles of its axes, in memory order."""
    return tuple(a.role for a in t.axes)


def argument_kind(t: Tensor) -> str:
    """How a plan describes an argument."""
    if t.is_scalar:
        return _SCALARS[t.dtype]
    last = t.axes[-1]
    width = last.size if last.role == "feature" and last.size else 0
    return f"{t.dtype.value} {len(t.axes)} {width}"


def _result_kind(r: Result, query: Tensor) -> str:
    dtype = {"torch.bfloat16": "bf16", "torch.float16": "f16"}.get(r.dtype, "f32")
    rank = len(query.axes) - (0 if r.width else 1)
    return f"{dtype} {rank} {r.width or 0}"


def tuple_text(items: list[str]) -> str:
    """The items as a tuple."""
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"

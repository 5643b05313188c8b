"""Assembles the forward kernel of a program: steps, bounds, results, host function."""

from __future__ import annotations

from dataclasses import dataclass

from attngen.backend.triton.binder import Binder
from attngen.backend.triton.finish import Finish
from attngen.backend.triton.index_printer import IndexPrinter
from attngen.backend.triton.inputs import Inputs
from attngen.backend.triton.layout import layout
from attngen.backend.triton.limits import Runs, row_keep
from attngen.backend.triton.loops import Loops, build_loops
from attngen.backend.triton.names import Names
from attngen.backend.triton.outputs import Outputs
from attngen.backend.triton.printer import Printer
from attngen.backend.triton.shape import COLUMN, ROW, SCALAR, TILE, Frame
from attngen.backend.triton.step import TILE_SHAPE, Step, build_step
from attngen.backend.triton.tensors import Form, Parameters, Sizes, Streams, group_lines, sizes
from attngen.backend.triton.text import call, prune, used, without_flag
from attngen.backend.templates import render
from attngen.core.dtype import Dtype
from attngen.core.target import Target
from attngen.ir import index as ix
from attngen.ir.attention import Attention
from attngen.ir.expr import Expr, Index, Load, Side
from attngen.ir.program import Program
from attngen.ir.walk import walk
from attngen.schedule.schedule import Schedule

ANCHOR = Load("row0", (), "int")


@dataclass
class Stage:
    """One pass over the keys, as the kernel template prints it."""

    name: str
    body: str
    parameters: list[str]
    state_names: list[str]
    inits: list[tuple[str, str]]
    finish: list[str]
    any_kept: str
    any_kept_function: str
    flagged: bool = True

    @property
    def state(self) -> str:
        """Left side of the assignment from the step."""
        return ", ".join(self.state_names)

    def call(self, partial: bool, indent: int) -> str:
        """The call of the step."""
        arguments = [*self.parameters, str(partial)] if self.flagged else self.parameters
        wide = indent + len(self.state) + 3
        return call(self.name, arguments, "", wide)


class Forward:
    """Builds the pieces of one forward file."""

    rows = "queries"

    def __init__(self, program: Program, schedule: Schedule, target: Target, entry: str,
                 frame: Frame | None = None) -> None:  # fmt: skip
        self.program, self.schedule, self.target, self.entry = program, schedule, target, entry
        self.attention: Attention = program.attention
        self.plan, self.mask_plan = program.online, program.mask
        self.names, self.parameters = Names(), Parameters()
        self.frame = frame or Frame()
        self.sizes: Sizes = sizes(self.attention)
        self.layout = layout(self.attention, self.plan)
        self.form = Form(schedule.block_q, schedule.block_k, schedule.loads == "descriptor", self.rows)
        for t in self.attention.tensors:
            self.names.take(f"{t.name}_ptr")
        self.streams = Streams(self.attention, self.layout, self.sizes, self.names, self.parameters, self.form)
        self.inputs = Inputs(self.attention, self.parameters, self.names, self.sizes)
        self.printer = Printer(self.frame, self.inputs.load)
        self.binder = Binder(self.printer, self.names, self.layout, self.attention.names, self.streams.tiles,
                             self._precision())  # fmt: skip
        self.outputs = Outputs(self.attention, self.plan, self.sizes, schedule.block_q, self.parameters)
        self.runs = Runs(self.inputs, self.names, self.printer.helpers)
        self.limit_lines: list[str] = []
        self.keep_text: str | None = None
        self._limits_tried = False
        self._bind_indices()

    @property
    def wide(self) -> bool:
        """Whether the streams are float32."""
        return any(t.dtype is Dtype.F32 for t in self.attention.tensors if t.is_stream)

    @property
    def packed(self) -> bool:
        """Whether the queries are packed sequences."""
        return any(t.packed for t in self.attention.tensors if t.role == "query")

    def _precision(self) -> str:
        return f', input_precision="{self.schedule.precision}"' if self.wide else ""

    def _bind_indices(self) -> None:
        bound = self.printer.bound
        bound[ANCHOR] = "row0"
        if self.attention.same_length:
            bound[Index("q_pos")] = "q_idx"
        elif any(e is Index("q_pos") for e in self._everything()):
            bound[ANCHOR] = "anchor"

    def _everything(self) -> list[Expr]:
        roots = [c.score for c in self.plan.classes] + [a.scalar for a in self.plan.accumulators]
        roots += [a.row for a in self.plan.accumulators if a.row is not None]
        roots += [t.score for t in self.plan.tops] + [e for _, e in self.plan.outputs]
        return list(walk(*roots, *([self.plan.mask] if self.plan.mask is not None else [])))

    # --- facts ------------------------------------------------------------------------------------
    @property
    def never_empty(self) -> bool:
        """Each row keeps a key, whatever the scalars, and no captured value can be -inf."""
        return self.mask_plan.never_empty is ix.TRUE and not self.risky

    @property
    def risky(self) -> bool:
        """Whether a score may be -inf without a mask: it reads captured rows, columns or tiles."""
        roots = [c.score for c in self.plan.classes]
        captured = any(isinstance(e, Load) and e.level.value for e in walk(*roots))
        infinite = any(getattr(e, "value", None) == float("-inf") for e in walk(*roots))
        return captured or infinite

    @property
    def guard(self) -> str:
        """When a running maximum may still be -inf after a tile: "always", "partial" or ""."""
        if self.risky:
            return "always"
        row = self.mask_plan.forward.row
        uniform = len(row) == 1 and "q" not in row[0].lo.names and not self.mask_plan.forward.leftovers
        return "" if uniform and self.never_empty else "partial"

    @property
    def tail(self) -> bool:
        """Whether a partial tile must test kv_idx < kv_len: the row limits do not imply it."""
        if self.plan.mask is None or not self.mask_plan.forward.row:
            return True
        length = ix.var("kv_len")
        ends = [r.hi for r in self.mask_plan.forward.row]
        # a search stops at kv_len, but the equality it stands for may hold past it
        clipped = [x for e in ends for x in ix.walk(e) if isinstance(x, ix.FirstGe | ix.Extreme)]
        return length in ends or any(isinstance(x, ix.FirstGe) or length in x.args for x in clipped)

    @property
    def skip(self) -> bool:
        """Whether empty tiles are found at run time: a condition on the keys has no bound."""
        return any(_varies(f) for f in self.mask_plan.forward.leftovers)

    @property
    def has_full_tiles(self) -> bool:
        """Whether some loop runs over tiles that need no mask."""
        return any(not loop.partial for loop in self.loops().loops)

    # --- pieces -----------------------------------------------------------------------------------
    def stage(self, number: int, finish: Finish) -> Stage:
        """Step function, state and closing lines of one pass."""
        for shape in (COLUMN, TILE):
            self.binder.sections[shape].clear()
        self.binder.key_tiles.clear()
        outer = dict(self.printer.bound)
        half = "f16" if any(t.dtype is Dtype.F16 for t in self.attention.tensors) else ""
        step = build_step(self.binder, self.plan, number, self._mask(), self.tail, ANCHOR, half)
        self.last_step = step
        name = f"{self.entry}_step" + (f"_{number}" if self.plan.stages > 1 else "")
        body = self._body(step)
        flagged = self.has_full_tiles and bool(step.keep)
        body = prune(body if flagged else without_flag(body, "PARTIAL"))
        flagged = flagged and "PARTIAL" in body
        self._forget_inner(outer)
        parameters = used([*step.state, *self._scope()], body)
        finish_start = len(self.binder.sections[ROW])
        finish.stage(step)
        lines = self.binder.sections[ROW][finish_start:]
        del self.binder.sections[ROW][finish_start:]
        any_kept, function = self._any_kept(name, step) if self.skip else ("", "")
        return Stage(name, body, parameters, step.state, self._inits(step), lines, any_kept, function, flagged)

    def _mask(self) -> Expr | str | None:
        """What a partial tile tests: row limits as text, or the formula."""
        if self.keep_text is None and not self._limits_tried:
            self.keep_text, self._limits_tried = self.row_keep(), True
        return self.keep_text or self.plan.mask

    def _forget_inner(self, outer: dict[Expr, str]) -> None:
        """Columns and tiles are names of the step; scalars and rows stay in scope of the kernel."""
        for e in list(self.printer.bound):
            if e not in outer and self.frame.shape(e) in (COLUMN, TILE):
                del self.printer.bound[e]

    def _scope(self) -> list[str]:
        tiles = [c.name for v in self.streams.views.values() for c in v.chunks
                 if self.streams.side(self.attention.tensor(v.tensor)) is Side.QUERY]  # fmt: skip
        rows = [line.split(" = ")[0] for s in (SCALAR, ROW) for line in self.binder.sections[s]]
        lines = [*self.streams.base_lines, *self.inputs.base_lines, *self.runs.lines, *self.limit_lines]
        bases = [line.split(" = ")[0] for line in lines]
        indices = ["b", "h", "h_kv", *self.sizes.groups.values(), "n", "row0", "anchor", "q_idx", "q_pos", "inside"]
        indices += ["q_start", "kv_start", "q_len", "kv_len"]
        return [*tiles, *rows, *self.parameters.table, *bases, *indices]

    def _body(self, step: Step) -> str:
        view = StepView(step, self.frame, self.guard, self._precision())
        return render(
            "triton/step.py.j2", step=view, tiles=self.streams.views, block_k=self.schedule.block_k,
            block_q=self.schedule.block_q, keys_axis=self.frame.keys_axis, spread_row=self.frame.spread_row(""),
            keys_first=self.frame.keys_first, precision=self._precision(), masked_scores=view.masked_scores,
            returned=step.state,
        ).rstrip("\n").replace(TILE_SHAPE, f"[{self.schedule.block_q}, {self.schedule.block_k}]")  # fmt: skip

    def _any_kept(self, name: str, step: Step) -> tuple[str, str]:
        lines = [f"kv_idx = n + tl.arange(0, {self.schedule.block_k})"]
        before = {s: list(self.binder.sections[s]) for s in (COLUMN, TILE)}
        for s in (COLUMN, TILE):
            self.binder.sections[s].clear()
        alone = Step()
        from attngen.backend.triton.step import place_mask

        place_mask(self.binder, alone, self.plan.mask, True)
        lines += [*alone.mask_columns, *alone.mask_lines]
        lines.append(f"keep = {alone.keep}")
        lines.append("return tl.max(tl.max((keep & inside[:, None]).to(tl.int32), 1), 0) > 0")
        for s in (COLUMN, TILE):
            self.binder.sections[s][:] = before[s]
        self._forget_inner({})
        body = prune("\n".join("    " + line for line in lines))
        parameters = used(self._scope(), body)
        function = call(f"def {name}_any_kept", parameters, ":") + "\n" + body
        return call(f"{name}_any_kept", parameters, "", 11), function

    def _inits(self, step: Step) -> list[tuple[str, str]]:
        q, out = self.schedule.block_q, []
        for a in step.accumulators:
            for i, name in enumerate(a.names):
                wide = [q, a.chunks[i].block][:: -1 if self.frame.keys_first else 1] if a.chunks else [q]
                shape = f"[{', '.join(map(str, wide))}]"
                out.append((name, f"tl.zeros({shape}, tl.float32)"))
        for c in step.classes:
            if c.fixed is None:
                out.append((c.m, f'tl.full([{q}], float("-inf"), tl.float32)'))
            if c.l:
                out.append((c.l, f"tl.zeros([{q}], tl.float32)"))
        for t in step.tops:
            if t.count == 1:
                out.append((t.value, f'tl.full([{q}], float("-inf"), tl.float32)'))
                out.append((t.position, f"tl.full([{q}], -1, tl.int32)"))
            else:  # the key of (-inf, no index), below every key of an element
                out.append((t.value, f"tl.full([{q}, {t.slots}], -9187343244130779136, tl.int64)"))
                self.printer.helpers.add("pack_top")
        return out

    def _variables(self) -> dict[str, str]:
        names = {"q0": "row0", "q1": "row1", "q_len": "q_len", "kv_len": "kv_len", "b": "b", "h": "h"}
        names |= {g: g for g in self.sizes.groups.values()}
        return names | {t.name: self.inputs.scalar(t.name) for t in self.attention.tensors if t.is_scalar}

    def loops(self) -> Loops:
        """Loop bounds of a query tile."""
        printer = IndexPrinter(self._variables(), self.inputs.address, self.inputs.element,
                               self.inputs.tile_extreme, self.runs.scalar, self.printer.helpers)  # fmt: skip
        return build_loops(self.mask_plan, printer, self.schedule.block_k, self.schedule.loops == "single")

    def row_keep(self) -> str | None:
        """The mask of a partial tile by row limits, if the plan gives them."""
        if self.plan.mask is None:
            return None
        printer = IndexPrinter({**self._variables(), "q": "q_idx"}, self.inputs.address, self.inputs.row_element,
                               lambda _: None, self.runs.vector, self.printer.helpers)  # fmt: skip
        return row_keep(self.mask_plan, printer, self.frame, self.names, self.limit_lines)

    def kernel(self) -> tuple[str, list[Stage], list[str]]:
        """(kernel body, stages, kernel parameter names)."""
        heads = group_lines(self.sizes, self.parameters)
        self._lengths()
        finish = Finish(self.binder, self.plan, self.never_empty)
        outputs = self.outputs
        stages: list[Stage] = []
        for number in range(1, self.plan.stages + 1):
            stages.append(self.stage(number, finish))
        loops = self.loops()
        row_lines, scalar_lines = list(self.binder.sections[ROW]), list(self.binder.sections[SCALAR])
        self.binder.sections[ROW].clear()
        self.binder.sections[SCALAR].clear()
        early = list(self.binder.query_tiles)
        stores = outputs.lines(finish, self.binder)
        late = [name for name in self.binder.query_tiles if name not in early]
        closing = [*self.binder.sections[SCALAR], *self.binder.sections[ROW], *stores]
        mark = loops.lines.index("# part") if "# part" in loops.lines else len(loops.lines)
        body = render(
            "triton/kernel_body.py.j2",
            block_q=self.schedule.block_q, block_k=self.schedule.block_k, stages_of_loop=self.schedule.stages,
            tile_count=f"tl.cdiv(q_len, {self.schedule.block_q})" if not self._packed() else "slots",
            packed=self._packed(), head_lines=heads, position_lines=self._position_lines(),
            base_lines=[*self.streams.base_lines, *self.inputs.base_lines],
            query_tiles=[self.streams.views[name] for name in early],
            late_tiles=[self.streams.views[name] for name in late],
            scalar_lines=scalar_lines, row_lines=[*row_lines, *self.runs.lines, *self.limit_lines], bounds_comment=self._bounds_comment(loops),
            loops=loops, bound_lines=loops.lines[:mark], part_lines=loops.lines[mark + 1 :], stages=stages,
            skip=self.skip, store_lines=closing,
        ).rstrip("\n")  # fmt: skip
        body = prune(body)
        return body, stages, used(self.parameters.table, body)

    def _packed(self) -> dict[str, str] | None:
        q = next((t.packed for t in self.attention.tensors if t.role == "query" and t.packed), None)
        kv = next((t.packed for t in self.attention.tensors if t.role in ("key", "value") and t.packed), None)
        if q is None:
            return None
        self.printer.helpers.add("sequence_of")
        for name in {q, kv or q}:
            self.parameters.add(f"{name}_ptr", "*i32", name, True)
        return {"q": q, "kv": kv or q}

    def _lengths(self) -> None:
        p, s = self.parameters, self.sizes
        for name, host in (("q_len", s.q_len), ("kv_len", s.kv_len), ("heads", s.heads), ("batch", s.batch)):
            p.add(name, "i32", host)
        p.add("heads_in_l2", "i32", "heads_in_l2")
        p.add("slots", "i32", "tiles")

    def _position_lines(self) -> list[str]:
        lines = []
        if self.printer.bound[ANCHOR] == "anchor":
            lines.append("anchor = row0 + kv_len - q_len  # key position of the first query")
        if not self.attention.same_length:
            lines.append("q_pos = q_idx + (kv_len - q_len)  # key position of each query")
        return lines

    def _bounds_comment(self, loops: Loops) -> str:
        if any(not loop.partial for loop in loops.loops):
            return "keys lo..hi are visited; every query of the tile keeps the keys full_lo..full_hi"
        return "keys lo..hi are visited"


@dataclass
class StepView:
    """A step with the texts the macros need."""

    step: Step
    frame: Frame
    guard: str
    precision: str

    def __getattr__(self, name: str) -> object:
        return getattr(self.step, name)

    @property
    def masked_scores(self) -> list[str]:
        """Score tiles that become -inf where masked: each once."""
        names = [c.score for c in self.step.classes] + [t.score for t in self.step.tops]
        return list(dict.fromkeys(names))

    @property
    def classes(self) -> list[dict[str, object]]:
        """Classes for the macro `weights`."""
        out: list[dict[str, object]] = []
        many = len(self.step.classes) > 1
        for c in self.step.classes:
            suffix = f"_{c.p}" if many else ""
            rescale = f" * {c.alpha}" if c.fixed is None else ""
            times = f" * {c.factor}" if c.factor else ""
            fixed = c.fixed or 0.0
            minus = "" if fixed == 0 else f" - {fixed!r}" if fixed > 0 else f" + {-fixed!r}"
            new = f"m_new{suffix}"
            out.append({"score": c.score, "m": c.m, "l": c.l, "p": c.p, "alpha": c.alpha, "fixed": c.fixed,
                        "m_new": new, "m_safe": f"m_safe{suffix}" if self.guard else new, "guard": self.guard,
                        "times": times, "minus": minus, "rescale": rescale})  # fmt: skip
        return out

    @property
    def accumulators(self) -> list[dict[str, object]]:
        """Accumulators for the macro `accumulate`."""
        out: list[dict[str, object]] = []
        weights: dict[str, str] = {}
        seen: set[str] = set()
        many = len({a.weight for a in self.step.accumulators if not a.plain}) > 1
        for i, a in enumerate(self.step.accumulators):
            updates = []
            for j, name in enumerate(a.names):
                old = name
                if a.rescale:
                    alpha = a.rescale if " * " not in a.rescale else f"({a.rescale})"
                    old = f"{name} * {self.frame.spread_row(alpha) if a.payload else alpha}"
                updates.append((name, a.payload[j] if a.payload else "", old))
            first = weights.setdefault(a.weight, f"w_{i}" if many else "w")
            known = a.plain or (a.weight in seen)
            seen.add(a.weight)
            out.append({"weight": a.weight, "weight_name": a.weight if a.plain else first, "known": known,
                        "masked": a.masked and not known, "updates": updates})  # fmt: skip
        return out


def _varies(f: ix.Formula) -> bool:
    """A test over the keys that can empty a whole tile: it reads memory or a remainder along k."""
    kinds = (ix.Element, ix.Modulo, ix.Opaque, ix.FloorDiv, ix.Extreme, ix.Pick)
    return any(isinstance(x, kinds) and "k" in x.names for x in ix.walk(f))


__all__ = ["Forward", "Stage"]

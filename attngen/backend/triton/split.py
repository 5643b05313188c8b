"""The split form: short queries against many keys, in two kernels.

The first gives every program the queries of a whole group of heads (each key is read once for
all of them) and one part of the visited tiles; it stores the raw state. The second merges the
parts by the law of the accumulators (online_form.md, section 3) and finishes the rows. Both are
printed from the accumulator list, so any spec and any mask has them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from attngen.backend.templates import render
from attngen.backend.triton.context import ANCHOR, Context
from attngen.backend.triton.finish import Finish
from attngen.backend.triton.forward import Forward
from attngen.backend.triton.host import Let
from attngen.backend.triton.index_printer import IndexPrinter, NoScalarForm
from attngen.backend.triton.layout import layout
from attngen.backend.triton.merge import MergeOutputs
from attngen.backend.triton.shape import ROW, SCALAR, Frame
from attngen.backend.triton.step import AccumulatorView, Step
from attngen.backend.triton.tensors import (
    Parameters,
    Sizes,
    group_lines,
    head_count,
    head_index,
    side_of,
    sizes,
)
from attngen.backend.triton.text import prune
from attngen.backend.triton.view import Stage
from attngen.backend.value import ONE, Value, common, variable
from attngen.core.target import Target
from attngen.ir.expr import Axes, Index, Side, Uniform
from attngen.ir.program import Program
from attngen.ir.walk import walk
from attngen.schedule.schedule import Schedule

LEAST_KEY = -9187343244130779136  # of `pack_top`: (-inf, no index)


def can_split(program: Program) -> bool:
    """Whether parts of a row can be reduced apart: one pass, no random numbers.

    Keys of packed sequences only with their queries.
    """
    plan, tensors = program.online, program.attention.tensors
    roots = [a.scalar for a in plan.accumulators] + [c.score for c in plan.classes]
    random = any(isinstance(e, Uniform) for e in walk(*roots))
    packed = any(t.packed for t in tensors) == any(t.packed for t in tensors if t.role == "query")
    return plan.stages == 1 and not random and packed


@dataclass(frozen=True)
class Together:
    """The query heads a program holds: those that share a head of every key and value.

    index: the kernel's index of such groups; group, count: host values of the heads in one, and of
    how many there are; steps: how the host finds them; lines: from the index to the heads.
    """

    index: str
    group: Value
    count: Value
    steps: tuple[Let, ...]
    lines: tuple[str, ...]


def together(sizes: Sizes, one_head: bool, parameters: Parameters) -> Together:
    """How heads are grouped; one_head: rows of the keys differ between query heads."""
    whole = "h = {} * group + rows % group"
    if len(sizes.groups) <= 1 and not (sizes.groups and one_head):
        count = variable("kv_heads") if sizes.groups else sizes.heads
        group = sizes.heads // count if sizes.groups else ONE
        lines = ["h = h_kv"] if one_head else [whole.format("h_kv")]
        return Together("h_kv", group, count, (), tuple(lines))
    of_each = [sizes.heads // variable(head_count(index)) for index in sizes.groups.values()]
    group, count, steps, lines = ONE, sizes.heads, list[Let](), ["h = head_group"]
    if not one_head:
        why = "query heads that share a head of every key and value"
        steps = [Let("group", functools.reduce(common, of_each), after=why)]
        group = variable("group")
        count, lines = sizes.heads // group, [whole.format("head_group")]
    for index, size in zip(sizes.groups.values(), of_each, strict=True):
        parameters.add(f"group_{index[2:]}", "i32", size)
        lines.append(f"{index} = head_group * group // group_{index[2:]}")
    return Together("head_group", group, count, tuple(steps), tuple(lines))


def _one_head(program: Program) -> bool:
    """Whether some row of the keys, as it meets the queries, is not the same for a whole group."""
    attention, plan = program.attention, program.online
    found = sizes(attention)
    streams = [attention.tensor(name) for name in layout(attention, plan).cuts]
    keys = [t for t in streams if side_of(attention, t) is Side.KEY]
    if found.groups and any(head_index(t, found) == "h" for t in keys):
        return True
    roots = [c.score for c in plan.classes] + [t.score for t in plan.tops]
    roots += [x for a in plan.accumulators for x in (a.scalar, a.row) if x is not None]
    rows = [e for e in walk(*roots) if e.feature is not None and e.level == Axes.KEY]
    return any(x is Index("h") for x in walk(*rows))


@dataclass(frozen=True)
class Stored:
    """One piece of the state: its name, columns (0: a number per row) and Triton dtype."""

    name: str
    block: int
    dtype: str


class Split(Forward):
    """The first kernel."""

    rows = "group"

    def __init__(self, program: Program, schedule: Schedule, target: Target, entry: str) -> None:
        one_head = _one_head(program)
        rows = Axes.QUERY if one_head else Axes.QUERY | Axes.HEAD
        frame = Frame(rows, keys_first=not program.online.tops)
        super().__init__(program, schedule, target, entry, frame)
        # measured from the end of the keys: the merge kernel must know the anchor too
        self.printer.bound[ANCHOR] = "kv_len"
        self.together = together(self.sizes, one_head, self.parameters)
        if not self.sizes.groups and not self.sizes.own_keys:  # all heads share the one there is
            self.printer.bound[Index("h_kv")] = "0"

    def _variables(self) -> dict[str, str]:
        """Scalars of a tile; the head is none (its rows belong to several)."""
        return {name: text for name, text in super()._variables().items() if name != "h"} | {
            "h_kv": "h_kv"
        }

    @property
    def has_full_tiles(self) -> bool:
        """Keys stream from memory; masking every tile costs nothing beside that."""
        return False

    def bound_lines(self) -> list[str]:
        """The hull of the visited ranges; the whole length where a bound has no scalar form."""
        printer = IndexPrinter(
            self._variables(),
            self.inputs.address,
            self.inputs.element,
            self.tile_extreme,
            self.runs.scalar,
            self.printer.helpers,
        )
        outer, block = self.mask_plan.forward.outer, self.schedule.block_k
        if not outer:
            return ["lo = 0", "hi = 0"]
        try:
            lows, highs = [printer.text(r.lo) for r in outer], [printer.text(r.hi) for r in outer]
            needs = [f"({printer.text(p)} >= 1)" for p in self.mask_plan.needs]
        except NoScalarForm:
            return ["lo = 0", "hi = kv_len"]
        low, high = _fold("tl.minimum", lows), _fold("tl.maximum", highs)
        lines = [
            "lo = 0" if low == "0" else f"lo = tl.maximum(0, {low}) // {block} * {block}",
            f"hi = {high}",
        ]
        if needs:
            lines += [
                f"usable = {' & '.join(needs)}",
                "lo = tl.where(usable, lo, 0)",
                "hi = tl.where(usable, hi, kv_len)",
            ]
        return lines

    @property
    def head_groups(self) -> str:
        """The kernel's parameter that counts groups of heads."""
        return "kv_heads" if self.together.index == "h_kv" else "head_groups"

    def split_kernel(self) -> tuple[str, Stage, list[Stored], Step, list[str]]:
        """(body, stage, stored state, step, parameter names)."""
        self._lengths()
        self.parameters.add("group", "i32", self.together.group)
        self.parameters.add(self.head_groups, "i32", self.together.count)
        self.parameters.add("splits", "i32", variable("splits"))
        self.parameters.add("tokens", "i32", self.sizes.q_len)
        stage = self.stage(1, _NoFinish(self.binder, self.plan, never_empty=False))
        step = self.last_step
        stored = stored_state(step)
        add_parts(self.parameters, stored)
        body = render(
            "triton/split_body.py.j2",
            part_lines=part_lines(stored),
            packed=self._packed(),
            head_group=self.together.index,
            head_groups=self.head_groups,
            head_lines=self.together.lines,
            block_q=self.schedule.block_q,
            block_k=self.schedule.block_k,
            stages_of_loop=self.schedule.stages,
            position_lines=self._position_lines(),
            base_lines=[*self.streams.base_lines, *self.inputs.base_lines],
            query_tiles=[self.streams.views[name] for name in self.binder.query_tiles],
            scalar_lines=self.binder.sections[SCALAR],
            row_lines=[*self.binder.sections[ROW], *self.runs.lines, *self.limit_lines],
            bound_lines=self.bound_lines(),
            stage=stage,
            stored=stored,
            keys_first=self.frame.keys_first,
        ).rstrip("\n")
        body = prune(body)
        return body, stage, stored, step, self.ordered(body)


class Merge(Context):
    """The second kernel: one row per program."""

    rows = "one"

    def __init__(self, program: Program, schedule: Schedule, target: Target, entry: str) -> None:
        super().__init__(program, schedule, target, entry, Frame(Axes.NONE))
        self.printer.bound[ANCHOR] = "kv_len"
        self.outputs = MergeOutputs(self.attention, self.plan, self.sizes, 1, self.parameters)
        if self.attention.same_length:
            self.printer.bound[Index("q_pos")] = "q_idx"

    def merge_kernel(self, step: Step, stored: list[Stored]) -> tuple[str, list[str]]:
        """(body, parameter names)."""
        heads = group_lines(self.sizes, self.parameters)
        self._lengths()
        self.parameters.add("splits", "i32", variable("splits"))
        self.parameters.add("tokens", "i32", self.sizes.q_len)
        self.parameters.add("slots", "i32", variable("slots"))
        for s in stored:
            self.names.take(s.name)
        add_parts(self.parameters, stored)
        finish = Finish(self.binder, self.plan, self.facts.never_empty)
        finish.stage(step)
        stores = self.outputs.lines(finish, self.binder)
        late = [self.streams.views[name] for name in self.binder.query_tiles]
        lines = [*self.binder.sections[SCALAR], *self.binder.sections[ROW]]
        body = render(
            "triton/merge_body.py.j2",
            early=self.target.dependent_launch,
            packed=self._packed(),
            part_lines=part_lines(stored),
            head_lines=heads,
            position_lines=self._position_lines(),
            base_lines=[*self.streams.base_lines, *self.inputs.base_lines],
            classes=step.classes,
            inits=self._merge_inits(step),
            accumulators=[_pieces(a) for a in step.accumulators],
            tops=step.tops,
            least_key=LEAST_KEY,
            finish=lines,
            late_tiles=late,
            store_lines=stores,
            block_q=1,
            block_k=1,
            parts=_parts_at_once(stored),
        ).rstrip("\n")
        body = prune(body)
        return body, self.ordered(body)

    def _position_lines(self) -> list[str]:
        return [] if self.attention.same_length else ["q_pos = q_idx + (kv_len - q_len)"]

    def _merge_inits(self, step: Step) -> list[tuple[str, str]]:
        out = [(c.l, "0.0") for c in step.classes if c.l]
        for a in step.accumulators:
            for i, name in enumerate(a.names):
                out.append(
                    (name, f"tl.zeros([{a.chunks[i].block}], tl.float32)" if a.chunks else "0.0")
                )
        for t in step.tops:
            if t.count == 1:
                out += [(t.value, 'float("-inf")'), (t.position, "-1")]
            else:
                out.append((t.value, f"tl.full([{t.slots}], {LEAST_KEY}, tl.int64)"))
        return out


class _NoFinish(Finish):
    """The split kernel stores its raw state."""

    def stage(self, step: Step) -> None:
        """Nothing is finished here."""


def stored_state(step: Step) -> list[Stored]:
    """The state of the loop, as it goes to memory."""
    out = [
        Stored(name, a.chunks[i].block if a.chunks else 0, "fp32")
        for a in step.accumulators
        for i, name in enumerate(a.names)
    ]
    for c in step.classes:
        out += [Stored(c.m, 0, "fp32")] if c.fixed is None else []
        out += [Stored(c.l, 0, "fp32")] if c.l else []
    for t in step.tops:
        if t.count == 1:
            out += [Stored(t.value, 0, "fp32"), Stored(t.position, 0, "i32")]
        else:
            out.append(Stored(t.value, t.slots, "i64"))
    return out


def buffers(stored: list[Stored]) -> dict[str, int]:
    """Elements that a row of a part takes in each buffer of parts, by the buffer's dtype."""
    widths: dict[str, int] = {}
    for s in stored:
        widths[s.dtype] = widths.get(s.dtype, 0) + (s.block or 1)
    return widths


def buffer_name(dtype: str) -> str:
    """Name of the buffer that holds all stored state of a dtype: one allocation a call."""
    return "parts" if dtype == "fp32" else f"{dtype}_parts"


def add_parts(parameters: Parameters, stored: list[Stored]) -> None:
    """The buffers of parts, and how many (row, part) pairs they hold."""
    for dtype in buffers(stored):
        name = buffer_name(dtype)
        parameters.add_array(name, dtype, name)
    parameters.add("cells", "i32", variable("cells"))


def part_lines(stored: list[Stored]) -> list[str]:
    """Where each piece of the state begins in its buffer."""
    lines, used = [], dict.fromkeys(buffers(stored), 0)
    for s in stored:
        at = used[s.dtype]
        start = f" + cells.to(tl.int64) * {at}" if at else ""
        lines.append(f"{s.name}_parts = {buffer_name(s.dtype)}{start}")
        used[s.dtype] += s.block or 1
    return lines


def _parts_at_once(stored: list[Stored]) -> int:
    """Parts a merge program holds: 32 KiB of accumulators in registers, at most 128 parts."""
    widest = max((s.block for s in stored), default=1)
    return max(16, min(128, 8192 // max(1, widest)))


def _pieces(a: AccumulatorView) -> dict[str, object]:
    names, chunks, rescale = a.names, a.chunks, a.rescale
    pieces = [(name, chunks[i].block if chunks else 0) for i, name in enumerate(names)]
    rows = f"({rescale})[:, None]" if " * " in rescale else f"{rescale}[:, None]"
    return {"pieces": pieces, "rescale": rescale, "rescale_rows": rows}


def _fold(function: str, texts: list[str]) -> str:
    out = texts[-1]
    for text in reversed(texts[:-1]):
        out = f"{function}({text}, {out})"
    return out

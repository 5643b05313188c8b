"""What the loop over keys and the loop over queries share: the step of one tile."""

from __future__ import annotations

import re

from attngen.backend.templates import render
from attngen.backend.triton.backward.base import BackwardContext, Sum
from attngen.backend.triton.backward.binder import BackwardBinder
from attngen.backend.triton.backward.positions import float_positions
from attngen.backend.triton.backward.program import Backward
from attngen.backend.triton.context import ANCHOR
from attngen.backend.triton.host import Descriptor
from attngen.backend.triton.layout import Layout
from attngen.backend.triton.limits import KEYS, QUERIES
from attngen.backend.triton.printer import Printer
from attngen.backend.triton.shape import COLUMN, ROW, SCALAR, TILE, Frame
from attngen.backend.triton.step import Step, place_mask
from attngen.backend.triton.text import call, prune, sunk, used, words
from attngen.backend.triton.view import Stage
from attngen.backend.value import ONE, stride_of, variable
from attngen.core.target import Target
from attngen.ir.backward import NumberSum, RowSum
from attngen.ir.expr import Axes, Expr, Load, Side
from attngen.schedule.schedule import Schedule


class TileKernel(BackwardContext):
    """What both loops share. A subclass says which side it owns.

    joined: the kernel is a function of a launch it shares; `program` is then its parameter;
    float_positions, skip_empty: as of BackwardSchedule.
    """

    make_binder = BackwardBinder
    binder: BackwardBinder
    levels: tuple[Axes, ...] = ()
    place = ""
    moving, fixed = COLUMN, ROW
    joined = False
    float_positions = False
    skip_empty = False

    def __init__(
        self, backward: Backward, schedule: Schedule, target: Target, entry: str, cuts: Layout
    ) -> None:
        frame = Frame(keys_first=self.owner is KEYS)
        super().__init__(backward, schedule, target, entry, cuts, frame)
        self.binder.plan, self.binder.half = self.plan, self.facts.half
        self.binder.slots = backward.slots
        self.binder.norms = {n: backward.number(name) for n, name in backward.norms.items()}
        if self.owner is KEYS:
            self.printer.load = self._load
            self.printer.bound[ANCHOR] = "col0"
        self._coefficients: dict[Expr, str] = {}

    def _load(self, e: Load, printer: Printer) -> str:
        """Numbers of the rows kernel come by descriptor where their loop is masked.

        Pointers would fetch four bytes a thread there. In the one loop of a full mask an earlier
        study of hand-written kernels found descriptors slower, so pointers stay. Either way what is
        read past the last query is the padding, not zeros.
        """
        if e.tensor not in self.backward.numbers:
            return self.inputs.load(e, printer)
        if not self.form.descriptors or self.plan.mask is None:
            cells, _ = self.inputs.cells(self.attention.tensor(e.tensor), e, printer)
            return f"tl.load({cells})"
        block = self.schedule.block_q
        axes = (self.sizes.batch, self.sizes.heads, variable("padded"))
        strides = (stride_of(e.tensor, 0), stride_of(e.tensor, 1), ONE)
        handle = f"{e.tensor}_rows"
        made = Descriptor(e.tensor, axes, strides, (1, 1, block))
        self.parameters.add_descriptor(handle, "fp32", made)
        return f"{handle}.load([b, h, m]).reshape({block})"

    @property
    def needed(self) -> bool:
        """Whether the pass has anything for this loop to sum, store or finish."""
        b = self.backward
        places = {g.place for g in b.gradients} | {s.place for s in b.sums}
        return any(True for _ in b.tiles.coefficients(*self.levels)) or self.place in places

    # --- the step ---------------------------------------------------------------------------------
    def build_step(self, name: str) -> Stage:
        """The step function, its state and how it is called."""
        keep, mask_lines = self._keep()
        self.binder.has_keep = bool(keep)
        targets = [t for level in self.levels for t in self.backward.tiles.targets(level)]
        self._count(targets)
        sums, lines, known = [], list[str](), 0
        for t in targets:
            s = self._row_sum(t) if isinstance(t, RowSum) else self._number_sum(t)
            # a product as soon as there is its weight: that many registers less beside the next one
            lines += [*self.binder.sections[TILE][known:], *s.lines]
            known = len(self.binder.sections[TILE])
            sums.append(s)
        extra = self._tile_stores()  # may add to the tile's lines
        lines += [*self.binder.sections[TILE][known:], *extra]
        self.sums = {s.leaf: s for s in sums}
        moving, lines = sunk(self.binder.sections[self.moving], lines, [*mask_lines, keep])
        inits = [(n, i) for s in sums for n, i in zip(s.names, s.inits, strict=True)]
        inits += self.stores.histogram_inits()
        state = [n for n, _ in inits]
        body = render(
            "triton/backward_step.py.j2",
            positions=self._moving_positions(),
            tiles=[self.streams.views[t] for t in self._tiles(moving=True)],
            block=self._moving_block(),
            moving=moving,
            keep=keep,
            mask_lines=mask_lines,
            lines=lines + self.stores.histogram_lines(),
            state=state,
        ).rstrip("\n")
        body = prune(body)
        flagged = "PARTIAL" in words(body)
        parameters = used([*state, *self._scope()], body)
        parameters = [p for p in parameters if p not in self._assigned(body) or p in state]
        asked = ("", "")
        if self.skip_empty and self.facts.skip and keep:
            asked = self._any_kept(name, [*mask_lines, f"keep = {keep}"])
        return Stage(name, body, parameters, state, inits, [], *asked, flagged)

    def _any_kept(self, name: str, mask_lines: list[str]) -> tuple[str, str]:
        """(call, function): whether a tile keeps anything; without a bound only its mask tells."""
        inside, live = (
            self.frame.spread(text, shape, TILE)
            for text, shape in (("inside", ROW), ("live", COLUMN))
        )
        kept = f"keep & {inside}" + (f" & {live}" if self.owner is KEYS else "")
        lines = [*self._moving_positions(), *self.binder.sections[self.moving], *mask_lines]
        lines.append(f"return tl.max(tl.max(({kept}).to(tl.int32), 1), 0) > 0")
        body = prune("\n".join(f"    {line}" for line in lines))
        parameters = [p for p in used(self._scope(), body) if p not in self._assigned(body)]
        function = call(f"def {name}_any_kept", parameters, ":") + "\n" + body
        return call(f"{name}_any_kept", parameters, "", 11), function

    def _assigned(self, body: str) -> set[str]:
        return {m.group(1) for m in re.finditer(r"^    (\w+) = ", body, re.M)}

    def _keep(self) -> tuple[str, list[str]]:
        """`keep` of a partial tile and the lines before it; both empty if nothing is masked."""
        text = self.row_keep()
        if text is not None:
            return text, []
        tail = self.owner is QUERIES and self.facts.tail
        if self.plan.mask is None and not tail:
            return "", []
        before = dict(self.printer.bound)
        counts = {s: len(self.binder.sections[s]) for s in (COLUMN, TILE)}
        step = Step()
        place_mask(self.binder, step, self.plan.mask, tail)
        inner = (COLUMN, TILE) if self.owner is QUERIES else (TILE,)
        lines = [line for s in inner for line in self.binder.sections[s][counts[s] :]]
        for s in inner:  # computed in partial tiles only, so nobody else may use them
            del self.binder.sections[s][counts[s] :]
        for e in list(self.printer.bound):
            if e not in before and self.frame.shape(e) in inner:
                del self.printer.bound[e]
        return step.keep, lines

    def _count(self, targets: list[RowSum | NumberSum]) -> None:
        roots = []
        for t in targets:
            products = t.products if isinstance(t, RowSum) else ()
            roots += [p.coefficient for p in products]
            roots += [] if isinstance(t, RowSum) else [self.summed(t)]
        if Axes.TILE in self.levels:
            roots += [s.value for s in self.backward.tiles.stores]
        self.binder.count(*dict.fromkeys(roots))

    def coefficient(self, e: Expr, wish: str) -> str:
        """The name of a tile of numbers, masked where its factors do not see to that."""
        if e in self._coefficients:
            return self._coefficients[e]
        self.binder.place(e)
        masked = self.binder.has_keep and (
            e in self.backward.masked or self.backward.plan.masked_coefficients
        )
        if e in self.printer.bound and not masked:
            return self.printer.bound[e]
        shape = self.frame.shape(e)
        text = self.printer.spread(e, TILE)
        if shape != TILE:
            text = f"{text} + {self.frame.spread('q_idx', ROW, TILE)} * 0.0"
        name = self.names.take(wish)
        self.binder.sections[TILE].append(f"{name} = {text}")
        if masked:
            self.binder.sections[TILE] += [
                "if PARTIAL:",
                f"    {name} = tl.where(keep, {name}, 0.0)",
            ]
        self._coefficients[e] = name
        return name

    def _row_sum(self, t: RowSum) -> Sum:
        chunks = self.binder.chunks(t.of)
        own = t.leaf.name
        names = tuple(
            self.names.take(own if len(chunks) == 1 else f"{own}_{i}") for i in range(len(chunks))
        )
        lines = []
        for p in t.products:
            weight = self.coefficient(p.coefficient, "ds" if len(t.products) == 1 else "dw")
            weight = weight if p.factor == 1.0 else f"({weight} * {p.factor!r})"
            others = self.binder.row_texts(p.other, "other")
            for name, rows in zip(names, others, strict=True):
                operand = f"{weight}.to({rows}.dtype)"
                lines.append(f"{name} = tl.dot({operand}, {rows}, {name}{self._precision()})")
        block = self._own_block()
        inits = tuple(f"tl.zeros([{block}, {c.block}], tl.float32)" for c in chunks)
        return Sum(t.leaf, names, inits, tuple(lines))

    def summed(self, t: NumberSum) -> Expr:
        """What a sum of numbers adds up."""
        return float_positions(t.value, ANCHOR) if self.float_positions else t.value

    def _number_sum(self, t: NumberSum) -> Sum:
        weight = self.coefficient(self.summed(t), "dw")
        name = self.names.take(t.leaf.name)
        axis = self.frame.keys_axis if self.owner is QUERIES else 1 - self.frame.keys_axis
        line = f"{name} = {name} + tl.sum({weight}, {axis})"
        return Sum(t.leaf, (name,), (f"tl.zeros([{self._own_block()}], tl.float32)",), (line,))

    def _tile_stores(self) -> list[str]:
        return []

    # --- names of the two sides -------------------------------------------------------------------
    def _tiles(self, moving: bool) -> list[str]:
        queries, keys = list(self.binder.query_tiles), list(self.binder.key_tiles)
        return (
            (keys if moving else queries)
            if self.owner is QUERIES
            else (queries if moving else keys)
        )

    def _own_block(self) -> int:
        return self.schedule.block_q if self.owner is QUERIES else self.schedule.block_k

    @property
    def tile(self) -> str:
        """What a step of the loop takes, in words."""
        return f"{self._moving_block()} {'keys' if self.owner is QUERIES else 'queries'}"

    def _moving_block(self) -> int:
        return self.schedule.block_k if self.owner is QUERIES else self.schedule.block_q

    def _moving_positions(self) -> list[str]:
        if self.owner is QUERIES:
            return [f"kv_idx = n + tl.arange(0, {self.schedule.block_k})  # [keys]"]
        lines = [
            f"q_idx = m + tl.arange(0, {self.schedule.block_q})  # [queries]",
            "inside = q_idx < q_len",
        ]
        return lines if self.attention.same_length else [*lines, "q_pos = q_idx + (kv_len - q_len)"]

    def _scope(self) -> list[str]:
        own = Side.QUERY if self.owner is QUERIES else Side.KEY
        tiles = [
            c.name
            for v in self.streams.views.values()
            for c in v.chunks
            if self.streams.side(self.attention.tensor(v.tensor)) is own
        ]
        rows = [
            line.split(" = ")[0] for s in (SCALAR, self.fixed) for line in self.binder.sections[s]
        ]
        lines = [
            *self.streams.base_lines,
            *self.inputs.base_lines,
            *self.runs.lines,
            *self.limit_lines,
        ]
        bases = [line.split(" = ")[0] for line in lines]
        indices = [
            "b",
            "h",
            "h_kv",
            *self.sizes.groups.values(),
            "n",
            "m",
            "row0",
            "col0",
            "anchor",
        ]
        indices += [
            "q_idx",
            "q_pos",
            "inside",
            "kv_idx",
            "live",
            "q_start",
            "kv_start",
            "q_len",
            "kv_len",
        ]
        return [*tiles, *rows, *self.parameters.table, *bases, *indices]

    def bounds(self) -> tuple[list[str], list[str]]:
        """Lines of the loop bounds, and those inside a loop over parts."""
        self.tile_loops = self.loops()
        lines = self.tile_loops.lines
        mark = lines.index("# part") if "# part" in lines else len(lines)
        return list(lines[:mark]), list(lines[mark + 1 :])

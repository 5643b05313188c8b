"""The two loops of a backward: over keys for a tile of queries, over queries for a tile of keys."""

from __future__ import annotations

from attngen.backend.templates import render
from attngen.backend.triton.backward.halve import halve
from attngen.backend.triton.backward.padding import endless, finite_at_zero
from attngen.backend.triton.backward.tile import TileKernel
from attngen.backend.triton.context import ANCHOR
from attngen.backend.triton.layout import head_axis
from attngen.backend.triton.limits import KEYS, Owner
from attngen.backend.triton.shape import COLUMN, ROW, SCALAR
from attngen.backend.triton.tensors import group_lines, head_index
from attngen.backend.triton.text import prune, words
from attngen.backend.triton.view import Stage
from attngen.backend.value import ONE, Value, product, variable
from attngen.ir.expr import Axes, Index, Recomputed, Side
from attngen.ir.index import var
from attngen.ir.walk import walk
from attngen.schedule.backward import plain_scores

SEEN_RIGHT = ("sm_90", "interpreter")  # where halved rows were compared with the reference
SEEN_WIDTH = 128


class QueriesKernel(TileKernel):
    """dQ, what varies along queries, what is summed over tiles, and tiles that are stored."""

    levels = (Axes.QUERY, Axes.NONE, Axes.TILE)
    place = "queries"

    def _tile_stores(self) -> list[str]:
        return [
            line
            for s in self.backward.tiles.stores
            for line in self.stores.tile(s, self.coefficient(s.value, "ds"))
        ]

    def kernel(self, name: str) -> tuple[Stage, str, list[str]]:
        """(step, body, parameter names)."""
        heads = group_lines(self.sizes, self.parameters)
        self._lengths()
        halved = self._halve()
        stage = self.build_step(f"{name}_step")
        bound_lines, part_lines = self.bounds()
        early = self._tiles(moving=False)
        fixed = [
            *halved,
            *self.binder.sections[SCALAR],
            *self.binder.sections[ROW],
            *self.runs.lines,
            *self.limit_lines,
        ]
        marks = {s: len(self.binder.sections[s]) for s in (SCALAR, ROW)}
        stores = self.stores.epilogue("queries")
        closing = [line for s in (SCALAR, ROW) for line in self.binder.sections[s][marks[s] :]]
        late = [t for t in self._tiles(moving=False) if t not in early]
        body = render(
            "triton/backward_queries.py.j2",
            block_q=self.schedule.block_q,
            block_k=self.schedule.block_k,
            stages_of_loop=self.schedule.stages,
            joined=self.joined,
            skip_empty=bool(stage.any_kept),
            single=self.programs == ONE,
            packed=self._packed(),
            head_lines=heads,
            position_lines=self._position_lines(),
            base_lines=[*self.streams.base_lines, *self.inputs.base_lines],
            tiles=[self.streams.views[t] for t in early],
            late_tiles=[self.streams.views[t] for t in late],
            fixed=fixed,
            bound_lines=bound_lines,
            part_lines=part_lines,
            loops=self.tile_loops,
            stage=stage,
            store_lines=[*closing, *stores],
        ).rstrip("\n")
        body = prune(body)
        return stage, body, self.ordered(body)

    def _halve(self) -> list[str]:
        """Lines that keep the query tiles in registers, where a second program then fits."""
        s, narrow = self.schedule, not self.facts.wide
        if not (self.form.descriptors and narrow and s.block_k == 64 and s.block_q == 64):
            return []
        if not plain_scores(self.program) or self.target.name not in SEEN_RIGHT:
            return []  # Triton 3.6.0 compiles this form of a soft-cap wrongly
        halved, tensors = halve(self.backward)
        if any(self.layout.width(t) != SEEN_WIDTH for t in tensors):
            return []
        self.backward = halved
        names = [c.name for t in tensors for c in self.streams.views[t].chunks]
        lines = [f"{n} = ({n}.to(tl.float32) * 0.5).to({n}.dtype)" for n in names]
        return (
            ["# half of it, exactly: computed from, a left operand stays in registers", *lines]
            if lines
            else []
        )

    def _position_lines(self) -> list[str]:
        lines = []
        if self.printer.bound[ANCHOR] == "anchor":
            lines.append("anchor = row0 + kv_len - q_len  # key position of the first query")
        return lines if self.attention.same_length else [*lines, "q_pos = q_idx + (kv_len - q_len)"]


class KeysKernel(TileKernel):
    """dK, dV and what varies along keys; heads of a group one after the other, so no atomics."""

    levels = (Axes.KEY,)
    place = "keys"
    owner: Owner = KEYS
    moving, fixed = ROW, COLUMN

    def without_end(self) -> None:
        """Leave the tests out that a query exists, where the padding of numbers sees to that."""
        coefficients = list(self.backward.tiles.coefficients(*self.levels))
        scores = [e.score for e in walk(*coefficients) if isinstance(e, Recomputed)]
        if self.facts.packed or self.mask_plan.needs:
            return  # the next sequence follows; bounds that mean nothing: every tile is masked
        if finite_at_zero(*coefficients, *scores):
            self.untested = var("kv_len" if self.attention.same_length else "q_len")
            self.mask_plan = endless(self.mask_plan, self.untested)

    def kernel(self, name: str) -> tuple[Stage, str, list[str]]:
        """(step, body, parameter names)."""
        grouped = self.grouped
        heads = [] if grouped else group_lines(self.sizes, self.parameters)
        if grouped:
            self.parameters.add("group", "i32", self._group())
        self.parameters.add("kv_heads", "i32", self.key_heads)
        self.parameters.add("key_slots", "i32", variable("key_slots"))
        self._lengths()
        if not grouped and self.sizes.groups:
            self.printer.bound[Index("h_kv")] = "h_kv"
        stage = self.build_step(f"{name}_step")
        bound_lines, part_lines = self.bounds()
        early = self._tiles(moving=False)
        fixed = [
            *self.binder.sections[SCALAR],
            *self.binder.sections[COLUMN],
            *self.runs.lines,
            *self.limit_lines,
        ]
        marks = {s: len(self.binder.sections[s]) for s in (SCALAR, COLUMN)}
        stores = self.stores.epilogue("keys")
        closing = [line for s in (SCALAR, COLUMN) for line in self.binder.sections[s][marks[s] :]]
        bases = [*heads, *self.streams.base_lines, *self.inputs.base_lines]
        of_head: list[str] = []
        if grouped:
            bases, fixed, bound_lines, of_head = _per_head(bases, fixed, bound_lines)
        body = render(
            "triton/backward_keys.py.j2",
            block_q=self.schedule.block_q,
            block_k=self.schedule.block_k,
            stages_of_loop=self.schedule.stages,
            joined=self.joined,
            skip_empty=bool(stage.any_kept),
            packed=self._packed(),
            head="h_kv" if grouped else "h",
            head_count="kv_heads" if grouped else "heads",
            grouped=grouped,
            base_lines=bases,
            head_lines=of_head,
            tiles_fixed=[
                self.streams.views[t] for t in dict.fromkeys([*early, *self._tiles(moving=False)])
            ],
            fixed=fixed,
            bound_lines=bound_lines,
            part_lines=part_lines,
            loops=self.tile_loops,
            stage=stage,
            store_lines=[*closing, *stores],
        ).rstrip("\n")
        body = prune(body)
        return stage, body, self.ordered(body)

    @property
    def grouped(self) -> bool:
        """Whether a program adds up the query heads that share a head of the keys.

        Not if a gradient along the keys differs between query heads, or keys and values are shared
        by different ones: then each has a program.
        """
        return self._heads_shared and not self._per_query_head

    @property
    def _per_query_head(self) -> bool:
        b = self.backward
        own = [g for g in b.gradients if g.place == "keys"]
        reads = list(walk(*(e for g in own for e in (g.of, g.value))))
        tensors = [self.attention.tensor(name) for name in self.streams.views]
        keys = [t for t in tensors if self.streams.side(t) is Side.KEY]
        return (
            any(s.place == "keys" for s in b.sums)
            or any(e is Index("h") for e in reads)
            or len({head_index(t, self.sizes) for t in keys} | {self._key_head}) > 1
        )

    @property
    def _key_head(self) -> str:
        """The head of the keys that programs of a group share."""
        return "h_kv" if self.sizes.groups else "0"

    @property
    def _heads_shared(self) -> bool:
        return bool(self.sizes.groups) or any(
            head_axis(t) is None and t.axis("head") is not None
            for t in self.attention.tensors
            if t.role in ("key", "value") and t.view is None
        )

    @property
    def key_heads(self) -> Value:
        """Host value: heads of the keys, of the queries where each has a program."""
        if not self.grouped:
            return self.sizes.heads
        return variable("kv_heads") if self.sizes.groups else ONE

    def _group(self) -> Value:
        heads = self.sizes.heads
        return heads // self.key_heads if self.key_heads != ONE else heads

    @property
    def programs(self) -> Value:
        """Host value: (batch, key head) pairs, or key heads for packed sequences."""
        return product([*([] if self.facts.packed else [self.sizes.batch]), self.key_heads])


def _per_head(*groups: list[str]) -> tuple[list[str], ...]:
    """Take out of each group the lines that depend on the head; they follow as the last group.

    Bounds stay together: if one line of them depends on the head, all are computed per head.
    """
    moved, names = [], {"h"}
    kept: list[list[str]] = []
    for number, lines in enumerate(groups):
        whole = number == len(groups) - 1 and any(
            names & words(line.split(" = ", 1)[-1]) for line in lines
        )
        stay = []
        for line in lines:
            target, _, value = line.partition(" = ")
            if whole or names & words(value):
                moved.append(line)
                names.add(target.strip())
            else:
                stay.append(line)
        kept.append(stay)
    return (*kept, moved)

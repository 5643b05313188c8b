"""The producer warp: K and V once, then Q, dO and the numbers of the queries, block by block."""

from __future__ import annotations

import cutlass
from cutlass import Float32, cute, pipeline, range_constexpr
from cutlass.cute.nvgpu import cpasync

from attngen.cutelib.backward.plan import BackwardPlan
from attngen.cutelib.backward.tiles import head_tile, steps_of, walk_of, walked
from attngen.cutelib.tile import At
from attngen.cutelib.views import batch_of, head_of


class Source:
    """What the producer issues: partitions of shared memory, rings."""

    def __init__(self, plan: BackwardPlan, atoms, maps, memory, rings, at: At) -> None:
        self.plan, self.atoms, self.maps, self.memory = plan, atoms, maps, memory
        self.rings, self.at = rings, at
        self.bulk = cute.make_copy_atom(cpasync.CopyBulkG2SOp(), Float32)

    def states(self):
        """Producer states of the rings of Q and dO."""
        kind, make = pipeline.PipelineUserType.Producer, pipeline.make_pipeline_state
        s = self.plan.schedule
        return make(kind, s.stages), make(kind, s.stages)

    def _parts(self, name: str, head, batch, tile: tuple[int, int], at):
        block = cute.local_tile(self.maps[name][None, None, head, batch], tile, at)
        return cpasync.tma_partition(
            self.atoms[name],
            0,
            cute.make_layout(1),
            cute.group_modes(self.memory[name], 0, 2),
            cute.group_modes(block, 0, 2),
        )

    @cute.jit
    def keys(self, block, head, batch):
        """The block's own keys and values."""
        plan = self.plan
        kind = pipeline.PipelineUserType.Producer
        state = pipeline.make_pipeline_state(kind, 1)
        ring = self.rings["kv"]
        ring.producer_acquire(state)
        barrier = ring.producer_get_barrier(state)
        for name, stream in (("k", plan.key), ("v", plan.value)):
            tile = (plan.schedule.tile_n, stream.width)
            into, source = self._parts(name, head, batch_of(stream, batch), tile, (block, 0))
            cute.copy(self.atoms[name], source, into, tma_bar_ptr=barrier)

    @cute.jit
    def heads(self, block):
        """Every query head that shares the keys."""
        sq, so = self.states()
        for g in cutlass.range(self.at.group, unroll=1):
            sq, so = self.head(head_tile(self.plan, self.at, block, g), sq, so)

    @cute.jit
    def head(self, at, sq, so):
        """All queries of one head that meet the block of keys."""
        plan, s = self.plan, self.plan.schedule
        walk = walk_of(plan, at)
        whole = {}
        for name, stream in (("q", plan.query), ("o", plan.seed)):
            tile = (s.tile_m, stream.width)
            view = getattr(self.at, stream.name)
            head = head_of(stream, view, at.h, at.heads)
            whole[name] = self._parts(name, head, batch_of(stream, at.b), tile, (None, 0))
        for i in cutlass.range(steps_of(walk), unroll=1):
            m = walked(i, walk)
            self.load("q", whole["q"], at, m, sq)
            sq.advance()
            self.load("o", whole["o"], at, m, so)
            so.advance()
        return sq, so

    @cute.jit
    def load(self, name, parts, at, m, state):
        """One tile and its numbers into the ring's next stage."""
        plan, ring = self.plan, self.rings[name]
        into, source = parts
        ring.producer_acquire(state)
        barrier = ring.producer_get_barrier(state)
        cute.copy(self.atoms[name], source[None, m], into[None, state.index], tma_bar_ptr=barrier)
        names = [n for n, of in plan.ring_of.items() if of == name]
        for i in range_constexpr(len(names)):
            row = getattr(self.at, names[i])[at.b, at.h, None]
            tile = cute.local_tile(row, (plan.schedule.tile_m,), (None,))
            with cute.arch.elect_one():
                goal = self.memory[names[i]][None, state.index]
                cute.copy(self.bulk, tile[None, m], goal, mbar_ptr=barrier)

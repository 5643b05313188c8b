"""The warp that adds parts of dQ to memory, and the order in which blocks of threads do so.

A part is added by a TMA reduction of float32, the idea of FlashAttention-3's backward (arXiv
2407.08608); here straight into rows as they are, by a tensor map. Sums of floats depend on their
order. In order of the key blocks, each waits for the one before: a counter per block of queries
tells how many have added theirs. Blocks of threads of a head run a step apart, then nobody waits.
"""

from __future__ import annotations

import cutlass
from cutlass import Int32, const_expr, cute, range_constexpr
from cutlass.cute.nvgpu import cpasync

from attngen.cutelib.backward.plan import BackwardPlan
from attngen.cutelib.backward.tiles import head_tile, rank_of, steps_of, walk_of, walked
from attngen.cutelib.tile import WARPGROUP

FULL, EMPTY = 2, 4  # named barriers + warpgroup: a part is written, its memory may be written again
THREADS = WARPGROUP + 32


class Drain:
    """What the warp needs; one slot of shared memory for each consumer warpgroup."""

    def __init__(self, plan: BackwardPlan, atoms, maps, memory, at, box, split_m) -> None:
        self.plan, self.atom, self.map, self.memory = plan, atoms["dq"], maps["dq"], memory["dq"]
        self.at, self.box, self.split_m = at, box, split_m

    @cute.jit
    def heads(self, block):
        """Every query head that shares the keys."""
        for g in cutlass.range(self.at.group, unroll=1):
            self.head(head_tile(self.plan, self.at, block, g), block)

    @cute.jit
    def head(self, at, block):
        """Adds the parts of one head, step by step."""
        plan = self.plan
        walk = walk_of(plan, at)
        whole = cute.local_tile(self.map[None, None, at.h, at.b], self.box, (None, None))
        parts, goals = cpasync.tma_partition(
            self.atom,
            0,
            cute.make_layout(1),
            cute.group_modes(self.memory, 0, 2),
            cute.group_modes(whole, 0, 2),
        )
        last = Int32(-1)
        for i in cutlass.range(steps_of(walk), unroll=1):
            m = walked(i, walk)
            for w in range_constexpr(2):
                cute.arch.cp_async_bulk_wait_group(1 - w, read=True)
                cute.arch.barrier_arrive(barrier_id=EMPTY + w, number_of_threads=THREADS)
            if const_expr(plan.schedule.ordered):
                self.wait_turn(at, block, m)
            for w in range_constexpr(2):
                cute.arch.barrier(barrier_id=FULL + w, number_of_threads=THREADS)
                place = (None, 2 * m + w, 0) if const_expr(self.split_m) else (None, m, w)
                cute.copy(self.atom, parts[None, w], goals[place])
                cute.arch.cp_async_bulk_commit_group()
            if const_expr(plan.schedule.ordered):
                if last >= 0:  # a step later: by now nobody waits for the addition
                    cute.arch.cp_async_bulk_wait_group(2)
                    self.pass_on(at, last)
            last = m
        if const_expr(plan.schedule.ordered):
            if last >= 0:
                cute.arch.cp_async_bulk_wait_group(0)
                self.pass_on(at, last)

    @cute.jit
    def finish(self):
        """Until shared memory has been read: a block of threads must not end before."""
        cute.arch.cp_async_bulk_wait_group(0, read=True)

    @cute.jit
    def wait_turn(self, at, block, m):
        """Until every earlier block of keys has added its part of query block m."""
        rank = rank_of(self.plan, at, block, m)
        counter = self._counter(at, m)
        done = cute.arch.load(counter, Int32, sem="acquire", scope="gpu")
        while done < rank:
            done = cute.arch.load(counter, Int32, sem="acquire", scope="gpu")
        cute.arch.fence_proxy("async.global")
        cute.arch.sync_warp()

    @cute.jit
    def pass_on(self, at, m):
        """Our part of query block m is in memory: let the next one add its own."""
        cute.arch.fence_proxy("async.global")
        cute.arch.sync_warp()
        if cute.arch.lane_idx() == 0:
            cute.arch.red(
                self._counter(at, m), Int32(1), op="add", dtype="s32", sem="release", scope="gpu"
            )

    def _counter(self, at, m):
        counters = getattr(self.at, self.plan.turns)
        return counters[at.b, at.h, None].iterator + m

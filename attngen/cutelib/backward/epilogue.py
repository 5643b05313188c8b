"""After the last query: dK and dV to memory, and the numbers that were summed."""

from __future__ import annotations

from cutlass import cute, range_constexpr
from cutlass.cute.nvgpu import cpasync

from attngen.cutelib.backward.plan import BackwardPlan
from attngen.cutelib.fragments import to_shared
from attngen.cutelib.tile import WARPGROUP
from attngen.cutelib.views import batch_of

READ, STORED = 6, 7  # named barriers: both warpgroups have read K; STORED + warpgroup
WARPS = 8


class Epilogue:
    """Stores what one warpgroup holds."""

    def __init__(self, kernel, atoms, maps, memory, group, thread) -> None:
        self.kernel, self.atoms, self.maps, self.memory = kernel, atoms, maps, memory
        self.plan: BackwardPlan = kernel.plan
        self.group, self.thread = group, thread
        self.storing = cute.arch.make_warp_uniform(thread // 32) % 4 == 0

    @cute.jit
    def finish(self, block, head, batch, dk, dv):
        """Store dV into the rows of V that this warpgroup alone read, dK once both have read K."""
        plan = self.plan
        dk.store(dk.load() * plan.dk_scale)
        if plan.dv_scale != 1.0:
            dv.store(dv.load() * plan.dv_scale)
        cute.arch.barrier(barrier_id=READ, number_of_threads=2 * WARPGROUP)
        self._share("dv", dv, plan.value.width)
        self._share("dk", dk, plan.key.width)
        cute.arch.fence_view_async_shared()
        cute.arch.barrier(barrier_id=STORED + self.group, number_of_threads=WARPGROUP)
        if self.storing:
            self._store("dv", plan.dv, block, head, batch)
            self._store("dk", plan.dk, block, head, batch)
            cute.arch.cp_async_bulk_commit_group()
            cute.arch.cp_async_bulk_wait_group(0, read=True)

    @cute.jit
    def _share(self, name, acc, width):
        goal = self.memory[name][None, None, self.group]
        to_shared(acc, goal, self.kernel.dtype, width, self.thread)

    @cute.jit
    def _store(self, name, stream, block, head, batch):
        place = self.memory[name][None, None, self.group]
        whole = self.maps[name][None, None, head, batch_of(stream, batch)]
        tile = cute.local_tile(whole, (64, stream.width), (block * 2 + self.group, 0))
        source, goal = cpasync.tma_partition(
            self.atoms[name],
            0,
            cute.make_layout(1),
            cute.group_modes(place, 0, 2),
            cute.group_modes(tile, 0, 2),
        )
        cute.copy(self.atoms[name], source, goal)

    @cute.jit
    def totals(self, at, block, totals):
        """The sums of each warp of this block of keys and head: partials for the host to add."""
        plan = self.plan
        for i in range_constexpr(len(plan.sum_names)):
            total = cute.arch.warp_reduction_sum(totals[2 * i] + totals[2 * i + 1])
            if cute.arch.lane_idx() == 0:
                parts = getattr(at, plan.sum_names[i])
                parts[at.b, at.h, block * WARPS + self.thread // 32] = total

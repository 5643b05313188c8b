"""A score term u * k, k the key's position: sixteen more columns of Q and K instead of arithmetic.

u over the plan's scale is split into three 16-bit numbers (24 bits); a key's place in its block is
exact in one. The block's own position joins the reference of the softmax, one number per block.
"""

from __future__ import annotations

from cutlass import Float32, const_expr, cute, range_constexpr

from attngen.cutelib.plan import Plan
from attngen.cutelib.tile import WARPGROUP, At

PARTS = 3
WRITTEN, BLOCK_WRITTEN = 8, 12  # named barriers: of one warpgroup (+ index), of all consumers


class LowRank:
    """The extra operands of the first product, or none."""

    def __init__(self, plan: Plan, mine, memory, group, thread, groups: int) -> None:
        self.plan, self.group, self.thread, self.groups = plan, group, thread, groups
        self.pairs: list = []
        if plan.slope is not None:
            self.qx, self.kx = memory["qx"], memory["kx"]
            a = mine.make_fragment_A(mine.partition_A(self.qx))
            b = mine.make_fragment_B(mine.partition_B(self.kx))
            self.pairs = [(a, b)]

    @cute.jit
    def keys(self):
        """The columns of K: places in a block, the same for every block."""
        if const_expr(self.plan.slope is not None):
            target, thread, dtype = self.kx, self.thread, self.kx.element_type
            zero = Float32(0.0).to(dtype)
            if thread < self.plan.schedule.tile_n:
                place = Float32(thread).to(dtype)
                for c in range_constexpr(16):
                    target[thread, c] = place if c < PARTS else zero
            cute.arch.fence_view_async_shared()
            cute.arch.barrier(barrier_id=BLOCK_WRITTEN, number_of_threads=self.groups * WARPGROUP)

    @cute.jit
    def queries(self, at: At):
        """The columns of Q: u, the same for all rows; a warpgroup writes the rows it reads."""
        if const_expr(self.plan.slope is not None):
            target, dtype = self.qx, self.qx.element_type
            rest = Float32(self.plan.slope(at)) * (1.0 / self.plan.scale)
            mine, row = self.thread % WARPGROUP, self.group * 64
            parts = []
            for _ in range_constexpr(PARTS):
                part = rest.to(dtype)
                rest = rest - part.to(Float32)
                parts.append(part)
            zero = Float32(0.0).to(dtype)
            if mine < 64:
                for c in range_constexpr(16):
                    target[row + mine, c] = parts[c] if c < PARTS else zero
            cute.arch.fence_view_async_shared()
            cute.arch.barrier(barrier_id=WRITTEN + self.group, number_of_threads=WARPGROUP)

    def shift(self, at: At, begin):
        """What the term gives to every score of the block that begins at key `begin`."""
        if self.plan.slope is None:
            return Float32(0.0)
        return Float32(self.plan.slope(at)) * Float32(begin - at.row0)

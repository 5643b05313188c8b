"""A consumer warpgroup: S = Q K^T of a block beside O += P V of the one before, then softmax."""

from __future__ import annotations

import cutlass
from cutlass import Float32, Int32, const_expr, cute, pipeline
from cutlass.cute.nvgpu import warpgroup

from attngen.cutelib import softmax
from attngen.cutelib.epilogue import Epilogue
from attngen.cutelib.fragments import as_operand, issue, pack
from attngen.cutelib.lowrank import LowRank
from attngen.cutelib.order import blocks_of, edges_of, walked
from attngen.cutelib.producer import tile_at
from attngen.cutelib.riders import Riders
from attngen.cutelib.scores import (
    apply_mask,
    apply_score,
    far_shift,
    row_limits,
    tile_and_rows,
)
from attngen.cutelib.tile import WARPGROUP, Places

TURN = 1  # named barriers TURN + warpgroup; 0 is sync_threads


class Consumer:
    """Fragments and state of one warpgroup; made at trace time inside the kernel."""

    def __init__(self, kernel, atoms, maps, memory, rings, at, flags) -> None:
        plan, s = kernel.plan, kernel.plan.schedule
        self.plan, self.schedule, self.reference = plan, s, s.reference
        self.groups, self.dtype, self.rings, self.at = kernel.groups, kernel.dtype, rings, at
        thread = cute.arch.thread_idx()[0] - WARPGROUP
        self.group = cute.arch.make_warp_uniform(thread // WARPGROUP)
        self.places = Places(thread)
        self.qk, self.pv = kernel.products()
        mine_qk = self.qk.get_slice(self.group * WARPGROUP)  # the same for a whole warpgroup
        mine_pv = self.pv.get_slice(self.group * WARPGROUP)
        self.q = mine_qk.make_fragment_A(mine_qk.partition_A(memory["q"]))
        self.k = mine_qk.make_fragment_B(mine_qk.partition_B(memory["k"]))
        order = cute.make_ordered_layout((plan.value.width, s.tile_n, s.stages), order=(1, 0, 2))
        transposed = cute.composition(memory["v"], order)
        self.v = mine_pv.make_fragment_B(mine_pv.partition_B(transposed))
        self.score_shape = mine_qk.partition_shape_C((s.tile_m, s.tile_n))
        self.sums = [
            cute.make_rmem_tensor(mine_pv.partition_shape_C((s.tile_m, plan.value.width)), Float32)
            for _ in plan.sums
        ]
        self.weights = [
            mine_pv.make_fragment_A(mine_pv.partition_shape_A((s.tile_m, s.tile_n)))
            for _ in plan.sums
        ]
        self.rows = softmax.Rows(2, len(plan.totals))
        self.lowrank = LowRank(plan, mine_qk, memory, self.group, thread, self.groups)
        self.riders = Riders(plan, memory, self.group, thread, self.places.lane)
        self.epilogue = Epilogue(kernel, atoms, maps, memory, self.group, thread, flags)
        self.mine, self.next = TURN + self.group, TURN + (self.group + 1) % self.groups

    def states(self):
        """Consumer states of the three rings."""
        kind, make = pipeline.PipelineUserType.Consumer, pipeline.make_pipeline_state
        return (
            make(kind, self.rings["q"].num_stages),
            make(kind, self.schedule.stages),
            make(kind, self.schedule.stages),
        )

    @cute.jit
    def start(self):
        """The last warpgroup gives the first one its turn."""
        if const_expr(self.turns):
            if self.group == self.groups - 1:
                cute.arch.barrier_arrive(barrier_id=TURN, number_of_threads=2 * WARPGROUP)
        self.lowrank.keys()

    def clear(self) -> None:
        """Sums of a new tile."""
        for acc in self.sums:
            acc.fill(0.0)

    @property
    def turns(self) -> bool:
        """Whether warpgroups take turns: while one multiplies, another exponentiates."""
        return self.schedule.turns and self.groups > 1

    def queries(self, stage) -> list:
        """Rows of queries of a tile, as operands."""
        return [self.q[None, None, None, stage]]

    # ---- products -------------------------------------------------------------------------------
    @cute.jit
    def first_product(self, q, ck):
        """S of the first block of a tile, alone."""
        self.rings["k"].consumer_wait(ck)
        s = cute.make_rmem_tensor(self.score_shape, Float32)
        pairs = [(q[0], self.k[None, None, None, ck.index]), *self.lowrank.pairs]
        issue(self.qk, s, pairs, False)
        warpgroup.wait_group(0)
        return s

    @cute.jit
    def last_product(self, cv, every=False):
        """P V of the last block of a tile, alone; every: of all sums, whatever was added before."""
        self.rings["v"].consumer_wait(cv)
        if const_expr(every):
            self.add_some(list(range(len(self.sums))), cv)
        else:
            self.add(cv)
        warpgroup.wait_group(0)
        self.rings["v"].consumer_release(cv)
        cv.advance()
        return cv

    @cute.jit
    def both_products(self, q, ck, cv):
        """S of this block and P V of the one before, in flight together; waits for S."""
        self.rings["k"].consumer_wait(ck)
        if const_expr(self.turns):
            cute.arch.barrier(barrier_id=self.mine, number_of_threads=2 * WARPGROUP)
        s = cute.make_rmem_tensor(self.score_shape, Float32)
        pairs = [(q[0], self.k[None, None, None, ck.index]), *self.lowrank.pairs]
        issue(self.qk, s, pairs, False)
        self.rings["v"].consumer_wait(cv)
        count = self.add(cv)
        if const_expr(self.turns):
            cute.arch.barrier_arrive(barrier_id=self.next, number_of_threads=2 * WARPGROUP)
        warpgroup.wait_group(count)
        return s

    def add(self, cv) -> int:
        """Issue P V of the block before; the number of groups of products in flight."""
        return self.add_some(list(range(len(self.sums))), cv)

    def add_some(self, which: list[int], cv) -> int:
        """Issue P V of these sums."""
        values = self.v[None, None, None, cv.index]
        for i in which:
            issue(self.pv, self.sums[i], [(self.weights[i], values)], True)
        return len(which)

    @cute.jit
    def opened(self, cv):
        """What follows the first block of a tile, when the sums of the tile before have left."""

    # ---- one block ------------------------------------------------------------------------------
    @cute.jit
    def softmax(self, s, tile, n, edges, first, masked, ck):
        """Products of block n to weights; tile: (`at`, `at` of each row, limits of the rows).

        The block's keys are given back: at once, or when the riders beside them have been read;
        where payloads have products with them, by who multiplies these.
        """
        plan = self.plan
        stage = ck.index
        if const_expr(len(plan.riders) + len(plan.products) == 0):
            self.rings["k"].consumer_release(ck)
            ck.advance()
        at, rows, limits = tile
        begin = n * self.schedule.tile_n
        shift = self.lowrank.shift(at, begin)
        if const_expr(plan.near is None):
            apply_score(plan, s, at, rows, self.places, begin, self.riders, stage)
        else:
            shift = shift + far_shift(plan, s, at, rows, self.places, begin)
        if const_expr(plan.riders):
            cute.arch.sync_warp()  # one lane gives back what all have read
        if const_expr(len(plan.riders) > 0 and len(plan.products) == 0):
            self.rings["k"].consumer_release(ck)
            ck.advance()
        if const_expr(masked):
            apply_mask(plan, s, rows, self.places, limits, begin, edges)
        softmax.weights(plan, self.reference, s, self.rows, shift, first, masked)
        return ck

    @cute.jit
    def open(self, q, tile, n, edges, ck):
        """The first block of a tile: S alone."""
        s = self.first_product(q, ck)
        ck = self.softmax(s, tile, n, edges, True, True, ck)
        pack(self.weights[0], as_operand(s), self.dtype)
        return ck

    @cute.jit
    def step(self, q, tile, n, edges, ck, cv, masked, first=False):
        """One more block; first: of the next tile, while the last product of this one runs."""
        s = self.both_products(q, ck, cv)
        ck = self.softmax(s, tile, n, edges, first, masked, ck)
        if const_expr(self.schedule.pin):
            softmax.pin(self.rows.l)
        warpgroup.wait_group(0)
        self.rings["v"].consumer_release(cv)
        cv.advance()
        pack(self.weights[0], as_operand(s), self.dtype)
        if const_expr(not first):
            softmax.rescale(self.reference, self.sums, self.rows)
        return ck, cv

    @cute.jit
    def alone(self, q, s, tile, n, edges, ck):
        """The operands of a block after its products s, nothing else in flight."""
        ck = self.softmax(s, tile, n, edges, False, True, ck)
        pack(self.weights[0], as_operand(s), self.dtype)
        return ck

    # ---- one tile -------------------------------------------------------------------------------
    @cute.jit
    def remaining(self, q, tile, bounds, first, ck, cv):
        """The masked blocks of a tile from step `first` on."""
        n_max, n_right, n_left, n_min, edge_right, edge_left = bounds
        for i in cutlass.range(first, n_max - n_right + n_left - n_min, unroll=1):
            n = walked(i, n_max, n_right, n_left)
            edges = edges_of(self.plan, n, edge_right, edge_left)
            ck, cv = self.step(q, tile, n, edges, ck, cv, True)
        return ck, cv

    @cute.jit
    def unmasked(self, q, tile, bounds, ck, cv):
        """The blocks of a tile that need no mask."""
        n_right, n_left = bounds[1], bounds[2]
        for i in cutlass.range(n_right - n_left, unroll=1):
            ck, cv = self.step(q, tile, n_right - 1 - i, Int32(0), ck, cv, False)
        return ck, cv

    @cute.jit
    def tile(self, number, cq, ck, cv):
        """A tile from its first product to its store."""
        plan = self.plan
        block, _, _, at = tile_at(plan, self.at, number)
        at, rows = tile_and_rows(plan, at, self.places, 2)
        bounds = blocks_of(plan, at)
        tile = (at, rows, row_limits(plan, at, self.places, 2))
        self.clear()
        self.lowrank.queries(at)
        self.rings["q"].consumer_wait(cq)
        q = self.queries(cq.index)
        n = bounds[0] - 1
        ck = self.open(q, tile, n, edges_of(plan, n, bounds[4], bounds[5]), ck)
        self.opened(cv)
        ck, cv = self.remaining(q, tile, bounds, 1, ck, cv)
        ck, cv = self.unmasked(q, tile, bounds, ck, cv)
        cv = self.last_product(cv)
        self.epilogue.finish(at, self.places, self.rows, self.sums, number, cq.index, block)
        self.epilogue.wait()
        self.rings["q"].consumer_release(cq)
        cq.advance()
        return cq, ck, cv

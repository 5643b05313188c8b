"""A consumer warpgroup: 64 keys, their dK and dV in registers, one step per block of queries.

Products are formed transposed, S^T = K Q^T and dP^T = V dO^T: so weights and their derivatives are
operands in registers for dV += P^T dO and dK += dS^T Q (FlashAttention-3 and -4 do so for narrow
tiles). Only dS goes through shared memory, for dQ = dS K, which needs the keys of both warpgroups.
"""

from __future__ import annotations

import cutlass
from cutlass import Float32, Int32, const_expr, cute, pipeline, range_constexpr
from cutlass.cute.nvgpu import warpgroup

from attngen.cutelib.backward.drain import EMPTY, FULL, THREADS
from attngen.cutelib.backward.epilogue import Epilogue
from attngen.cutelib.backward.pairs import (
    Limits,
    Numbers,
    Places,
    derivatives,
    tile_and_keys,
    weights,
)
from attngen.cutelib.backward.tiles import head_tile, steps_of, walk_of, walked
from attngen.cutelib.fragments import as_operand, issue, pack, rows_columns
from attngen.cutelib.tile import WARPGROUP

SWIZZLE = 128  # bytes of a row of a swizzled block
WRITTEN = 1  # named barrier: dS is in shared memory


def transposed(t):
    """A tile of shared memory (a, b, ...) seen as (b, a, ...)."""
    s = t.shape
    sizes = (cute.size(s[1]), cute.size(s[0]), *s[2:])
    order = (1, 0, *range(2, len(s)))
    return cute.composition(t, cute.make_ordered_layout(sizes, order=order))


class Consumer:
    """Fragments and state of one warpgroup; made at trace time inside the kernel."""

    def __init__(self, kernel, atoms, maps, memory, rings, at) -> None:
        self.plan, self.schedule = kernel.plan, kernel.plan.schedule
        self.kernel, self.dtype, self.rings, self.at = kernel, kernel.dtype, rings, at
        self.memory = memory
        self.dq_memory = memory["dq"].iterator.toint()
        thread = cute.arch.thread_idx()[0] - WARPGROUP
        self.thread = thread
        self.group = cute.arch.make_warp_uniform(thread // WARPGROUP)
        self.places = Places(thread)
        self.scores, self.sums, self.queries = kernel.products()
        s, kv, q = (
            x.get_slice(self.group * WARPGROUP) for x in (self.scores, self.sums, self.queries)
        )
        self.k = s.make_fragment_A(s.partition_A(memory["k"]))
        self.v = s.make_fragment_A(s.partition_A(memory["v"]))
        self.q = s.make_fragment_B(s.partition_B(memory["q"]))
        self.o = s.make_fragment_B(s.partition_B(memory["o"]))
        dk, dv = (x.get_slice(self.group * WARPGROUP) for x in kernel.sum_products())
        self.q_rows = dk.make_fragment_B(dk.partition_B(transposed(memory["q"])))
        self.o_rows = dv.make_fragment_B(dv.partition_B(transposed(memory["o"])))
        self.ds = q.make_fragment_A(q.partition_A(transposed(memory["ds"])))
        self.k_rows = q.make_fragment_B(q.partition_B(transposed(memory["k"])))
        tile_n, tile_m = self.schedule.tile_n, self.schedule.tile_m
        self.shape = s.partition_shape_C((tile_n, tile_m))
        self.operand = kv.partition_shape_A((tile_n, tile_m))
        self.sum_slice = kv
        self.dq_shape = q.partition_shape_C((tile_m, self.plan.query.width))
        self.dk = cute.make_rmem_tensor(
            dk.partition_shape_C((tile_n, self.plan.key.width)), Float32
        )
        self.dv = cute.make_rmem_tensor(
            dv.partition_shape_C((tile_n, self.plan.value.width)), Float32
        )
        self.totals = cute.make_rmem_tensor(2 * max(len(self.plan.sum_names), 1), Float32)
        rings_of = self.plan.ring_of
        self.early = Numbers(self.plan.numbers, rings_of, memory, thread)
        self.late = Numbers(self.plan.late_numbers, rings_of, memory, thread)
        self.epilogue = Epilogue(kernel, atoms, maps, memory, self.group, thread)

    def states(self):
        """Consumer states of the rings of Q and dO."""
        kind, make = pipeline.PipelineUserType.Consumer, pipeline.make_pipeline_state
        return make(kind, self.schedule.stages), make(kind, self.schedule.stages)

    @cute.jit
    def start(self):
        """Wait for the keys and values."""
        self.dk.fill(0.0)
        self.dv.fill(0.0)
        kind = pipeline.PipelineUserType.Consumer
        self.rings["kv"].consumer_wait(pipeline.make_pipeline_state(kind, 1))

    @cute.jit
    def heads(self, block):
        """Every query head that shares the keys."""
        cq, co = self.states()
        for g in cutlass.range(self.at.group, unroll=1):
            cq, co = self.head(head_tile(self.plan, self.at, block, g), block, cq, co)

    @cute.jit
    def head(self, at, block, cq, co):
        """All queries of one head, from the last to the first."""
        at, keys = tile_and_keys(self.plan, at, self.places)
        limits = Limits(self.plan, at, self.places)
        tile = (at, keys, limits)
        walk = walk_of(self.plan, at)
        _, full_begin, full_end, end = walk
        self.totals.fill(0.0)
        if const_expr(not self.plan.nested):  # some key's last query is not the last one
            for i in cutlass.range(end - full_end, unroll=1):
                cq, co = self.step(walked(i, walk), tile, cq, co, True)
        for i in cutlass.range(end - full_end, end - full_begin, unroll=1):
            cq, co = self.step(walked(i, walk), tile, cq, co, False)
        for i in cutlass.range(end - full_begin, steps_of(walk), unroll=1):
            cq, co = self.step(walked(i, walk), tile, cq, co, True)
        self.epilogue.totals(at, block, self.totals)
        return cq, co

    @cute.jit
    def step(self, m, tile, cq, co, masked):
        """One block of queries."""
        plan = self.plan
        at, keys, limits = _at_row(tile, m * self.schedule.tile_m)
        self.rings["q"].consumer_wait(cq)
        s = cute.make_rmem_tensor(self.shape, Float32)
        issue(self.scores, s, [(self.k, self.q[None, None, None, cq.index])], False)
        self.rings["o"].consumer_wait(co)
        dp = cute.make_rmem_tensor(self.shape, Float32)
        issue(self.scores, dp, [(self.v, self.o[None, None, None, co.index])], False)
        warpgroup.wait_group(1)
        stages = {"q": cq.index, "o": co.index}
        p = self.sum_slice.make_fragment_A(self.operand)
        whole = weights(
            plan, s, p, at, keys, self.places, self.early, stages, limits, masked, self.dtype
        )
        if const_expr(whole):
            pack(p, as_operand(s), self.dtype)
        if const_expr(self.schedule.pin):
            pin(p)
        warpgroup.wait_group(0)
        derivatives(plan, s, dp, at, keys, self.places, self.late, stages, self.totals)
        ds = self.sum_slice.make_fragment_A(self.operand)
        pack(ds, as_operand(dp), self.dtype)
        dk_product, dv_product = self.kernel.sum_products()
        issue(dv_product, self.dv, [(p, self.o_rows[None, None, None, co.index])], True)
        self.share(ds, dp.shape, co.index)
        dq = cute.make_rmem_tensor(self.dq_shape, Float32)
        issue(self.queries, dq, [(self.ds[None, None, None, co.index], self.k_rows)], False)
        issue(dk_product, self.dk, [(ds, self.q_rows[None, None, None, cq.index])], True)
        warpgroup.wait_group(1)
        self.rings["o"].consumer_release(co)
        co.advance()
        self.hand_over(dq)
        warpgroup.wait_group(0)
        self.rings["q"].consumer_release(cq)
        cq.advance()
        return cq, co

    @cute.jit
    def share(self, ds, shape, stage):
        """DS^T to shared memory; as many stages as dO has, so one barrier a step suffices."""
        atom = cute.make_copy_atom(cute.nvgpu.warp.StMatrix8x8x16bOp(False, 4), self.dtype)
        copy = cute.make_tiled_copy_C(atom, self.scores).get_slice(self.thread)
        registers = cute.make_tensor(ds.iterator, cute.make_layout(shape))
        goal = self.memory["ds"][None, None, stage]
        cute.copy(atom, copy.retile(registers), copy.partition_D(goal))
        cute.arch.fence_view_async_shared()
        cute.arch.barrier(barrier_id=WRITTEN, number_of_threads=2 * WARPGROUP)

    @cute.jit
    def hand_over(self, dq):
        """This warpgroup's part of dQ to shared memory, for the warp that adds it to memory.

        Eight columns are written as two halves of a row's 16 bytes, columns 0 2 4 6 then 1 3 5 7:
        so a store of matrices moves them without bank conflicts, where 8 bytes a thread had two.
        What dQ is summed in keeps that order; the cast that follows undoes it.
        """
        cute.arch.barrier(barrier_id=EMPTY + self.group, number_of_threads=THREADS)
        values = rows_columns(dq)
        lane, warp = self.thread % 32, self.thread % WARPGROUP // 32
        row = warp * 16 + lane // 16 * 8 + lane % 8
        columns = self.kernel.box[1]
        start = self.dq_memory + self.group * (64 * columns * 4) + row * SWIZZLE
        half, turn = lane // 8 % 2, lane % 8
        for c in range_constexpr(columns // 8):
            chunk = (c * 2 % 8 + half) ^ turn
            address = start + c // 4 * (64 * SWIZZLE) + chunk * 16
            cute.arch.inline_ptx(
                "stmatrix.sync.aligned.m8n8.x4.shared.b16 [{$r0}], {{$r1}, {$r2}, {$r3}, {$r4}};",
                read_only_args=[
                    address,
                    values[0, 2 * c],
                    values[0, 2 * c + 1],
                    values[1, 2 * c],
                    values[1, 2 * c + 1],
                ],
            )
        cute.arch.fence_view_async_shared()
        cute.arch.barrier_arrive(barrier_id=FULL + self.group, number_of_threads=THREADS)


def _at_row(tile, row0):
    """The tile with the first query of a step."""
    at, keys, limits = tile
    return at.with_values(row0=row0), [x.with_values(row0=row0) for x in keys], limits


def pin(packed) -> None:
    """Keep what made `packed` above the next wait; see `softmax.pin`. Weights have no sign bit."""
    words = cute.recast_tensor(packed, Int32)
    together = words[0]
    for i in range(1, cute.size(words)):
        together = together | words[i]
    cute.arch.inline_ptx(
        "{ .reg .pred p; setp.lt.s32 p, {$r0}, 0; @p bar.arrive 15, 128; }",
        read_only_args=[together],
    )

"""The two warps of sm_100a's kernel that feed the tensor cores: TMA loads, and issue of products.

Products of one thread run in order, so the scores of the next block may be written over the weights
of this one as soon as they are issued behind the product that reads these.
"""

from __future__ import annotations

import cutlass
from cutlass import Int32, cute
from cutlass.cute.nvgpu import cpasync, tcgen05

from attngen.cutelib.order import walked
from attngen.cutelib.plan import Plan
from attngen.cutelib.views import batch_of, head_of

ROWS = 128


@cute.jit
def block_number(i, bounds):
    """Number of the block of step i: blocks with a mask first, then full ones, downwards."""
    n_max, n_right, n_left = bounds[:3]
    masked = masked_of(bounds)
    n = walked(i, n_max, n_right, n_left)
    if i >= masked:
        n = n_right - 1 - (i - masked)
    return n


def steps_of(bounds):
    """How many blocks a tile walks."""
    return bounds[0] - bounds[3]


def masked_of(bounds):
    """How many of them need a mask: they come first."""
    n_max, n_right, n_left, n_min = bounds[:4]
    return n_max - n_right + n_left - n_min


class Loader:
    """The warp that loads: both tiles of queries, then keys and values block by block."""

    def __init__(self, plan: Plan, atoms, maps, memory, bars, products) -> None:
        self.plan, self.atoms, self.maps = plan, atoms, maps
        self.memory, self.bars, self.products = memory, bars, products

    def _parts(self, name: str, tile):
        return cpasync.tma_partition(
            self.atoms[name],
            0,
            cute.make_layout(1),
            cute.group_modes(self.memory[name], 0, 3),
            cute.group_modes(tile, 0, 3),
        )

    def _load(self, name: str, parts, barrier, stage, source, size: int) -> None:
        """One tile; the transfer completes the barrier."""
        with cute.arch.elect_one():
            cute.arch.mbarrier_arrive_and_expect_tx(barrier, size)
        into, whole = parts
        cute.copy(self.atoms[name], whole[None, source], into[None, stage], tma_bar_ptr=barrier)

    @cute.jit
    def run(self, at, block, head, batch, bounds):
        """All loads of one pair of tiles."""
        plan, bars, stages = self.plan, self.bars, self.plan.schedule.stages
        q, k, v, n = plan.query, plan.key, plan.value, plan.schedule.tile_n
        keys, values, heads = getattr(at, k.name), getattr(at, v.name), at.heads
        qk, pv = self.products[0].get_slice(0), self.products[1].get_slice(0)
        rows = self.maps["q"][None, None, head, batch_of(q, batch)]
        key = self.maps["k"][None, None, head_of(k, keys, head, heads), batch_of(k, batch)]
        value = self.maps["v"][None, None, head_of(v, values, head, heads), batch_of(v, batch)]
        q_parts = self._parts(
            "q", qk.partition_A(cute.local_tile(rows, (ROWS, q.width), (None, 0)))
        )
        k_parts = self._parts("k", qk.partition_B(cute.local_tile(key, (n, k.width), (None, 0))))
        v_parts = self._parts("v", pv.partition_B(cute.local_tile(value, (v.width, n), (0, None))))
        for i in cutlass.range_constexpr(2):
            size = 2 * ROWS * q.width
            self._load("q", q_parts, bars["q_full"] + i, i, 2 * block + i, size)
        for j in cutlass.range(steps_of(bounds), unroll=1):
            number, stage = block_number(j, bounds), j % stages
            phase = (j // stages) & 1
            cute.arch.mbarrier_wait(bars["k_empty"] + stage, phase ^ 1)
            self._load("k", k_parts, bars["k_full"] + stage, stage, number, 2 * n * k.width)
            cute.arch.mbarrier_wait(bars["v_empty"] + stage, phase ^ 1)
            self._load("v", v_parts, bars["v_full"] + stage, stage, number, 2 * n * v.width)


class Feed:
    """The warp that issues products."""

    def __init__(self, plan: Plan, memory, places, bars, products) -> None:
        self.plan, self.bars, self.places = plan, bars, places
        self.qk, self.pv = products
        self.q = self.qk.make_fragment_A(memory["q"])
        self.k = self.qk.make_fragment_B(memory["k"])
        self.v = self.pv.make_fragment_B(memory["v"])

    def _issue(self, tiled, sums, a, b, accumulate) -> None:
        """One product per 16 columns; a fresh atom, because its flag is a value of the program."""
        atom = cute.make_mma_atom(tiled.op)
        for k in range(cute.size(a, mode=[2])):
            atom.set(tcgen05.Field.ACCUMULATE, accumulate if k == 0 else True)
            cute.gemm(atom, sums, a[None, None, k], b[None, None, k], sums)

    def _signal(self, barrier) -> None:
        """Completes the barrier when everything issued so far is done."""
        with cute.arch.elect_one():
            tcgen05.commit(barrier)

    def _scores(self, i: int, stage) -> None:
        self._issue(
            self.qk,
            self.places["s"][i],
            self.q[None, None, None, i],
            self.k[None, None, None, stage],
            False,
        )
        self._signal(self.bars["s_full"] + i)

    @cute.jit
    def run(self, bounds):
        """All products of one pair of tiles."""
        bars, stages, steps = self.bars, self.plan.schedule.stages, steps_of(bounds)
        cute.arch.mbarrier_wait(bars["k_full"], 0)
        for i in cutlass.range_constexpr(2):
            cute.arch.mbarrier_wait(bars["q_full"] + i, 0)
            self._scores(i, Int32(0))
        self._signal(bars["k_empty"])
        for j in cutlass.range(steps, unroll=1):
            stage, following = j % stages, (j + 1) % stages
            more = j + 1 < steps
            cute.arch.mbarrier_wait(bars["v_full"] + stage, (j // stages) & 1)
            if more:
                cute.arch.mbarrier_wait(bars["k_full"] + following, ((j + 1) // stages) & 1)
            for i in cutlass.range_constexpr(2):
                cute.arch.mbarrier_wait(bars["p_full"] + i, j & 1)  # weights written, sums rescaled
                self._issue(
                    self.pv,
                    self.places["o"][i],
                    self.places["p"][i],
                    self.v[None, None, None, stage],
                    j > 0,
                )
                self._signal(bars["o_full"] + i)
                if more:  # in order behind the product above: may overwrite its weights
                    self._scores(i, following)
            self._signal(bars["v_empty"] + stage)
            if more:
                self._signal(bars["k_empty"] + following)

"""The producer warp: queries of a tile once, then keys and values block by block, by TMA."""

from __future__ import annotations

import cutlass
from attngen.cutelib.order import blocks_of, place_of, walked
from attngen.cutelib.plan import Plan, Stream
from attngen.cutelib.tile import At
from attngen.cutelib.views import batch_of, head_of
from cutlass import Int32, cute
from cutlass.cute.nvgpu import cpasync


def tile_at(plan: Plan, at: At, tile) -> tuple:
    """(row block, head, batch, `at` of the tile)."""
    block, head, batch = place_of(tile, at.grid)
    return block, head, batch, at_of(plan, at, block, head, batch)


def at_of(plan: Plan, at: At, block, head, batch) -> At:
    """`at` of a row block of a head."""
    row0 = block * plan.schedule.tile_m
    key = getattr(at, plan.key.name)
    return at.with_values(
        b=batch,
        h=head,
        h_kv=head_of(plan.key, key, head, at.heads),
        row0=row0,
        row1=cutlass.min(row0 + plan.schedule.tile_m, at.q_len),
    )


class Source:
    """What the producer issues: partitions of shared memory, rings."""

    def __init__(self, plan: Plan, atoms, maps, memory, rings, at: At) -> None:
        self.plan, self.atoms, self.maps, self.memory = plan, atoms, maps, memory
        self.rings, self.at = rings, at

    def _parts(self, name: str, stream: Stream, head, batch, tile: tuple[int, int], at):
        whole = self.maps[name][None, None, head, batch]
        block = cute.local_tile(whole, tile, at)
        return cpasync.tma_partition(
            self.atoms[name], 0, cute.make_layout(1),
            cute.group_modes(self.memory[name], 0, 2), cute.group_modes(block, 0, 2),
        )

    def _load(self, name: str, parts, state, n=None) -> None:
        """One tile into the ring's next stage; the transfer itself completes the barrier."""
        into, source = parts
        ring = self.rings[name]
        ring.producer_acquire(state)
        cute.copy(
            self.atoms[name],
            source if n is None else source[None, n],
            into[None, state.index],
            tma_bar_ptr=ring.producer_get_barrier(state),
        )

    @cute.jit
    def again(self, block, flags, sq, sk, sv):
        """The tiles a first kernel flagged, those of every grid-th number from `block` on."""
        total, stride = self.at.grid[0] * self.at.grid[2], cute.arch.grid_dim()[0]
        for i in cutlass.range(cute.ceil_div(total - block, stride), unroll=1):
            if flagged(flags, block + i * stride, self.plan.schedule.groups):
                sq, sk, sv = self.tile(block + i * stride, sq, sk, sv)

    @cute.jit
    def tile(self, tile, sq, sk, sv):
        """All loads of one tile."""
        block, head, batch, at = tile_at(self.plan, self.at, tile)
        return self.blocks(blocks_of(self.plan, at), block, head, batch, sq, sk, sv)

    @cute.jit
    def blocks(self, bounds, block, head, batch, sq, sk, sv):
        """The loads of a tile whose bounds are known."""
        plan, s = self.plan, self.plan.schedule
        q, k, v = plan.query, plan.key, plan.value
        n_max, n_right, n_left, n_min = bounds[:4]
        keys, values = getattr(self.at, k.name), getattr(self.at, v.name)
        heads = self.at.heads
        rows = self._parts("q", q, head, batch_of(q, batch), (s.tile_m, q.width), (block, 0))
        key = self._parts("k", k, head_of(k, keys, head, heads), batch_of(k, batch),
                          (s.tile_n, k.width), (None, 0))
        value = self._parts("v", v, head_of(v, values, head, heads), batch_of(v, batch),
                            (s.tile_n, v.width), (None, 0))
        self._load("q", rows, sq)
        sq.advance()
        masked = n_max - n_right + n_left - n_min
        for i in cutlass.range(masked + n_right - n_left, unroll=1):
            n = walked(i, n_max, n_right, n_left)
            if i >= masked:
                n = n_right - 1 - (i - masked)
            self._load("k", key, sk, n)
            sk.advance()
            self._load("v", value, sv, n)
            sv.advance()
        return sq, sk, sv


@cute.jit
def flagged(flags, tile, groups):
    """Whether a warp of the first kernel flagged a row of the tile."""
    lane = cute.arch.lane_idx()
    mine = Int32(0)
    if lane < 4 * groups:
        mine = flags[tile * (4 * groups) + lane]
    return cute.arch.vote_any_sync(mine != 0)

"""The producer warp: queries of a tile once, then keys and values block by block, by TMA."""

from __future__ import annotations

import cutlass
from cutlass import Int32, cute
from cutlass.cute.nvgpu import cpasync

from attngen.cutelib.order import blocks_of, place_of, walked
from attngen.cutelib.plan import Plan, Rider
from attngen.cutelib.riders import parts_of
from attngen.cutelib.tile import At
from attngen.cutelib.views import batch_of, head_of


def other(i: int) -> str:
    """Key of what belongs to further rows of queries."""
    return f"other_{i}"


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

    def _parts(
        self, name: str, head, batch, tile: tuple[int, int], at, place: str = "", first=None
    ):
        """Partitions of a tensor's shared memory (`place`; by the same name) and of its tiles.

        first: the row that tiles are counted from.
        """
        whole = self.maps[name][None, None, head, batch]
        if first is not None:
            whole = cute.domain_offset((first, 0), whole)
        block = cute.local_tile(whole, tile, at)
        return cpasync.tma_partition(
            self.atoms[name],
            0,
            cute.make_layout(1),
            cute.group_modes(self.memory[place or name], 0, 2),
            cute.group_modes(block, 0, 2),
        )

    def _load(self, name: str, parts, state, n=None, riders=()) -> None:
        """One tile into the ring's next stage; the transfer itself completes the barrier.

        riders: parts of what completes the same barrier.
        """
        ring = self.rings[name]
        ring.producer_acquire(state)
        names = (name, *(x.name for x in self.plan.riders)) if riders else (name,)
        for atom, (into, source) in zip(names, (parts, *riders), strict=True):
            cute.copy(
                self.atoms[atom],
                source if n is None else source[None, n],
                into[None, state.index],
                tma_bar_ptr=ring.producer_get_barrier(state),
            )

    @cute.jit
    def again(self, block, flags, sq, sk, sv):
        """The tiles a first kernel flagged, those of every grid-th number from `block` on."""
        total, stride = self.at.grid[0] * self.at.grid[2], cute.arch.grid_dim()[0]
        count = (total - block + stride - 1) // stride
        for chunk in cutlass.range((count + 31) // 32, unroll=1):
            start = block + 32 * chunk * stride
            mask = flagged(flags, start, stride, total, self.plan.schedule.groups)
            for i in cutlass.range(32, unroll=1):
                if (mask >> i) & 1 == 1:
                    sq, sk, sv = self.tile(start + i * stride, sq, sk, sv)

    @cute.jit
    def tile(self, tile, sq, sk, sv):
        """All loads of one tile."""
        block, head, batch, at = tile_at(self.plan, self.at, tile)
        return self.blocks(blocks_of(self.plan, at), block, head, batch, sq, sk, sv)

    @cute.jit
    def blocks(self, bounds, block, head, batch, sq, sk, sv):
        """The loads of a tile whose bounds are known."""
        parts = self.parts(block, head, batch)
        sq = self.queries(parts, sq)
        sk, sv = self.range(parts, bounds, 0, count_of(bounds), sk, sv)
        return sq, sk, sv

    def parts(self, block, head, batch, at=None):
        """Partitions of the tensors for a row block of a head; at: of a packed sequence."""
        plan, s, heads = self.plan, self.plan.schedule, self.at.heads
        q, k, v = plan.query, plan.key, plan.value
        if plan.packed:
            rows, keys_ = (at.q_end, at.q_shift), (at.kv_end, at.kv_shift)
        else:
            rows = keys_ = (None, None)
        keys, values = getattr(self.at, k.name), getattr(self.at, v.name)
        return (
            self._parts(
                "q",
                head,
                batch_of(q, batch, rows[0]),
                (s.tile_m, q.width),
                (block, 0),
                first=rows[1],
            ),
            self._parts(
                "k",
                head_of(k, keys, head, heads),
                batch_of(k, batch, keys_[0]),
                (s.tile_n, k.width),
                (None, 0),
                first=keys_[1],
            ),
            self._parts(
                "v",
                head_of(v, values, head, heads),
                batch_of(v, batch, keys_[0]),
                (s.tile_n, v.width),
                (None, 0),
                first=keys_[1],
            ),
            tuple(self._rider(x, block, head, batch, keys) for x in plan.riders),
            *(
                self._parts(
                    other(i),
                    head,
                    batch_of(x, batch, rows[0]),
                    (s.tile_m, q.width),
                    (block, 0),
                    "others",
                    rows[1],
                )
                for i, x in enumerate(plan.products)
            ),
        )

    def _rider(self, rider: Rider, block, head, batch, keys):
        """Partitions of what rides with the keys."""
        if "kv_head" in rider.roles:
            head = head // (self.at.heads // keys.shape[2])
        maps, memory = self.maps[rider.name], self.memory[rider.name]
        return parts_of(rider, self.plan, maps, self.atoms[rider.name], memory, block, head, batch)

    @cute.jit
    def queries(self, parts, sq):
        """The queries of a tile, all of them on one barrier."""
        self._load("q", parts[0], sq)
        count = len(self.plan.products)
        for i in cutlass.range_constexpr(count):
            into, source = parts[4 + i]
            barrier = self.rings["q"].producer_get_barrier(sq)
            place = into[None, sq.index * count + i]
            cute.copy(self.atoms[other(i)], source, place, tma_bar_ptr=barrier)
        sq.advance()
        return sq

    @cute.jit
    def range(self, parts, bounds, first, last, sk, sv):
        """Keys and values of the steps first..last of a tile."""
        n_max, n_right, n_left, n_min = bounds[:4]
        masked = n_max - n_right + n_left - n_min
        for i in cutlass.range(first, last, unroll=1):
            n = walked(i, n_max, n_right, n_left)
            if i >= masked:
                n = n_right - 1 - (i - masked)
            self._load("k", parts[1], sk, n, parts[3])
            sk.advance()
            self._load("v", parts[2], sv, n)
            sv.advance()
        return sk, sv


def count_of(bounds):
    """Number of blocks a tile walks."""
    return bounds[0] - bounds[3]


@cute.jit
def flagged(flags, start, stride, total, groups):
    """Bit i: a warp of the first kernel flagged a row of tile start + i * stride."""
    tile = start + cute.arch.lane_idx() * stride
    mine = Int32(0)
    if tile < total:
        for warp in cutlass.range_constexpr(4 * groups):
            mine = mine | flags[warp * total + tile]
    return Int32(cute.arch.vote_ballot_sync(mine != 0))

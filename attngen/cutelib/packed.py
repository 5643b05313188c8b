"""Packed sequences: which sequence, and which of its row blocks, a tile is.

Sequence b owns the slots from starts[b] // tile_m + b on: at least one for each of its row blocks.
So slots are numbered without a prefix sum over sequences; a slot without queries is passed over.
"""

from __future__ import annotations

import cutlass
from cutlass import Int32, cute

from attngen.cutelib.order import place_of
from attngen.cutelib.plan import Plan
from attngen.cutelib.tile import At

WARP = 32
FIRST = 10  # field of a slot of the board: lengths and ends, after the place and the bounds


@cute.jit
def sequence_of(starts, slot, tile_m: cutlass.Constexpr):
    """The last sequence b with starts[b] // tile_m + b <= slot, by a warp, 32 probes at a time."""
    lane = cute.arch.lane_idx()
    low, high = Int32(0), Int32(starts.shape[0] - 1)
    while low < high:
        step = (high - low + WARP - 1) // WARP
        probe = low + lane * step
        before = False
        if probe < high:
            before = starts[probe] // tile_m + probe <= slot
        count = cute.arch.popc(cute.arch.vote_ballot_sync(before))
        high = cutlass.min(high, low + count * step)
        if count > 0:
            low = low + (count - 1) * step + 1
    return low - 1


def find_sequence(plan: Plan, at: At, slot):
    """(sequence, row block in it, `at` with its lengths) of a slot."""
    starts, size = getattr(at, plan.query.packed), plan.schedule.tile_m
    sequence = sequence_of(starts, slot, size)
    keys = getattr(at, plan.key.packed)
    first, key = starts[sequence], keys[sequence]
    end, key_end = starts[sequence + 1], keys[sequence + 1]
    block = slot - first // size - sequence
    return sequence, block, _with_lengths(at, end - first, end, key_end - key, key_end)


@cute.jit
def empty(plan: Plan, at: At, tile):
    """Whether a tile is one whose slot has no queries."""
    without = False
    if tile >= 0:
        slot, _, _ = place_of(tile, at.grid)
        _, block, found = find_sequence(plan, at, slot)
        without = block * plan.schedule.tile_m >= found.q_len
    return without


def sequence_at(plan: Plan, at: At, board, slot) -> At:
    """`at` with the lengths of the sequence of a slot of the board."""
    if not plan.packed:
        return at
    return _with_lengths(at, *(board.slots[FIRST + i, slot] for i in range(4)))


def _with_lengths(at: At, q_len, q_end, kv_len, kv_end) -> At:
    """Lengths, ends, and where rows begin if the whole ends with the sequence; see `views`."""
    return at.with_values(
        q_len=q_len,
        q_end=q_end,
        q_shift=at.q_len - q_len,
        kv_len=kv_len,
        kv_end=kv_end,
        kv_shift=at.kv_len - kv_len,
    )

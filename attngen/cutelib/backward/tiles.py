"""Which block of keys a block of threads owns, and which blocks of queries it walks."""

from __future__ import annotations

import cutlass
from cutlass import Boolean, Int32, const_expr, cute, max, min

from attngen.cutelib.backward.plan import BackwardPlan
from attngen.cutelib.ops import integer
from attngen.cutelib.tile import At


def chunk_of(plan: BackwardPlan, pairs):
    """Heads of keys that run side by side."""
    return min(Int32(plan.schedule.beside), pairs)


def place_of(number, grid: tuple):
    """(block of keys, head of keys, batch) of a block of threads.

    Earlier keys first: under a causal mask they meet the most queries, and a block of threads only
    ever waits for one that began before it.
    """
    blocks, heads, pairs, chunk = grid
    group, rest = number // (chunk * blocks), number % (chunk * blocks)
    size = min(chunk, pairs - group * chunk)
    pair = group * chunk + rest % size
    return rest // size, pair % heads, pair // heads


def key_tile(plan: BackwardPlan, at: At, block) -> At:
    """`at` of a block of keys."""
    size = plan.schedule.tile_n
    col0 = block * size
    return at.with_values(col0=col0, col1=min(col0 + size, at.kv_len))


def head_tile(plan: BackwardPlan, at: At, block, g) -> At:
    """`at` of a block of keys and the query head `g` of those that share them."""
    return key_tile(plan, at.with_values(h=at.h_kv * at.group + g), block)


@cute.jit
def ends_of(plan: BackwardPlan, at: At):
    """(first query block, the one after the last): those a block of keys walks."""
    size = plan.schedule.tile_m
    low, high, _, _ = [Int32(integer(x)) for x in plan.tiles(at)]
    begin = max(low, 0) // size
    return begin, max(cute.ceil_div(min(high, at.q_len), size), begin)


@cute.jit
def walk_of(plan: BackwardPlan, at: At):
    """(begin, full_begin, full_end, end): query blocks walked, those that need no mask."""
    size = plan.schedule.tile_m
    begin, end = ends_of(plan, at)
    _, _, low, high = [Int32(integer(x)) for x in plan.tiles(at)]
    full_begin, full_end = cute.ceil_div(max(low, 0), size), max(high, 0) // size
    full_end = end if high >= at.q_len else full_end  # queries that do not exist weigh nothing
    ragged = at.col0 + plan.schedule.tile_n > at.kv_len
    full_begin = end if ragged else full_begin
    full_begin = max(min(full_begin, end), begin)
    full_end = max(min(full_end, end), full_begin)
    return begin, full_begin, full_end, end


def walked(i, walk):
    """Query block of step i, from the last to the first.

    Blocks of keys of a head then go side by side, each a step behind the one before it: the order
    in which they add to dQ makes none of them wait, under a causal mask or a window.
    """
    return walk[3] - 1 - i


def steps_of(walk):
    """The number of query blocks."""
    return walk[3] - walk[0]


@cute.jit
def rank_of(plan: BackwardPlan, at: At, block, m):
    """How many earlier blocks of keys walk query block m; by one warp."""
    rank = Int32(block)
    if const_expr(not plan.nested):
        rank = Int32(0)
        lane = cute.arch.lane_idx()
        for i in cutlass.range(cute.ceil_div(block, 32), unroll=1):
            mine = visits(plan, at, i * 32 + lane, block, m)
            rank = rank + Int32(cute.arch.popc(cute.arch.vote_ballot_sync(mine)))
    return rank


@cute.jit
def visits(plan: BackwardPlan, at: At, other, block, m):
    """Whether a block of keys before `block` walks query block m."""
    begin, end = ends_of(plan, key_tile(plan, at, min(other, block)))
    return Boolean((other < block) & (m >= begin) & (m < end))

"""Schedules of the backward kernels.

Measured on an H200 (`bench/backward_sweep.py`, docs/schedules.md): 64 x 64 tiles, four warps, two
stages over queries, three over keys for rows of 128 columns; 128 keys and eight warps where columns
run to the end of the queries (causal masks); one masked loop each, in one launch, for documents.
Wider rows take smaller tiles, so that the accumulators stay in registers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attngen.core.target import Target
from attngen.ir.index import var
from attngen.ir.program import Program
from attngen.passes.score import split_score
from attngen.schedule.choose import choose, short_rows
from attngen.schedule.cost import footprint
from attngen.schedule.schedule import Schedule


@dataclass(frozen=True)
class BackwardSchedule:
    """One schedule per kernel: the rows kernel, the loop over keys, the loop over queries.

    joined: both loops are launched as one grid, key tiles first, where their tiles are alike;
    float_positions: positions that a tile sum multiplies with are converted once per row and per
    column, not once per element; skip_empty: tiles are tested at run time where the mask gives no
    bound, as the forward does. The second made no difference where it was measured, the third has
    not been measured.
    """

    rows: Schedule
    queries: Schedule
    keys: Schedule
    joined: bool = False
    float_positions: bool = False
    skip_empty: bool = False


# (most columns, block_q and block_k of the queries kernel, of the keys kernel, warps)
_ROWS = (
    (128, (64, 64), (64, 64), 4),
    (256, (64, 32), (32, 64), 8),
    (512, (32, 32), (32, 32), 8),
    (4096, (16, 16), (16, 16), 4),
)


def plain_scores(program: Program) -> bool:
    """Whether every score is a multiple of one product plus terms of rows and columns."""
    parts = [split_score(c.score) for c in program.online.classes]
    return bool(parts) and all(p.dot is not None and p.rest is None for p in parts)


def choose_backward(program: Program, target: Target) -> BackwardSchedule:
    """Tiles by the width of all rows a program holds at once."""
    forward = choose(program, target)
    found = footprint(program)
    wide = 2 if any(t.dtype.bytes == 4 for t in program.attention.tensors if t.is_stream) else 1
    width = max(found.query_width, found.accumulator_width, found.key_bytes // 4) * wide
    if program.online.tops:  # indices and gradients of each slot stay in registers beside a tile
        width = max(width, 256)
    _, q, k, warps = next(row for row in _ROWS if width <= row[0] or row is _ROWS[-1])
    # a descriptor would hand a tile the rows of the next packed sequence; pointers are masked
    packed = any(t.packed for t in program.attention.tensors)
    loads = "pointer" if packed else forward.loads
    base = replace(
        forward, loads=loads, max_registers=None, form="tile", warps=warps, loops="split"
    )
    queries = replace(
        base, block_q=q[0], block_k=q[1], stages=3 if warps == 4 and q[0] == 64 else 1
    )
    if width <= 128 and not plain_scores(program):
        queries = replace(base, block_q=128, block_k=64, warps=8, stages=3)
    rows = replace(base, block_q=64, block_k=16, warps=4, stages=1)
    keys = replace(base, block_q=k[0], block_k=k[1], stages=2 if warps == 4 and k[0] == 64 else 1)
    chosen = BackwardSchedule(rows, queries, keys)
    measured = target.name == "sm_90" and base.loads == "descriptor" and 64 < width <= 128
    return _by_mask(program, chosen) if measured and plain_scores(program) else chosen


def _by_mask(program: Program, s: BackwardSchedule) -> BackwardSchedule:
    """What pays on Hopper for some masks, between 2% and 6% of a backward."""
    if short_rows(program):
        queries, keys = (replace(x, loops="single") for x in (s.queries, s.keys))
        return replace(s, queries=queries, keys=keys, joined=True)
    if _long_columns(program):
        return replace(s, keys=replace(s.keys, block_k=128, warps=8, stages=3))
    return s


def _long_columns(program: Program) -> bool:
    """Whether a mask lets keys be seen to the last query: the loop over queries is long."""
    ways = program.mask.transposed.outer
    length = var("kv_len" if program.attention.same_length else "q_len")
    return program.attention.mask is not None and len(ways) == 1 and ways[0].hi is length

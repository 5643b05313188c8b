"""Runs of equal elements in a sorted row (documents): where the run of each query begins.

The producer warp finds them one tile ahead of the consumers: one search for the tile's first query,
32 probes at a time, and from there on by looking at where the elements of the tile change.
"""

from __future__ import annotations

from typing import Any

import cutlass
from cutlass import Int32, cute, range_constexpr

from attngen.cutelib.tile import At

WARP = 32


class Run:
    """Starts of the runs of one row over a tile: first, last of the tile's queries; of one."""

    def __init__(self, first: Any, last: Any, starts: Any = None, row0: Any = None) -> None:
        self.first, self.last, self.starts, self.row0 = first, last, starts, row0

    def of(self, q_idx: Any) -> Any:
        """Start of the run of a query of the tile."""
        return self.starts[q_idx.value - self.row0]


@cute.jit
def find(row, at: At, starts, tile_m: cutlass.Constexpr):
    """Fill `starts` (one entry per query of the tile); (start of the first, of the last query).

    row: the sorted elements, of which position q_len - 1 is the last one read.
    """
    lane = cute.arch.lane_idx()
    value = row[at.row0]
    low, high = Int32(0), at.row0  # the first position that is not less lies in [low, high]
    while low < high:
        step = (high - low + WARP - 1) // WARP
        probe = low + lane * step
        less = False
        if probe < high:
            less = row[probe] < value
        count = cute.arch.popc(cute.arch.vote_ballot_sync(less))
        high = cutlass.min(high, low + count * step)
        low = low + cutlass.max(count - 1, 0) * step
        if count > 0:
            low = low + 1
    each = tile_m // WARP
    begin = at.row0 + lane * each
    last = Int32(0)
    changes = []
    before = row[cutlass.min(cutlass.max(begin - 1, at.row0), at.q_len - 1)]
    for i in range_constexpr(each):
        place = begin + i
        element = row[cutlass.min(place, at.q_len - 1)]
        last = place if element != before else last
        before = element
        changes.append(last)
    reach = last  # greatest change up to and with this lane
    for i in range_constexpr(5):
        other = cute.arch.shuffle_sync_up(reach, 1 << i)
        reach = cutlass.max(reach, other) if lane >= (1 << i) else reach
    earlier = cute.arch.shuffle_sync_up(reach, 1)
    earlier = earlier if lane > 0 else Int32(0)
    base = cutlass.max(low, earlier)
    for i in range_constexpr(each):
        starts[lane * each + i] = cutlass.max(base, changes[i])
    end = cute.arch.shuffle_sync(cutlass.max(base, last), WARP - 1)
    return low, end

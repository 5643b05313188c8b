"""Which tile a block of threads works on, and which blocks of keys a tile walks."""

from __future__ import annotations

from cutlass import Int32, Int64, const_expr, cute, max, min

from attngen.cutelib.ops import integer
from attngen.cutelib.plan import Plan
from attngen.cutelib.tile import At

MANY = 1 << 30


class Grid:
    """The tiles of a launch: `tiles` row blocks of `heads * batch` heads.

    Of packed sequences: slots of `heads` heads, see `packed.sequence_of`.

    chunk: heads whose keys and values fit in the L2 cache together; they run side by side, the
    longest rows first (FlashAttention's order for causal masks).
    """

    def __init__(self, plan: Plan, q_len, kv_len, heads, batch, group) -> None:
        s = plan.schedule
        self.tiles = cute.ceil_div(q_len, s.tile_m)
        if plan.packed:
            self.tiles, batch = q_len // s.tile_m + batch, 1
        self.heads, self.pairs = heads, heads * batch
        width = plan.key.width + plan.value.width
        room = Int64(s.l2) // max(Int64(kv_len) * (2 * width), Int64(1))
        self.chunk = min(Int32(min(max(room, Int64(1)), Int64(MANY))) * group, self.pairs)

    @property
    def total(self):
        """Number of tiles."""
        return self.tiles * self.pairs

    def values(self) -> tuple:
        """What a kernel needs of it."""
        return self.tiles, self.heads, self.pairs, self.chunk


def place_of(tile, grid: tuple):
    """(row block, head, batch) of a tile number."""
    tiles, heads, pairs, chunk = grid
    group, rest = tile // (chunk * tiles), tile % (chunk * tiles)
    size = min(chunk, pairs - group * chunk)
    pair = group * chunk + rest % size
    return tiles - 1 - rest // size, pair % heads, pair // heads


@cute.jit
def blocks_of(plan: Plan, at: At):
    """(n_max, n_right, n_left, n_min, edge_right, edge_left) of a tile.

    Blocks [n_min, n_max) are walked, at least one; [n_left, n_right) need no mask. Block n crosses
    the upper limit of some row if n >= edge_right, the lower if n < edge_left: these two are not
    clamped to the blocks walked, for both limits may cross one block.
    """
    size = plan.schedule.tile_n
    low, high, full_low, full_high = [Int32(integer(x)) for x in plan.tiles(at)]
    high, full_high = min(high, at.kv_len), min(full_high, at.kv_len)
    n_max = max(cute.ceil_div(high, size), 1)
    n_min = min(max(low, 0) // size, n_max - 1)
    edge_right, edge_left = max(full_high, 0) // size, cute.ceil_div(max(full_low, 0), size)
    if full_high <= full_low:
        edge_right, edge_left = Int32(0), Int32(MANY)
    n_left = max(min(edge_left, n_max - 1), n_min)
    n_right = max(min(edge_right, n_max - 1), n_left)
    if const_expr(plan.schedule.redo):  # one loop for all blocks: each looks at its mask
        n_left, n_right = n_min, n_min
    return n_max, n_right, n_left, n_min, edge_right, edge_left


@cute.jit
def edges_of(plan: Plan, n, edge_right, edge_left):
    """Bits: 1 the block crosses an upper limit, 2 a lower one."""
    edges = Int32(1)
    if const_expr(plan.first_key is not None):
        edges = Int32(1) if n >= edge_right else Int32(0)
        edges = edges + 2 if n < edge_left else edges
    return edges


@cute.jit
def walked(i, n_max, n_right, n_left):
    """Block number of step i: the upper edge downwards, then the lower edge, then full blocks."""
    upper = n_max - n_right
    n = n_max - 1 - i
    if i >= upper:
        n = n_left - 1 - (i - upper)
    return n

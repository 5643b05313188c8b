"""The kernel that redoes flagged tiles: rows in which the reference of the first block failed.

Almost always no tile is flagged, so what counts is how soon it is compiled and that it ends at once
where it has nothing to do. One step serves every block: S, softmax with the running maximum, P V,
one after the other. The other kernel has that step three or four times, each with its own masks and
the products of two blocks in flight. While a warpgroup exponentiates, another may multiply.
"""

from __future__ import annotations

import cutlass
from cutlass import Float32, Int32, cute, range_constexpr

from attngen.cutelib import softmax
from attngen.cutelib.consumer import Consumer
from attngen.cutelib.flat import SLOTS, FlatConsumer
from attngen.cutelib.order import blocks_of, edges_of
from attngen.cutelib.producer import flagged, tile_at
from attngen.cutelib.scores import row_limits, tile_and_rows
from attngen.cutelib.several import SeveralConsumer


class Serial:
    """The one step, for consumers of either form."""

    @cute.jit
    def serial(self, q, tile, bounds, ck, cv):
        """All blocks of a tile, from the last one down, by one step."""
        self.clear()
        for r in range_constexpr(self.rows.count):
            self.rows.m[r], self.rows.l[r] = -Float32.inf, Float32(0.0)
            for total in self.rows.totals:
                total[r] = Float32(0.0)
        n_max, n_min = bounds[0], bounds[3]
        for i in cutlass.range(n_max - n_min, unroll=1):
            n = n_max - 1 - i
            s = self.first_product(q, ck)
            edges = edges_of(self.plan, n, bounds[4], bounds[5])
            ck = self.alone(q, s, tile, n, edges, ck)
            softmax.rescale(self.reference, self.sums, self.rows)
            cv = self.last_product(cv, True)
        return ck, cv


class Redo(Serial, Consumer):
    """The consumers where a block of threads finds the flagged tiles by itself."""

    @cute.jit
    def tile(self, number, cq, ck, cv):
        """A tile from its first product to its store."""
        plan = self.plan
        block, _, _, at = tile_at(plan, self.at, number)
        at, rows = tile_and_rows(plan, at, self.places, 2)
        bounds = blocks_of(plan, at)
        tile = (at, rows, row_limits(plan, at, self.places, 2))
        self.lowrank.queries(at)
        self.rings["q"].consumer_wait(cq)
        ck, cv = self.serial(self.queries(cq.index), tile, bounds, ck, cv)
        self.epilogue.finish(at, self.places, self.rows, self.sums, number, cq.index, block)
        self.epilogue.wait()
        self.rings["q"].consumer_release(cq)
        cq.advance()
        return cq, ck, cv

    @cute.jit
    def again(self, block, flags, cq, ck, cv):
        """The tiles a first kernel flagged, those of every grid-th number from `block` on."""
        total, stride = self.at.grid[0] * self.at.grid[2], cute.arch.grid_dim()[0]
        count = (total - block + stride - 1) // stride
        for chunk in cutlass.range((count + 31) // 32, unroll=1):
            start = block + 32 * chunk * stride
            mask = flagged(flags, start, stride, total, self.groups)
            for i in cutlass.range(32, unroll=1):
                if (mask >> i) & 1 == 1:
                    cq, ck, cv = self.tile(start + i * stride, cq, ck, cv)


class SeveralRedo(Redo, SeveralConsumer):
    """The same with several sums."""


class FlatRedo(Serial, FlatConsumer):
    """The consumers where the producer announces the flagged tiles."""

    @cute.jit
    def all(self, board, cq, ck, cv):
        """Every tile the producer announces."""
        slot = Int32(0)
        self.rings["q"].consumer_wait(cq)
        go = board.slots[0, 0] >= 0
        while go:
            cq, ck, cv, slot, go = self.announced(board, cq, ck, cv, slot)

    @cute.jit
    def announced(self, board, cq, ck, cv, slot):
        """A tile from its first product to its store, and whether another one follows."""
        place, tile, bounds = self.tile_of(board, slot)
        number = board.slots[0, slot]
        self.lowrank.queries(tile[0])
        ck, cv = self.serial(self.queries(cq.index), tile, bounds, ck, cv)
        self.epilogue.finish(tile[0], self.places, self.rows, self.sums, number, cq.index, place)
        self.epilogue.wait()
        self.rings["q"].consumer_release(cq)
        cq.advance()
        self.rings["q"].consumer_wait(cq)
        slot = (slot + 1) % SLOTS
        return cq, ck, cv, slot, board.slots[0, slot] >= 0


class FlatSeveralRedo(FlatRedo, SeveralConsumer):
    """The same with several sums."""

"""The flattened persistent form: the tiles of a block of threads run into each other.

S of the next tile's first block is multiplied together with the last P V of this tile, so a change
of tiles costs no drained pipeline. Tiles come from an atomic ticket that the producer draws ahead;
it passes the tile's place and bounds through shared memory, on the barrier of its queries.
"""

from __future__ import annotations

import cutlass
from cutlass import Int32, const_expr, cute, pipeline, range_constexpr

from attngen.cutelib import softmax
from attngen.cutelib.consumer import Consumer
from attngen.cutelib.order import blocks_of, edges_of, place_of
from attngen.cutelib.packed import empty, find_sequence, sequence_at
from attngen.cutelib.producer import Source, at_of, count_of, flagged
from attngen.cutelib.runs import Run, find
from attngen.cutelib.scores import row_limits, tile_and_rows

SLOTS = 4  # tiles known at a time: the queries of two, one being opened, one being drawn
FIELDS = 16  # numbers of a slot; the first: the tile, -1 after the last one


class Board:
    """Tiles drawn, in shared memory: slots of numbers, and starts of runs per query."""

    def __init__(self, plan, storage) -> None:
        self.plan = plan
        self.slots = storage.slots.get_tensor(cute.make_layout((FIELDS, SLOTS)))
        shape = (plan.schedule.tile_m, max(len(plan.runs), 1), SLOTS)
        self.starts = storage.starts.get_tensor(cute.make_layout(shape)) if plan.runs else None

    @staticmethod
    def sizes(plan) -> tuple[int, int]:
        """Integers of shared memory for slots and starts."""
        return FIELDS * SLOTS, max(plan.schedule.tile_m * len(plan.runs) * SLOTS, 4)


class FlatSource(Source):
    """The producer: draws tiles, finds their bounds, loads."""

    @cute.jit
    def all(self, block, tickets, flags, board, sq, sk, sv):
        """Every tile of this block of threads, then the sentinel.

        The next tile is drawn and its bounds are found when the first loads of this one are on
        their way, so that a search never keeps the consumers waiting.
        """
        total = self.at.grid[0] * self.at.grid[2]
        tile, ticket, mask = self._next(Int32(block), Int32(0), total, tickets, flags, block)
        slot = Int32(0)
        place, head, batch, n_max, n_right, n_left, n_min = self._announced(board, slot, tile)
        while tile >= 0:
            bounds = (n_max, n_right, n_left, n_min)
            parts = self.parts(place, head, batch, sequence_at(self.plan, self.at, board, slot))
            sq = self.queries(parts, sq)
            count = count_of(bounds)
            ahead = cutlass.min(count, self.plan.schedule.stages)
            sk, sv = self.range(parts, bounds, 0, ahead, sk, sv)
            tile, ticket, mask = self._next(ticket, mask, total, tickets, flags, block)
            slot = (slot + 1) % SLOTS
            place, head, batch, n_max, n_right, n_left, n_min = self._announced(board, slot, tile)
            sk, sv = self.range(parts, bounds, ahead, count, sk, sv)
        # queries are loaded once more, only to turn the barrier of the sentinel
        at = sequence_at(self.plan, self.at, board, slot)
        self.queries(self.parts(place, head, batch, at), sq)

    @cute.jit
    def _next(self, ticket, mask, total, tickets, flags, block):
        """What `_drawn` returns, of the next tile that has queries."""
        tile, ticket, mask = self._drawn(ticket, mask, total, tickets, flags, block)
        if const_expr(self.plan.packed):
            passed = empty(self.plan, self.at, tile)
            while passed:
                tile, ticket, mask = self._drawn(ticket, mask, total, tickets, flags, block)
                passed = empty(self.plan, self.at, tile)
        return tile, ticket, mask

    @cute.jit
    def _drawn(self, ticket, mask, total, tickets, flags, block):
        """(tile or -1, the ticket after it, flags of the tiles around it).

        The next ticket is asked for before this tile is loaded. With flags: the next flagged tile;
        mask: those of the tiles from ticket - 32 on that are not worked on yet.
        """
        stride = cute.arch.grid_dim()[0]
        if const_expr(flags is not None):
            while (mask == 0) & (ticket < total):
                mask = flagged(flags, ticket, stride, total, self.plan.schedule.groups)
                ticket = ticket + 32 * stride
            bit = 31 - _leading_zeros(mask)
            tile = ticket - (32 - bit) * stride if mask != 0 else Int32(-1)
            mask = mask ^ (Int32(1) << bit) if mask != 0 else mask
        else:
            tile = ticket if ticket < total else Int32(-1)
            following = ticket + stride
            if const_expr(tickets is not None):
                if ticket < total:
                    drawn = Int32(0)
                    if cute.arch.lane_idx() == 0:
                        drawn = cute.arch.atomic_add(tickets.iterator, Int32(1))
                    following = cute.arch.shuffle_sync(drawn, 0) + stride
            ticket = following
        return tile, ticket, mask

    @cute.jit
    def _announced(self, board, slot, tile):
        """(row block, head, batch, bounds) of a tile, written to its slot for the consumers."""
        place, head, batch = place_of(cutlass.max(tile, 0), self.at.grid)
        at, ends = self.at, []
        if const_expr(self.plan.packed):
            batch, place, at = find_sequence(self.plan, at, place)
            ends = [at.q_len, at.q_end, at.kv_len, at.kv_end]
        at = at_of(self.plan, at, place, head, batch)
        for i in range_constexpr(len(self.plan.runs)):
            name, row_of = self.plan.runs[i]
            starts = board.starts[None, i, slot]
            first, last = find(row_of(at), at, starts, self.plan.schedule.tile_m)
            ends += [first, last]
            at = at.with_values(**{name: Run(first, last)})
        bounds = blocks_of(self.plan, at)
        slots, values = board.slots, (tile, place, head, batch, *bounds, *ends)
        if cute.arch.lane_idx() == 0:
            for i in range_constexpr(len(values)):
                slots[i, slot] = values[i]
        cute.arch.sync_warp()
        return place, head, batch, bounds[0], bounds[1], bounds[2], bounds[3]


def _leading_zeros(x):
    """Zero bits before the highest one."""
    return Int32(cute.arch.clz(x))


class FlatConsumer(Consumer):
    """The consumers of the flattened form: tiles of a `Consumer`, or of one with more sums."""

    def tile_of(self, board, slot):
        """(place of the tile, what `step` needs of it, its bounds) from a slot."""
        place, head, batch = (board.slots[i, slot] for i in (1, 2, 3))
        bounds = tuple(board.slots[i, slot] for i in range(4, 10))
        at = sequence_at(self.plan, self.at, board, slot)
        at = at_of(self.plan, at, place, head, batch)
        for i, (name, _) in enumerate(self.plan.runs):
            first, last = board.slots[10 + 2 * i, slot], board.slots[11 + 2 * i, slot]
            run = Run(first, last, board.starts[None, i, slot], at.row0)
            at = at.with_values(**{name: run})
        at, rows = tile_and_rows(self.plan, at, self.places, 2)
        return place, (at, rows, row_limits(self.plan, at, self.places, 2)), bounds

    @cute.jit
    def all(self, board, cq, ck, cv):
        """Every tile the producer announces."""
        kind = pipeline.PipelineUserType.Consumer
        back = pipeline.make_pipeline_state(kind, self.rings["q"].num_stages)
        old = softmax.Rows(2, len(self.rows.totals))
        self.clear()
        self.rings["q"].consumer_wait(cq)
        if board.slots[0, 0] >= 0:
            _, tile, bounds = self.tile_of(board, Int32(0))
            self.lowrank.queries(tile[0])
            n = bounds[0] - 1
            edges = edges_of(self.plan, n, bounds[4], bounds[5])
            ck = self.open(self.queries(cq.index), tile, n, edges, ck)
            self.opened(cv)
        go, slot, stored = board.slots[0, 0] >= 0, Int32(0), Int32(0)
        while go:
            cq, ck, cv, back, slot, stored, go = self.one(
                board, old, cq, ck, cv, back, slot, stored
            )
        self.epilogue.wait()

    @cute.jit
    def one(self, board, old, cq, ck, cv, back, slot, stored):
        """A tile whose first block is done: its other blocks, the next one's first, its results."""
        place, tile, bounds = self.tile_of(board, slot)
        number, stage = board.slots[0, slot], cq.index
        q = self.queries(stage)
        ck, cv = self.remaining(q, tile, bounds, 1, ck, cv)
        if stored == 1:  # the results of the tile before have left shared memory by now
            self.epilogue.wait()
            self.rings["q"].consumer_release(back)
            back.advance()
        ck, cv = self.unmasked(q, tile, bounds, ck, cv)
        cq.advance()
        self.rings["q"].consumer_wait(cq)
        slot = (slot + 1) % SLOTS
        for r in range_constexpr(old.count):
            old.m[r], old.l[r] = self.rows.m[r], self.rows.l[r]
            for kept, total in zip(old.totals, self.rows.totals, strict=True):
                kept[r] = total[r]
        go = board.slots[0, slot] >= 0
        if go:
            ck, cv = self.change(board, slot, cq, ck, cv)
        else:
            cv = self.last_product(cv)
        self.epilogue.finish(tile[0], self.places, old, self.sums, number, stage, place)
        self.clear()
        if go:
            self.opened(cv)
        return cq, ck, cv, back, slot, Int32(1), go

    @cute.jit
    def change(self, board, slot, cq, ck, cv):
        """The first block of the next tile beside the last product of this one."""
        _, tile, bounds = self.tile_of(board, slot)
        self.lowrank.queries(tile[0])
        n = bounds[0] - 1
        edges = edges_of(self.plan, n, bounds[4], bounds[5])
        q = self.queries(cq.index)
        return self.step(q, tile, n, edges, ck, cv, True, True)

"""Several sums of one softmax: weights times numbers of a pair, and those times values.

A step where payloads have products of their own has two halves of two products: scores beside the
late sums of the block before, then the products of payloads beside the early sums of this block.
Exponentials run beside the second product of the first half, payloads beside that of the second. So
64 scores, as many products and two sums of 128 columns fit a row's registers, which a step with all
operands at once would not.
"""

from __future__ import annotations

from typing import Any

from cutlass import Float32, const_expr, cute
from cutlass.cute.nvgpu import warpgroup

from attngen.cutelib import softmax
from attngen.cutelib.consumer import Consumer
from attngen.cutelib.flat import FlatConsumer
from attngen.cutelib.fragments import as_operand, column_of, issue, pack, rows_columns
from attngen.cutelib.ops import Position, select
from attngen.cutelib.plan import Plan
from attngen.cutelib.tile import WARPGROUP, At, Places


class SeveralConsumer(Consumer):
    """Consumers of a plan with payloads.

    late: sums that are added to beside the scores of the next block, early: those beside the
    products of payloads of their own block, if there are such products.
    """

    def __init__(self, kernel, atoms, maps, memory, rings, at, flags) -> None:
        super().__init__(kernel, atoms, maps, memory, rings, at, flags)
        indices = list(range(len(self.sums)))
        self.late = indices
        if self.plan.products:
            mine = self.qk.get_slice(self.group * WARPGROUP)
            self.others = mine.make_fragment_A(mine.partition_A(memory["others"]))
            self.late = [i for i in indices if self.plan.sums[i]] or indices
        self.early = [i for i in indices if i not in self.late]

    def queries(self, stage) -> list[Any]:
        """Rows of queries of a tile, as operands: those of the score, and of other products."""
        count = len(self.plan.products)
        others = [self.others[None, None, None, stage * count + i] for i in range(count)]
        return [*super().queries(stage), *others]

    # ---- products -------------------------------------------------------------------------------
    def add(self, cv) -> int:
        """Issue P V of the late sums; their number."""
        return self.add_some(self.late, cv)

    @cute.jit
    def opened(self, cv):
        """The first block of a tile joins the early sums, when those of the tile before left."""
        if const_expr(len(self.early) > 0):
            self.rings["v"].consumer_wait(cv)
            self.add_some(self.early, cv)
            warpgroup.wait_group(0)

    def other_products(self, q, ck) -> list[Any]:
        """Issue the products that only payloads read."""
        made = []
        for rows in q[1:]:
            u = cute.make_rmem_tensor(self.score_shape, Float32)
            issue(self.qk, u, [(rows, self.k[None, None, None, ck.index])], False)
            made.append(u)
        return made

    # ---- one block ------------------------------------------------------------------------------
    @cute.jit
    def open(self, q, tile, n, edges, ck):
        """The first block of a tile: no sums yet."""
        s = self.first_product(q, ck)
        return self.operands(q, s, tile, n, edges, ck, True)

    @cute.jit
    def alone(self, q, s, tile, n, edges, ck):
        """The operands of a block after its products s, nothing else in flight."""
        return self.operands(q, s, tile, n, edges, ck, False)

    @cute.jit
    def operands(self, q, s, tile, n, edges, ck, first):
        """The operands of all sums of a block, one product after the other."""
        raw = self.kept(s)
        ck = self.softmax(s, tile, n, edges, first, True, ck)
        self.pack_some(self.early, [s])
        others = self.other_products(q, ck)
        if const_expr(len(q) > 1):
            warpgroup.wait_group(0)
            self.rings["k"].consumer_release(ck)
            ck.advance()
        weighted = self.weigh(s, raw, others, tile, n, first, True)
        self.pack_some(self.late, weighted)
        return ck

    @cute.jit
    def step(self, q, tile, n, edges, ck, cv, masked, first=False):
        """One more block; first: of the next tile, whose early sums have to wait."""
        s = self.both_products(q, ck, cv)
        raw = self.kept(s)
        ck = self.softmax(s, tile, n, edges, first, masked, ck)
        weighted = [s]
        if const_expr(len(q) == 1):
            weighted = self.weigh(s, raw, [], tile, n, first, masked)
        self.pack_some(self.early, [s])
        if const_expr(self.schedule.pin):
            softmax.pin(self.rows.l)
        warpgroup.wait_group(0)
        self.rings["v"].consumer_release(cv)
        cv.advance()
        if const_expr(not first):
            softmax.rescale(self.reference, self.sums, self.rows)
        if const_expr(len(q) > 1):
            weighted, ck = self.payload_step(q, s, raw, tile, n, ck, cv, first, masked)
        self.pack_some(self.late, weighted)
        return ck, cv

    @cute.jit
    def payload_step(self, q, s, raw, tile, n, ck, cv, first, masked):
        """The products of payloads, and the early sums of the same block, in flight together."""
        others = self.other_products(q, ck)
        count = 0
        if const_expr(not first and len(self.early) > 0):
            self.rings["v"].consumer_wait(cv)
            count = self.add_some(self.early, cv)
        warpgroup.wait_group(count)
        self.rings["k"].consumer_release(ck)
        ck.advance()
        weighted = self.weigh(s, raw, others, tile, n, first, masked)
        if const_expr(self.schedule.pin and len(self.rows.totals) > 0):
            softmax.pin(self.rows.totals[0])
        warpgroup.wait_group(0)
        return weighted, ck

    def kept(self, s) -> Any:
        """The products of the score, for payloads that read them."""
        if not self.plan.reads_score:
            return None
        raw = cute.make_rmem_tensor(self.score_shape, Float32)
        raw.store(s.load())
        return raw

    def weigh(self, s, raw, others, tile, n, first, masked) -> list[Any]:
        """The weights, then weights times payloads; they join the totals."""
        given = (tile[0], tile[1], self.places, n * self.schedule.tile_n)
        products = weighted(self.plan, s, raw, others, given, masked)
        for total, i in zip(self.rows.totals, self.plan.totals, strict=True):
            add_rows(self.reference, total, products[i], self.rows, first)
        return products

    def pack_some(self, which: list[int], weighted: list[Any]) -> None:
        """Operands of these sums, from the weights and weights times payloads."""
        for i in which:
            source = as_operand(weighted[self.plan.sums[i]])
            pack(self.weights[i], source, self.dtype)


class FlatSeveralConsumer(FlatConsumer, SeveralConsumer):
    """The same where tiles run into each other."""


def weighted(
    plan: Plan,
    p,
    raw,
    others: list[Any],
    given: tuple[At, list[At], Places, Any],
    masked: bool,
) -> list[Any]:
    """The weights, then weights times each payload; unrolled.

    given: (`at`, `at` of each row, places, the block's first key). A pair that the mask drops has
    weight 0, but its payload may be anything.
    """
    at, rows, places, begin = given
    weights, products = rows_columns(p), [rows_columns(x) for x in others]
    scores = None if raw is None else rows_columns(raw)
    base = Position(begin + places.lane)
    out: list[Any] = []
    for r in range(cute.size(weights, mode=[0])):
        query = places.query(at, r)
        for c in range(cute.size(weights, mode=[1])):
            s = None if scores is None else scores[r, c]
            key = base.moved(column_of(c))
            made = plan.payloads(rows[r], s, *[u[r, c] for u in products], query, key)
            if not out:
                out = [cute.make_rmem_tensor(p.shape, Float32) for _ in made]
            for target, number in zip(out, made, strict=True):
                weight = weights[r, c]
                value = weight * number
                value = select(weight == 0.0, 0.0, value) if masked else value
                rows_columns(target)[r, c] = value
    return [p, *out]


def add_rows(reference: str, total, x, rows: softmax.Rows, first: bool) -> None:
    """Each row of a total: what it was, to the new reference, and the sum of a row of x."""
    values = rows_columns(x)
    for r in range(rows.count):
        start = Float32(0.0) if first else total[r]
        if not first and not softmax.keeps_reference(reference):
            start = start * rows.rescale[r]
        total[r] = values[r, None].load().reduce(cute.ReductionOp.ADD, start, 0)

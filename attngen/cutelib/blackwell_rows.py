"""The warpgroups of sm_100a's kernel that work on rows: softmax, correction, results.

A thread owns one row of 128 and needs no shuffles. Sums are rescaled only when the maximum grew by
more than 2**8 (FlashAttention-4's conditional rescale), by the warpgroup that corrects.
"""

from __future__ import annotations

import cutlass
from cutlass import BFloat16, Float32, Int32, const_expr, cute
from cutlass.cute.nvgpu import tcgen05

from attngen.cutelib.blackwell_feed import block_number, masked_of, steps_of
from attngen.cutelib.ops import Position, fma, select
from attngen.cutelib.plan import Plan
from attngen.cutelib.scores import row_limits, tile_and_rows
from attngen.cutelib.tile import At
from attngen.cutelib.views import batch_of, head_of

ROWS = 128
LAZY = 8.0  # log2: how far scores may rise above the maximum before sums are rescaled
WIDE = 32  # columns of tensor memory that one copy moves
LAST = 1  # second plane of the numbers in shared memory


class Place:
    """The row of a thread."""

    def __init__(self, row) -> None:
        self.row = row

    def query(self, at: At, r: int) -> Position:
        """Query of the row; r: rows of a thread, always 0."""
        return Position(at.row0 + self.row)


def columns(place, layout, thread):
    """(load, store, source, target, shape) of a thread's part of columns of tensor memory."""
    view = cute.make_tensor(place, layout)
    count = cute.size(layout, mode=[1])
    load = tcgen05.copy.Ld32x32bOp(tcgen05.copy.Repetition(count))
    store = tcgen05.copy.St32x32bOp(tcgen05.copy.Repetition(count))
    load = tcgen05.make_tmem_copy(cute.make_copy_atom(load, Float32), view).get_slice(thread)
    store = tcgen05.make_tmem_copy(cute.make_copy_atom(store, Float32), view).get_slice(thread)
    shape = load.partition_D(cute.make_identity_tensor((ROWS, count))).shape
    return load, store, load.partition_S(view), store.partition_D(view), shape


class Softmax:
    """One softmax warpgroup. index: of its tile."""

    def __init__(self, plan: Plan, index: int, places, numbers, bars, dtype) -> None:
        self.plan, self.index, self.numbers, self.dtype = plan, index, numbers, dtype
        self.bars = {name: bar + index for name, bar in bars.items() if name[0] in "spc"}
        self.thread = cute.arch.thread_idx()[0] % ROWS
        self.parts = plan.schedule.tile_n // WIDE
        scores = places["s"][index]
        layout = cute.composition(scores[(None, None), 0, 0].layout, cute.make_layout((ROWS, WIDE)))
        half = cute.composition(layout, cute.make_layout((ROWS, WIDE // 2)))
        self.sources = [
            columns(scores.iterator + part * WIDE, layout, self.thread)
            for part in range(self.parts)
        ]
        self.targets = [
            columns(places["words"][index] + part * WIDE // 2, half, self.thread)
            for part in range(self.parts)
        ]

    @cute.jit
    def run(self, at, bounds):
        """All blocks of the tile: scores to weights, and how sums are to be corrected."""
        plan, fixed = self.plan, self.plan.schedule.reference == "fixed"
        place = Place(self.index * ROWS + self.thread)
        at, rows = tile_and_rows(plan, at, place, 1)
        limits = row_limits(plan, rows[0], place, 1)
        m, l = Float32(plan.fixed) if fixed else -Float32.inf, Float32(0.0)
        steps, numbers, thread, index = steps_of(bounds), self.numbers, self.thread, self.index
        slope = None if const_expr(plan.slope is None) else Float32(plan.slope(at))
        for j in cutlass.range(steps, unroll=1):
            begin = block_number(j, bounds) * plan.schedule.tile_n
            masked = j < masked_of(bounds)
            shift = Float32(0.0) if const_expr(slope is None) else slope * (begin - at.row0)
            far, constant = self._far(at, begin)
            if const_expr(plan.near is not None):
                shift = shift + constant
            cute.arch.mbarrier_wait(self.bars["s_full"], j & 1)
            if const_expr(fixed):
                for part in cutlass.range_constexpr(self.parts):
                    x = self._scores(part, at, rows[0], place, limits, begin, masked, slope, far)
                    l = self._weights(part, x, l, shift - m)
            else:
                x, top = self._all(at, rows[0], place, limits, begin, masked, slope, far)
                m, rescale = self._maximum(top, m, shift)
                cute.arch.mbarrier_wait(self.bars["c_empty"], (j & 1) ^ 1)
                numbers[thread, index, 0] = rescale
                cute.arch.mbarrier_arrive(self.bars["c_full"])
                safe = Float32(0.0) if m == -Float32.inf else m  # no key so far
                l = l * rescale
                for part in cutlass.range_constexpr(self.parts):
                    l = self._weights(part, x[part], l, shift - safe)
            cute.arch.fence_view_async_tmem_store()
            cute.arch.mbarrier_arrive(self.bars["p_full"])
        if const_expr(not fixed):
            cute.arch.mbarrier_wait(self.bars["c_empty"], (steps & 1) ^ 1)
        numbers[thread, index, 0] = l
        numbers[thread, index, LAST] = m
        cute.arch.mbarrier_arrive(self.bars["c_full"])

    def _scores(self, part: int, at, row, place, limits, begin, masked, slope, far):
        """WIDE products of the row become scores over the plan's scale, -inf where masked."""
        plan = self.plan
        load, _, source, _, shape = self.sources[part]
        x = cute.make_rmem_tensor(shape, Float32)
        cute.copy(load, source, x)
        cute.arch.fence_view_async_tmem_load()
        if plan.near is not None:
            self._unless(far, x, part, at, row, place, begin)
        elif plan.score is not None:
            self._spec(x, part, at, row, place, begin)
        if slope is not None:
            over = slope * (1.0 / plan.scale)
            for c in range(WIDE):
                x[c] = fma(over, float(part * WIDE + c), x[c])
        self._mask(x, row, place, limits, begin + part * WIDE, masked)
        return x

    def _spec(self, x, part: int, at, row, place, begin) -> None:
        """The score of the spec, of each column."""
        plan, query, first = self.plan, place.query(row, 0), Position(begin)
        for c in range(WIDE):
            key = first.moved(part * WIDE + c)
            column = plan.column(at, key) if plan.column is not None else None
            diagonal = plan.diagonal(at, query, key) if plan.diagonal is not None else None
            x[c] = plan.score(row, x[c], column, diagonal, query, key)

    @cute.jit
    def _unless(self, far, x, part: cutlass.Constexpr, at, row, place, begin):
        """The score of the spec in blocks near the diagonal."""
        if not far:
            self._spec(x, part, at, row, place, begin)

    def _far(self, at, begin):
        """(whether a block's diagonal term is one number, that number in log2 units)."""
        plan = self.plan
        if plan.near is None:
            return False, None
        query, key = Position(at.row0 + self.index * ROWS), Position(begin)
        least = plan.distance(at, query + (ROWS - 1), key).value
        most = plan.distance(at, query, key + (plan.schedule.tile_n - 1)).value
        far = (most <= plan.near[0]) | (least >= plan.near[1])
        term = plan.scale * plan.diagonal(at, query, key)
        return far, select(far, term, Float32(0.0))

    @cute.jit
    def _mask(self, x, row, place, limits, begin, masked):
        """-inf where the mask drops a pair, in blocks that need one."""
        if masked:
            self._drop(x, row, place, limits, begin)

    @cute.jit
    def _drop(self, x, row, place, limits, begin):
        """-inf where the mask drops a pair; a limit that the columns do not reach is skipped."""
        plan = self.plan
        high = limits[1][0] - begin
        if high < WIDE:
            for c in cutlass.range_constexpr(WIDE):
                x[c] = x[c] if c < high else -Float32.inf
        if const_expr(limits[0] is not None):
            low = limits[0][0] - begin
            if low > 0:
                for c in cutlass.range_constexpr(WIDE):
                    x[c] = x[c] if c >= low else -Float32.inf
        if const_expr(plan.keep is not None):
            query = place.query(row, 0)
            for c in cutlass.range_constexpr(WIDE):
                kept = plan.keep(row, query, Position(begin, c))
                x[c] = x[c] if kept else -Float32.inf

    def _all(self, *given):
        """(scores of all columns by parts, the greatest of them)."""
        parts = [self._scores(part, *given) for part in range(self.parts)]
        tops = [x[0] for x in parts]  # one chain for each part: they run side by side
        for c in range(1, WIDE):
            tops = [cute.arch.fmax(top, x[c]) for top, x in zip(tops, parts, strict=True)]
        top = tops[0]
        for other in tops[1:]:
            top = cute.arch.fmax(top, other)
        return parts, top

    @cute.jit
    def _maximum(self, top, m, shift):
        """(reference, factor for the sums so far): the old reference while it is near enough."""
        top = cute.arch.fmax(top * self.plan.scale + shift, m)
        safe = Float32(0.0) if top == -Float32.inf else top
        grown = m - safe
        rescale = cute.math.exp2(grown, fastmath=True)
        near = grown >= (-LAZY if self.plan.schedule.reference == "lazy" else 0.0)
        top = m if near else top
        rescale = Float32(1.0) if near else rescale
        return top, rescale

    def _weights(self, part: int, x, l, offset):
        """WIDE weights to tensor memory; the new sum."""
        scale = Float32(self.plan.scale)
        name = "bf16x2" if self.dtype is BFloat16 else "f16x2"
        _, store, _, target, shape = self.targets[part]
        packed = cute.make_rmem_tensor(shape, Float32)
        words = cute.make_tensor(
            cute.recast_ptr(packed.iterator, dtype=Int32), cute.make_layout(WIDE // 2)
        )
        sums = (l, Float32(0.0))
        for c in range(0, WIDE, 2):
            pair = (x[c], x[c + 1])
            pair = cute.arch.fma_packed_f32x2(pair, (scale, scale), (offset, offset))
            pair = tuple(cute.math.exp2(y, fastmath=True) for y in pair)
            sums = cute.arch.add_packed_f32x2(sums, pair)
            words[c // 2] = cute.arch.inline_ptx(
                f"cvt.rn.{name}.f32 {{$w0}}, {{$r0}}, {{$r1}};",
                write_only_types=[Int32],
                read_only_args=[pair[1], pair[0]],
            )
        cute.copy(store, packed, target)
        return sums[0] + sums[1]


class Corrector:
    """The warpgroup that rescales sums in tensor memory, finishes rows and stores them."""

    def __init__(self, plan: Plan, places, numbers, bars, dtype) -> None:
        self.plan, self.sums, self.numbers = plan, places["o"], numbers
        self.bars, self.dtype = bars, dtype
        self.thread = cute.arch.thread_idx()[0] % ROWS

    def _columns(self, tile: int, part: int):
        """WIDE columns of a tile's sums."""
        whole = self.sums[tile]
        layout = cute.composition(whole[(None, None), 0, 0].layout, cute.make_layout((ROWS, WIDE)))
        return columns(whole.iterator + part * WIDE, layout, self.thread)

    @cute.jit
    def run(self, at, block, bounds):
        """Correct after each block, then finish both tiles."""
        bars, steps = self.bars, steps_of(bounds)
        fixed = self.plan.schedule.reference == "fixed"
        if const_expr(not fixed):
            for j in cutlass.range(steps, unroll=1):
                for i in cutlass.range_constexpr(2):
                    cute.arch.mbarrier_wait(bars["c_full"] + i, j & 1)
                    rescale = self.numbers[self.thread, i, 0]
                    cute.arch.mbarrier_arrive(bars["c_empty"] + i)
                    if j > 0:
                        cute.arch.mbarrier_wait(bars["o_full"] + i, (j - 1) & 1)
                        if cute.arch.vote_ballot_sync(rescale < 1.0) != 0:
                            self._rescale(i, rescale)
                    cute.arch.mbarrier_arrive(bars["p_full"] + i)
        for i in cutlass.range_constexpr(2):
            cute.arch.mbarrier_wait(
                bars["c_full"] + i, Int32(0) if const_expr(fixed) else steps & 1
            )
            cute.arch.mbarrier_wait(bars["o_full"] + i, (steps - 1) & 1)
            self._finish(i, at)

    @cute.jit
    def _rescale(self, i: cutlass.Constexpr, factor):
        for part in cutlass.range_constexpr(self.plan.value.width // WIDE):
            load, store, source, target, shape = self._columns(i, part)
            r = cute.make_rmem_tensor(shape, Float32)
            cute.copy(load, source, r)
            cute.arch.fence_view_async_tmem_load()
            for c in cutlass.range_constexpr(0, WIDE, 2):
                r[c], r[c + 1] = cute.arch.mul_packed_f32x2((r[c], r[c + 1]), (factor, factor))
            cute.copy(store, r, target)
        cute.arch.fence_view_async_tmem_store()

    @cute.jit
    def _finish(self, i: cutlass.Constexpr, at):
        """The results of one tile: a thread stores its row."""
        plan = self.plan
        place = Place(i * ROWS + self.thread)
        at = tile_and_rows(plan, at, place, 1)[1][0]
        query = place.query(at, 0)
        l, m = self.numbers[self.thread, i, 0], self.numbers[self.thread, i, LAST]
        m = Float32(0.0) if m == -Float32.inf else m
        values, stored = plan.finish(at, query, m, l)
        if query.value < at.q_len:
            _store_numbers(plan, at, query.value, stored)
        for name, function in plan.rows:
            for part in cutlass.range_constexpr(plan.value.width // WIDE):
                out = self._part(i, part, at, query, values, function)
                if query.value < at.q_len:
                    _store_part(at, name, query.value, part, out)

    def _part(self, i: int, part: int, at, query, values, function):
        """WIDE columns of a result."""
        load, _, source, _, shape = self._columns(i, part)
        r = cute.make_rmem_tensor(shape, Float32)
        cute.copy(load, source, r)
        cute.arch.fence_view_async_tmem_load()
        reads = [_row_of(x, at, query) for x in self.plan.row_streams]
        out = cute.make_rmem_tensor(WIDE, self.dtype)
        for c in range(WIDE):
            given = [x[part * WIDE + c].to(Float32) for x in reads]
            out[c] = function(at, values, r[c], *given).to(self.dtype)
        return out


def _row_of(stream, at: At, query):
    """Row of a stream of the queries, as a vector over its columns."""
    view = getattr(at, stream.name)
    return view[at.row(query), None, head_of(stream, view, at.h, at.heads), batch_of(stream, at.b)]


def _store_numbers(plan: Plan, at: At, row, stored) -> None:
    index = {"batch": at.b, "head": at.h, "position": row}
    for name, number in zip(plan.numbers, stored, strict=True):
        getattr(at, name)[tuple(index[x] for x in plan.number_roles)] = number


def _store_part(at: At, name: str, row, part: int, out) -> None:
    whole = getattr(at, name)[row, None, at.h, at.b]
    cute.autovec_copy(out, cute.local_tile(whole, (WIDE,), (part,)))

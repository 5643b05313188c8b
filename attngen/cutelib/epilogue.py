"""After the last key of a tile: row algebra, results to memory, flags for rows to be redone."""

from __future__ import annotations

from cutlass import Boolean, Float32, Int32, const_expr, cute, range_constexpr
from cutlass.cute.nvgpu import cpasync

from attngen.cutelib.fragments import rows_columns, to_shared
from attngen.cutelib.ops import fma
from attngen.cutelib.plan import Plan
from attngen.cutelib.tile import WARPGROUP, At, Places
from attngen.cutelib.views import batch_of, head_of

STORED = 4  # named barriers STORED + warpgroup
LEAST = 0.5  # a row with a key in its first block has a sum of 1 or more
MOST = {"bf16": 2.0**100, "f16": 2.0**15}  # a weight below it is a finite number of the dtype


class Epilogue:
    """Finishes rows and stores them, one warpgroup by itself."""

    def __init__(self, kernel, atoms, maps, memory, group, thread, flags) -> None:
        self.plan: Plan = kernel.plan
        self.kernel, self.atoms, self.maps, self.flags = kernel, atoms, maps, flags
        self.memory, self.group, self.thread = memory["o"], group, thread
        self.storing = cute.arch.make_warp_uniform(thread // 32) % 4 == 0

    @cute.jit
    def finish(self, at: At, places: Places, rows, sums, tile, stage, block):
        """All results of the tile's rows of this warpgroup; sums: those with a feature axis."""
        plan = self.plan
        totals = [
            [cute.arch.warp_reduction_sum(x[r], threads_in_group=4) for x in (rows.l, *rows.totals)]
            for r in range(rows.count)
        ]
        if const_expr(plan.schedule.reference == "first"):
            self._flag(rows, sums, totals, tile, at.grid[0] * at.grid[2])
        values = []
        for r in range_constexpr(rows.count):
            query = places.query(at, r)
            numbers, stored = plan.finish(at, query, self._reference(rows, r), *totals[r])
            values.append(numbers)
            row = query.value
            if places.lane == 0 and row < at.q_len:
                for name, number in zip(plan.numbers, stored, strict=True):
                    _place(plan, getattr(at, name), at, row, number)
        for i in range_constexpr(len(plan.rows)):
            if const_expr(i > 0):
                self.wait()
                cute.arch.barrier(barrier_id=STORED + self.group, number_of_threads=WARPGROUP)
            self._rows(at, places, sums, values, stage, block, *plan.rows[i])

    def _reference(self, rows, r: int):
        """What the sums are measured from; 0 for a row without keys."""
        if self.plan.schedule.reference == "fixed":
            return Float32(self.plan.fixed)
        return _finite(rows.m[r])

    @cute.jit
    def _flag(self, rows, sums, totals, tile, total):
        """Set the warp's flag if a row left the range in which the first reference is exact."""
        bad = Boolean(False)
        for r in range_constexpr(rows.count):
            zero = Float32(0.0)
            for acc in sums:
                o = rows_columns(acc)
                for c in range_constexpr(cute.size(o, mode=[1])):
                    zero = fma(o[r, c], 0.0, zero)  # NaN if a sum is not finite
            for x in totals[r][1:]:
                zero = fma(x, 0.0, zero)
            weight = totals[r][0]
            inside = (weight >= LEAST) & (weight < MOST[self.plan.half]) & (zero == 0.0)
            bad = bad | (not inside)
        flagged = Int32(1) if cute.arch.vote_any_sync(bad) else Int32(0)
        flags = self.flags
        if cute.arch.lane_idx() == 0:
            flags[self.thread // 32 * total + tile] = flagged

    @cute.jit
    def _rows(self, at, places, sums, values, stage, block, name, function):
        """One result with a feature axis: registers, shared memory, TMA store."""
        plan, kernel = self.plan, self.kernel
        width = plan.value.width
        own = [rows_columns(acc) for acc in sums]
        out = cute.make_rmem_tensor(sums[0].shape, Float32)
        target = rows_columns(out)
        pairs = cute.size(target, mode=[1]) // 2
        reads = [self._pairs(at, places, x, pairs) for x in plan.row_streams]
        for r in range_constexpr(2):
            for c in range_constexpr(2 * pairs):
                given = [x[c % 2, c // 2, r].to(Float32) for x in reads]
                target[r, c] = function(at, values[r], *[o[r, c] for o in own], *given)
        place = self.memory[None, None, self.group, stage]
        to_shared(out, place, kernel.dtype, width, self.thread)
        cute.arch.fence_view_async_shared()
        cute.arch.barrier(barrier_id=STORED + self.group, number_of_threads=WARPGROUP)
        if self.storing:
            batch = batch_of(plan.query, at.b, at.q_end if plan.packed else None)
            whole = self.maps[name][None, None, at.h, batch]
            if const_expr(plan.packed):
                whole = cute.domain_offset((at.q_shift, 0), whole)
            tile = cute.local_tile(whole, (64, width), (block * kernel.groups + self.group, 0))
            source, goal = cpasync.tma_partition(
                self.atoms[name],
                0,
                cute.make_layout(1),
                cute.group_modes(place, 0, 2),
                cute.group_modes(tile, 0, 2),
            )
            cute.copy(self.atoms[name], source, goal)
            cute.arch.cp_async_bulk_commit_group()

    def _pairs(self, at: At, places: Places, stream, pairs: int):
        """Elements of a stream of the queries at the places of the sums, two columns a load."""
        words = cute.make_rmem_tensor((pairs, 2), Int32)
        view = getattr(at, stream.name)
        head, packed = head_of(stream, view, at.h, at.heads), bool(stream.packed)
        batch = batch_of(stream, at.b, at.q_end if packed else None)
        for r in range(2):
            place = at.row(places.query(at, r))
            place = place + at.q_shift if packed else place
            row = cute.recast_tensor(view[place, None, head, batch], Int32)
            for i in range(pairs):
                words[i, r] = row[places.lane // 2 + 4 * i]
        elements = cute.recast_ptr(words.iterator, dtype=self.kernel.dtype)
        return cute.make_tensor(elements, cute.make_layout((2, pairs, 2)))

    @cute.jit
    def wait(self):
        """Until the stores have read shared memory."""
        if self.storing:
            cute.arch.cp_async_bulk_wait_group(0, read=True)


@cute.jit
def _finite(m):
    return Float32(0.0) if m == -Float32.inf else m


def _place(plan: Plan, tensor, at: At, row, number) -> None:
    """Store a number of a row."""
    row = row + at.q_end - at.q_len if plan.packed else row
    index = {"batch": at.b, "head": at.h, "position": row}
    tensor[tuple(index[role] for role in plan.number_roles)] = number

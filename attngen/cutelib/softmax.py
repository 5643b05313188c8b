"""Scores to weights, with what the scores are measured from.

"running" and "lazy" follow FlashAttention-2 and the conditional rescale of FlashAttention-4;
"first" and "fixed" drop the maximum from the loop: softmax does not change when all scores of a row
move.
"""

from __future__ import annotations

from cutlass import Float32, const_expr, cute, max, range_constexpr

from attngen.cutelib.fragments import rows_columns
from attngen.cutelib.plan import Plan

LAZY = 8.0  # log2: how far scores may rise above the maximum before sums are rescaled


class Rows:
    """State of a thread's rows: m, the reference, l, the sum (log2 units), and the rescale.

    totals: further sums of numbers.
    """

    def __init__(self, rows: int, totals: int = 0) -> None:
        self.count = rows
        self.totals = [cute.make_rmem_tensor(rows, Float32) for _ in range(totals)]
        self.m = cute.make_rmem_tensor(rows, Float32)
        self.l = cute.make_rmem_tensor(rows, Float32)
        self.rescale = cute.make_rmem_tensor(rows, Float32)


@cute.jit
def weights(plan: Plan, reference, acc, rows: Rows, shift, first, masked) -> None:
    """Scores, in place, become weights 2**(score * scale + shift - m); m and l follow.

    shift: a number of the block; first: the first block of a row; masked: some scores are -inf.
    """
    s = rows_columns(acc)
    for r in range_constexpr(rows.count):
        row = s[r, None].load()
        if const_expr(reference == "fixed"):
            offset = shift - plan.fixed
            moved = row * plan.scale + offset if const_expr(_moves(plan)) else row * plan.scale
        elif const_expr(reference == "first" and not first):
            moved = row * plan.scale - (rows.m[r] - shift)
        else:
            low = row.reduce(cute.ReductionOp.MAX, -Float32.inf, 0) * plan.scale + shift
            top = cute.arch.warp_reduction_max(low, threads_in_group=4)
            if const_expr(not first):
                top = max(rows.m[r], top)
                if const_expr(reference == "lazy"):
                    top = rows.m[r] if top - rows.m[r] <= LAZY else top
            safe = Float32(0.0) if top == -Float32.inf else top  # no key so far
            if const_expr(not first):
                rows.rescale[r] = cute.math.exp2(rows.m[r] - safe, fastmath=True)
            rows.m[r] = safe if const_expr(reference == "first") else top
            moved = row * plan.scale - (safe - shift)
        p = cute.math.exp2(moved, fastmath=True)
        s[r, None].store(p)
        if const_expr(first):
            rows.l[r] = p.reduce(cute.ReductionOp.ADD, Float32(0.0), 0)
        elif const_expr(keeps_reference(reference)):
            rows.l[r] = p.reduce(cute.ReductionOp.ADD, rows.l[r], 0)
        else:
            rows.l[r] = p.reduce(cute.ReductionOp.ADD, rows.l[r] * rows.rescale[r], 0)


def _moves(plan: Plan) -> bool:
    return plan.fixed != 0.0 or plan.slope is not None or plan.near is not None


def keeps_reference(reference: str) -> bool:
    """Whether sums are never rescaled."""
    return reference in ("first", "fixed")


@cute.jit
def rescale(reference, sums, rows: Rows) -> None:
    """Sums of earlier blocks to the new reference."""
    if const_expr(reference == "running"):
        for acc in sums:
            scale_rows(acc, rows.rescale)
    elif const_expr(reference == "lazy"):
        if cute.arch.vote_any_sync((rows.rescale[0] != 1.0) | (rows.rescale[1] != 1.0)):
            for acc in sums:
                scale_rows(acc, rows.rescale)


def scale_rows(acc, factors) -> None:
    """Each row times its factor."""
    o = rows_columns(acc)
    for r in range(cute.size(o, mode=[0])):
        o[r, None].store(o[r, None].load() * factors[r])


def pin(sums) -> None:
    """Keep the exponentials, and the sums of a thread's rows, above the next wait.

    ptxas sinks them below `wgmma.wait_group`, which it takes for cheap, and softmax then runs after
    the product instead of beside it. An effect that is never taken and depends on the sums cannot
    be moved past the wait, nor can what it depends on.
    """
    cute.arch.inline_ptx(
        "{ .reg .pred p; setp.lt.f32 p, {$r0}, 0f00000000; @p bar.arrive 15, 128; }",
        read_only_args=[sums[0] + sums[1]],
    )

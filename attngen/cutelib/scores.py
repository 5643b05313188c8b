"""The spec's score and mask on a thread's registers.

A score is f(product) + column(k) + diagonal(k - q) in log2 units over the plan's scale, terms of
the row left out. A value that two scores of a thread share is computed once: a column serves two
rows, and register c + 2 of row r + 1 lies on the diagonal of register c of row r.
"""

from __future__ import annotations

from typing import Any

from cutlass import Float32, Int32, const_expr, cute, min

from attngen.cutelib.fragments import column_of, rows_columns
from attngen.cutelib.ops import Position, integer, select
from attngen.cutelib.plan import Plan
from attngen.cutelib.tile import At, Places

RIGHT, LEFT = 1, 2  # edges of the mask that a block crosses


def tile_and_rows(plan: Plan, at: At, places: Places, rows: int) -> tuple[At, list[At]]:
    """`at` with what the spec computes once per tile, and once for each row of the thread."""
    if plan.per_tile is not None:
        at = at.with_values(**plan.per_tile(at))
    if plan.per_row is None:
        return at, [at] * rows
    return at, [at.with_values(**plan.per_row(at, places.query(at, r))) for r in range(rows)]


def apply_score(
    plan: Plan, acc, at: At, rows: list[At], places: Places, first, riders=None, stage=None
) -> None:
    """Products of one block, in place, become scores; plain Python: unrolled.

    at, rows: of the tile, and of each row of the thread; stage: where riders of the block lie.
    """
    if plan.score is None:
        return
    s = rows_columns(acc)
    base = Position(first + places.lane)
    queries = [places.query(at, r) for r in range(cute.size(s, mode=[0]))]
    pairs: dict[str, Any] = {}
    if plan.riders:
        pairs, keys = riders.pairs(stage, acc.shape), riders.keys(stage)
        at, rows = at.with_values(**keys), [row.with_values(**keys) for row in rows]
    columns: dict[int, Any] = {}
    diagonals: dict[int, Any] = {}
    for c in range(cute.size(s, mode=[1])):
        offset = column_of(c)
        key = base.moved(offset)
        if plan.column is not None:
            columns[offset] = plan.column(at, key)
        for r, query in enumerate(queries):
            step = offset - query.offset
            if plan.diagonal is not None and step not in diagonals:
                diagonals[step] = plan.diagonal(at, query, key)
            here = rows[r]
            if pairs:
                here = here.with_values(**{n: x[r, c].to(Float32) for n, x in pairs.items()})
            s[r, c] = plan.score(
                here, s[r, c], columns.get(offset), diagonals.get(step), query, key
            )


@cute.jit
def far_shift(plan: Plan, acc, at: At, rows, places: Places, first):
    """Scores of one block; what all of them still have to be given, in log2 units.

    So far from the diagonal that its term is one number, the products stay as they are, and the
    number is returned.
    """
    s = plan.schedule
    shift = Float32(0.0)
    query, key = Position(at.row0), Position(first)
    least = plan.distance(at, query + (s.tile_m - 1), key).value
    most = plan.distance(at, query, key + (s.tile_n - 1)).value
    if (most > plan.near[0]) & (least < plan.near[1]):
        apply_score(plan, acc, at, rows, places, first)
    else:
        shift = plan.scale * plan.diagonal(at, query, key)
    return shift


def row_limits(plan: Plan, at: At, places: Places, rows: int):
    """(first key, key after the last) of each row of the thread; None for no first key."""
    first, end = [], []
    for r in range(rows):
        query = places.query(at, r)
        if plan.first_key is not None:
            first.append(Int32(integer(plan.first_key(at, query))))
        last = at.kv_len if plan.end_key is None else Int32(integer(plan.end_key(at, query)))
        end.append(min(at.kv_len, last))
    return first or None, end


@cute.jit
def apply_mask(plan: Plan, acc, rows, places: Places, limits, first, edges) -> None:
    """-inf where the mask drops a pair: one compare and one select per score and edge.

    edges: which limits the block crosses; the others are not looked at.
    """
    s = rows_columns(acc)
    column = first + places.lane
    if const_expr(limits[0] is None):
        _below(s, limits[1], column)
    else:
        if edges % 2 == 1:
            _below(s, limits[1], column)
        if edges >= LEFT:
            _from(s, limits[0], column)
    if const_expr(plan.keep is not None):
        _kept(plan, s, rows, places, first)


# ---- plain Python: a conditional expression of the DSL is a branch until a late pass, `select` not


def _below(s, ends, column) -> None:
    high = [end - column for end in ends]
    _where(s, lambda r, c: column_of(c) < high[r])


def _from(s, starts, column) -> None:
    low = [start - column for start in starts]
    _where(s, lambda r, c: column_of(c) >= low[r])


def _kept(plan: Plan, s, rows, places: Places, first) -> None:
    _where(s, lambda r, c: plan.keep(rows[r], places.query(rows[r], r), places.key(first, c)))


def _where(s, kept) -> None:
    """-inf in place of the scores (row, column) that are not kept."""
    for r in range(cute.size(s, mode=[0])):
        for c in range(cute.size(s, mode=[1])):
            s[r, c] = select(kept(r, c), s[r, c], -Float32.inf)

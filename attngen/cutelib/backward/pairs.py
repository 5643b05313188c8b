"""The spec's weight and its derivative on a thread's registers: keys are rows, queries columns."""

from __future__ import annotations

from typing import Any

from cutlass import BFloat16, Float32, Int32, cute, min

from attngen.cutelib.backward.plan import BackwardPlan
from attngen.cutelib.fragments import column_of, rows_columns
from attngen.cutelib.ops import Position, integer
from attngen.cutelib.tile import At

NEVER = 1 << 20  # more than any column


class Places:
    """Keys and queries of a thread's registers.

    Row r (of two) is key `row + 8 * r` of the block; column register c is query `column_of(c) +
    lane` of the step.
    """

    def __init__(self, thread) -> None:
        warp, lane = thread // 32, thread % 32
        self.row = warp // 4 * 64 + warp % 4 * 16 + lane // 4
        self.lane = 2 * (thread % 4)

    def key(self, at: At, r: int) -> Position:
        """Key of row register r."""
        return Position(at.col0 + self.row, 8 * r)

    def query(self, first, c: int) -> Position:
        """Query of column register c of the step that begins at query `first`."""
        return Position(first + self.lane, column_of(c))


class Limits:
    """(first query, query after the last) of each key of the thread; None where there is none."""

    def __init__(self, plan: BackwardPlan, at: At, places: Places) -> None:
        self.low, self.high = [], []
        for r in range(2):
            key = places.key(at, r)
            low = Int32(-1)
            if plan.first_query is not None:
                low = Int32(integer(plan.first_query(at, key)))
            self.low.append(_absent(key.value < at.kv_len, low))
            if plan.end_query is not None:
                self.high.append(min(at.q_len, Int32(integer(plan.end_query(at, key)))))


@cute.jit
def _absent(exists, low):
    return low if exists else Int32(1 << 30)


def tile_and_keys(plan: BackwardPlan, at: At, places: Places) -> tuple[At, list[At]]:
    """`at` with what the spec computes once per tile, and once for each key of the thread."""
    if plan.per_tile is not None:
        at = at.with_values(**plan.per_tile(at))
    if plan.per_key is None:
        return at, [at, at]
    return at, [at.with_values(**plan.per_key(at, places.key(at, r))) for r in range(2)]


class Numbers:
    """Numbers of the queries, read in pairs from shared memory just before their use.

    All of them at once would take so many registers that ptxas serialises the products.
    """

    def __init__(self, names: tuple[str, ...], rings: dict[str, str], memory, thread) -> None:
        self.names, self.rings, self.memory = names, rings, memory
        self.lane = thread % 4 * 2

    def pair(self, stages: dict[str, Any], column: int) -> list[list[Any]]:
        """[numbers of the first column, numbers of the second]."""
        out: list[list[Any]] = [[], []]
        for name in self.names:
            stage = self.memory[name][None, stages[self.rings[name]]]
            start = (stage.iterator + self.lane).align(8) + column * 8
            two = cute.make_rmem_tensor(2, Float32)
            cute.autovec_copy(cute.make_tensor(start, cute.make_layout(2)), two)
            for e in range(2):
                out[e].append(two[e])
        return out


def weights(plan, acc, packed, at, keys, places, numbers, stages, limits, masked, dtype) -> bool:
    """Products become weights; what `after` needs of them stays in `acc`.

    at: with row0 of the step; keys: `at` of each key. Whether `acc` holds the weights themselves;
    if not, they are in `packed`, as an operand.
    """
    whole = True
    s, words = rows_columns(acc), cute.recast_tensor(packed, Int32)
    columns, diagonals = _terms(plan, at, keys, places), {}
    near = _limits(limits, at, places) if masked else None
    for c2 in range(cute.size(s, mode=[1]) // 2):
        given = numbers.pair(stages, c2)
        for r in range(2):
            key, two = places.key(at, r), []
            for e in range(2):
                c = 2 * c2 + e
                query = places.query(at.row0, c)
                step = key.offset - query.offset
                if plan.diagonal is not None and step not in diagonals:
                    diagonals[step] = plan.diagonal(at, query, key)
                p, kept = plan.before(
                    keys[r], s[r, c], columns[r], diagonals.get(step), query, key, *given[e]
                )
                same = kept is p
                if masked:
                    inside = near(c, r)
                    if plan.keep is not None:
                        inside = inside & plan.keep(keys[r], query, key)
                    p = _zero_unless(inside, p)
                    kept = p if same else _zero_unless(inside, kept)
                s[r, c] = kept
                two.append(p)
                whole = whole and same
            if not whole:
                words[2 * c2 + r] = pack_two(two, dtype)
    return whole


def _limits(limits: Limits, at: At, places: Places):
    start = at.row0 + places.lane
    low = [x - start for x in limits.low]
    high = [x - start for x in limits.high]

    def inside(c: int, r: int):
        """Whether the limits of the key keep the query of column register c."""
        kept = column_of(c) >= low[r]
        return kept & (column_of(c) < high[r]) if high else kept

    return inside


def _terms(plan: BackwardPlan, at: At, keys: list[At], places: Places) -> list[Any]:
    """The term of each key."""
    if plan.column is None:
        return [None, None]
    return [plan.column(keys[r].with_values(row0=at.row0), places.key(at, r)) for r in range(2)]


@cute.jit
def _zero_unless(inside, x):
    return x if inside else Float32(0.0)


def derivatives(plan, kept, product, at, keys, places, numbers, stages, sums) -> None:
    """Derivatives in place of `product`, from what is kept of the weights; `sums` grow."""
    s, d = rows_columns(kept), rows_columns(product)
    for c2 in range(cute.size(s, mode=[1]) // 2):
        given = numbers.pair(stages, c2)
        for r in range(2):
            for e in range(2):
                c = 2 * c2 + e
                query, key = places.query(at.row0, c), places.key(at, r)
                ds = plan.after(keys[r], s[r, c], d[r, c], query, key, *given[e])
                d[r, c] = ds
                if plan.sums is not None:
                    for i, x in enumerate(plan.sums(keys[r], ds, query, key)):
                        sums[2 * i + e] = sums[2 * i + e] + x


def pack_two(two, dtype):
    """Two float32 registers as one of 16-bit numbers."""
    name = "bf16x2" if dtype is BFloat16 else "f16x2"
    return cute.arch.inline_ptx(
        f"cvt.rn.{name}.f32 {{$w0}}, {{$r0}}, {{$r1}};",
        write_only_types=[Int32],
        read_only_args=[two[1], two[0]],
    )

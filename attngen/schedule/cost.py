"""What a program needs of a multiprocessor: shared memory exactly, registers by an estimate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from attngen.core.dtype import Dtype
from attngen.core.target import Target
from attngen.ir.build import is_number
from attngen.ir.expr import Axes, Dot, Expr, Load, Row, Side, Uniform
from attngen.ir.index import FirstGe
from attngen.ir.online import OnlinePlan
from attngen.ir.program import Program
from attngen.ir.walk import walk
from attngen.schedule.schedule import Schedule

BOUNDED = 138.0  # nats between a score's bounds up to which the backend keeps no running maximum
BOUNDED_F16 = 19.0
MULTIPLY_BASE = 37  # registers beside the operands where products are ordinary multiply-adds


@dataclass(frozen=True)
class Footprint:
    """What a program holds per query row, per key and per pair of them.

    query_bytes, key_bytes: of all row tensors of a side; reused_bytes: of key_bytes, what both
    products read; query_width, accumulator_width: columns; tiles: products and softmax classes;
    words: registers alive per element of a score tile; columns: vectors of one value per key that
    a score or a mask keeps; searched: ranges of keys are found at run time, by scans or by testing
    each tile; bounded: no class keeps a running maximum; wide: the streams are float32; sorts:
    lists of the largest scores are kept, of at most so many slots.
    """

    query_bytes: int
    key_bytes: int
    query_width: int
    accumulator_width: int
    tiles: int
    reused_bytes: int = 0
    words: float = 1.5
    columns: float = 0.0
    searched: bool = False
    bounded: bool = False
    wide: bool = False
    sorts: bool = False
    slots: int = 0

    def shared(self, schedule: Schedule) -> int:
        """Bytes of shared memory: the query tile once, the key tiles of every stage."""
        queries = schedule.block_q * self.query_bytes
        return queries + schedule.stages * schedule.block_k * self.key_bytes

    def multiplies_add(self, schedule: Schedule, target: Target) -> bool:
        """Whether products run on the ordinary units: no tensor cores for this type there."""
        if target.arch == 75:
            return True
        exact = self.wide and schedule.precision == "ieee"
        return exact and not (isinstance(target.arch, str) and target.arch.startswith("gfx9"))


@dataclass(frozen=True)
class Registers:
    """How a family of targets spends the registers of a thread, fitted to its compiler's reports.

    base: addresses and row statistics; query: share of the query tile kept in registers;
    operand: share of a key tile that each warp holds as the operand of a product; rows: the fewest
    query rows that a warp holds, however small the tile.
    """

    base: int
    query: float = 0.0
    operand: float = 0.0
    rows: int = 0

    def estimate(self, found: Footprint, schedule: Schedule, target: Target) -> float:
        """32-bit registers a thread needs."""
        rows = schedule.block_q / (schedule.warps * target.warp)
        if found.multiplies_add(schedule, target):
            products = 2 * max(found.query_width, found.accumulator_width)
            operands = products * (0.2 if target.family == "cuda" and not found.searched else 0.5)
            base = MULTIPLY_BASE + 2 * found.tiles
            return base + rows * schedule.block_k * (operands + found.words)
        per_row = found.accumulator_width + found.words * schedule.block_k
        least = self.rows / target.warp
        queries = self.query * max(rows, least) * found.query_bytes / 4
        held = self.operand * found.key_bytes / 4 / target.warp + found.columns / 4
        # no maxima and no factors; without a tanh in hardware the soft-cap takes their place
        statistics = 8 if found.bounded and target.tanh_approx else 0
        return self.base - statistics + queries + rows * per_row + held * schedule.block_k


def footprint(program: Program) -> Footprint:
    """Counted from the online plan, feature axes padded to powers of two."""
    widths = {Side.QUERY: dict[str, int](), Side.KEY: dict[str, int]()}
    for row in _rows(program):
        side = widths.setdefault(row.side, {})
        side[row.tensor] = max(side.get(row.tensor, 0), row.start + _size(row.width))
    plan = program.online
    payloads = [a.row for a in plan.accumulators if a.row is not None]
    bytes_of = {t.name: t.dtype.bytes for t in program.attention.tensors}
    streams = {t.dtype for t in program.attention.tensors if t.is_stream}
    return Footprint(
        query_bytes=sum(_padded(w) * bytes_of[n] for n, w in widths[Side.QUERY].items()),
        key_bytes=sum(_padded(w) * bytes_of[n] for n, w in widths[Side.KEY].items()),
        query_width=sum(_padded(w) for w in widths[Side.QUERY].values()),
        accumulator_width=sum(_padded(_size(row.feature)) for row in payloads),
        tiles=len(_dots(program)) + len(plan.classes),
        reused_bytes=_reused(program, bytes_of),
        words=_words(program),
        columns=_columns(program),
        searched=_searched(program),
        bounded=bool(plan.classes) and all(c.high - c.low <= _limit(streams) for c in plan.classes),
        wide=Dtype.F32 in streams,
        sorts=any(t.count > 1 for t in plan.tops),
        slots=max((1 << (t.count - 1).bit_length() for t in plan.tops), default=0),
    )


def row_tensors(program: Program) -> set[str]:
    """Names of the tensors that a kernel reads by rows: what descriptors are made over."""
    results = [e for _, e in program.online.outputs]
    return {e.tensor for e in walk(*results) if isinstance(e, Row)} | {
        e.tensor for e in _rows(program)
    }


def _limit(streams: set[Dtype]) -> float:
    return BOUNDED_F16 if Dtype.F16 in streams else BOUNDED


def _words(program: Program) -> float:
    """Scores, weights (half), captured tiles with their 64-bit addresses, sort keys."""
    plan = program.online
    nodes = set(walk(*_tile_roots(program)))
    captured = sum(isinstance(e, Load) and e.level == Axes.TILE for e in nodes)
    random = sum(isinstance(e, Uniform) for e in nodes)
    weighted = sum(a.row is not None for a in plan.accumulators)
    sorts = sum(2 if t.count == 1 else 6 for t in plan.tops)
    moments = sum(a.row is None and not is_number(a.scalar, 1) for a in plan.accumulators)
    half = 0.5 * (max(len(plan.classes), weighted) + moments)
    return len(_dots(program)) + half + 4 * captured + 3 * random + sorts


def _reused(program: Program, bytes_of: Mapping[str, int]) -> int:
    """Bytes per key of payload rows whose tensor the scores read too (`v = k[:512]`)."""
    scored = {e.tensor for e in walk(*_tile_roots(program)) if isinstance(e, Row)}
    payloads = [a.row for a in program.online.accumulators if a.row is not None]
    rows = {e for e in walk(*payloads) if isinstance(e, Row) and e.tensor in scored}
    return sum(_padded(_size(e.width)) * bytes_of[e.tensor] for e in rows)


def _columns(program: Program) -> float:
    """Captured columns; packed keys pass through registers; rows of results and two sides: half."""
    nodes = set(walk(*_tile_roots(program)))
    captured = sum(isinstance(e, Load) and e.level == Axes.KEY for e in nodes)
    packed = any(t.packed for t in program.attention.tensors)
    late = row_tensors(program) - {e.tensor for e in _rows(program)}
    return captured + packed + 0.5 * (two_sided(program) + len(late))


def _searched(program: Program) -> bool:
    way = program.mask.forward
    return bool(way.leftovers) or any(isinstance(r.lo.term, FirstGe) for r in way.row)


def two_sided(program: Program) -> bool:
    """Whether a row keeps keys of a range bounded on both sides: windows, documents."""
    return any(r.lo.constant is None for r in program.mask.forward.row)


def _dots(program: Program) -> set[Expr]:
    nodes = walk(*_tile_roots(program))
    return {e for e in nodes if isinstance(e, Dot) and e.level == Axes.TILE}


def _tile_roots(program: Program) -> list[Expr]:
    plan: OnlinePlan = program.online
    roots = [c.score for c in plan.classes] + [a.scalar for a in plan.accumulators]
    return roots + [t.score for t in plan.tops]


def _rows(program: Program) -> Iterator[Row]:
    payloads = [a.row for a in program.online.accumulators if a.row is not None]
    return (e for e in walk(*_tile_roots(program), *payloads) if isinstance(e, Row))


def _size(width: object) -> int:
    return width if isinstance(width, int) else 0


def _padded(width: int) -> int:
    """Columns held: up to two powers of two (see the backend's layout), here a multiple of 16."""
    return -(-width // 16) * 16

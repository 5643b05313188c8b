"""What a program needs of a multiprocessor, counted from its tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attngen.ir.expr import Axes, Dot, Expr, Row, Side
from attngen.ir.program import Program
from attngen.ir.walk import walk
from attngen.schedule.schedule import Schedule


@dataclass(frozen=True)
class Footprint:
    """Bytes per query row and per key of the tiles a program holds, and its accumulators.

    query_bytes, key_bytes: of all row tensors of a side; query_width, accumulator_width: columns;
    tiles: score-sized values alive at once.
    """

    query_bytes: int
    key_bytes: int
    query_width: int
    accumulator_width: int
    tiles: int

    def shared(self, schedule: Schedule) -> int:
        """Bytes of shared memory: the query tile once, the key tiles of every stage."""
        queries = schedule.block_q * self.query_bytes
        return queries + schedule.stages * schedule.block_k * self.key_bytes


def footprint(program: Program) -> Footprint:
    """Counted from the online plan, feature axes padded to powers of two."""
    widths = {Side.QUERY: dict[str, int](), Side.KEY: dict[str, int]()}
    for row in _rows(program):
        side = widths.setdefault(row.side, {})
        side[row.tensor] = max(side.get(row.tensor, 0), row.start + _size(row.width))
    plan = program.online
    accumulators = sum(_padded(_size(a.row.feature)) for a in plan.accumulators if a.row is not None)
    dots = {e for r in _tile_roots(program) for e in walk(r) if isinstance(e, Dot) and e.level == Axes.TILE}
    bytes_of = {t.name: t.dtype.bytes for t in program.attention.tensors}
    return Footprint(
        query_bytes=sum(_padded(w) * bytes_of[n] for n, w in widths[Side.QUERY].items()),
        key_bytes=sum(_padded(w) * bytes_of[n] for n, w in widths[Side.KEY].items()),
        query_width=sum(_padded(w) for w in widths[Side.QUERY].values()),
        accumulator_width=accumulators,
        tiles=len(dots) + len(plan.classes),
    )


def _tile_roots(program: Program) -> list[Expr]:
    plan = program.online
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

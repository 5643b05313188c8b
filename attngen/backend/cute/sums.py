"""What a kernel sums: weights, weights times numbers of a pair, and those times rows of values.

Derived from the accumulators of the online form alone (docs/online_form.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attngen.backend.cute.split import tile_dots
from attngen.ir import build
from attngen.ir.expr import Dot, Expr, Row, Side
from attngen.ir.online import Accumulator, OnlinePlan
from attngen.ir.walk import walk

COLUMNS = 256  # of all sums of a row: half as many registers of a thread


@dataclass(frozen=True)
class Sums:
    """The sums of one softmax.

    payloads: distinct numbers of a pair that weights are multiplied with; dots, queries: products
    that only payloads read, and their rows of queries; reads_score: payloads read the score's
    product; rows, numbers: accumulators with a row of values, without one, each (its index, 0 for
    the weights themselves or i for weights times payload i - 1); the sum of weights is not listed.
    """

    payloads: tuple[Expr, ...] = ()
    dots: tuple[Dot, ...] = ()
    queries: tuple[Row, ...] = ()
    reads_score: bool = False
    rows: tuple[tuple[int, int], ...] = ()
    numbers: tuple[tuple[int, int], ...] = ()


def sums_of(plan: OnlinePlan, score: Dot) -> Sums:
    """The sums of a plan of one softmax; score: the product its score is made of."""
    payloads = payloads_of(plan)
    found = dict.fromkeys(tile_dots_of(*payloads))
    dots = tuple(d for d in found if d is not score)
    place = {e: i + 1 for i, e in enumerate(payloads)}
    numbered = [(i, a, place.get(a.scalar, 0)) for i, a in enumerate(plan.accumulators)]
    return Sums(
        payloads,
        dots,
        tuple(_query(d) for d in dots),
        score in found,
        tuple((i, p) for i, a, p in numbered if a.row is not None),
        tuple((i, p) for i, a, p in numbered if a.row is None and p),
    )


def payloads_of(plan: OnlinePlan) -> tuple[Expr, ...]:
    """Distinct numbers of a pair, other than 1, that weights are multiplied with."""
    return tuple(dict.fromkeys(a.scalar for a in plan.accumulators if not _one(a)))


def tile_dots_of(*roots: Expr) -> list[Dot]:
    """Products of rows that vary over both positions, in order."""
    return [d for e in roots for d in tile_dots(e)]


def missing_sums(plan: OnlinePlan, score: Dot, key: Row) -> Iterator[str]:
    """What of the payloads a kernel cannot do, in words; key: the row of keys of the score."""
    for d in [x for x in walk(*payloads_of(plan)) if isinstance(x, Dot) and x is not score]:
        rows = {x.side: x for x in (d.a, d.b) if isinstance(x, Row)}
        if rows.get(Side.KEY) is not key or Side.QUERY not in rows:
            yield "products in what weights are multiplied with, other than of the score's keys"
        elif rows[Side.QUERY].start % 8:
            name, start = rows[Side.QUERY].tensor, rows[Side.QUERY].start
            yield f"columns of {name} from {start} on (16 bytes are not aligned)"
    rows_ = [a.row for a in plan.accumulators if a.row is not None]
    if len(set(rows_)) > 1:
        yield "several rows of values"
    columns = sum(r.width for r in rows_ if isinstance(r, Row) and isinstance(r.width, int))
    if len(rows_) > 1 and columns > COLUMNS:
        yield f"sums of {columns} columns ({COLUMNS} at most)"


def _one(a: Accumulator) -> bool:
    return build.is_number(a.scalar, 1)


def _query(d: Dot) -> Row:
    row = d.a if isinstance(d.a, Row) and d.a.side is Side.QUERY else d.b
    assert isinstance(row, Row)
    return row

"""How tensors reach a kernel: their axes, and a feature axis cut into powers of two."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from attngen.ir.attention import Attention, Tensor
from attngen.ir.expr import Dot, Expr, Extent, Reduced, Row, Side
from attngen.ir.online import OnlinePlan
from attngen.ir.walk import walk

LEAST = 16  # smallest contraction of a tensor-core product


@dataclass(frozen=True)
class Chunk:
    """Columns [start, start + width) of a feature axis, held in `block` >= width columns."""

    start: int
    width: int
    block: int

    @property
    def padded(self) -> bool:
        """Whether the block has columns past the chunk (zero on load, not stored)."""
        return self.block != self.width


def cut(start: int, width: int) -> tuple[Chunk, ...]:
    """Powers of two that cover `width` columns: one block, or two if that saves over a quarter."""
    whole = max(LEAST, 1 << (width - 1).bit_length())
    largest = 1 << (width.bit_length() - 1)
    rest = width - largest
    rest_block = max(LEAST, 1 << (rest - 1).bit_length()) if rest else 0
    if rest and largest >= LEAST and largest + rest_block < whole:
        return Chunk(start, largest, largest), Chunk(start + largest, rest, rest_block)
    return (Chunk(start, width, whole),)


def size(extent: Extent | None) -> int:
    """A feature extent of a specialised program."""
    if not isinstance(extent, int):
        raise TypeError(f"feature extent {extent!r} is not specialised")
    return extent


@dataclass(frozen=True)
class Layout:
    """Chunks of every row tensor and of every accumulator, cut alike wherever rows meet."""

    cuts: dict[str, tuple[Chunk, ...]]

    def chunks(self, e: Expr) -> tuple[Chunk, ...]:
        """The chunks of a row-valued expression, as columns of the tensors it reads."""
        rows = [x for x in walk(e) if isinstance(x, Row)]
        if not rows:
            return cut(0, size(e.feature))
        row = rows[0]
        stop = row.start + size(row.width)
        return tuple(c for c in self.cuts[row.tensor] if row.start <= c.start < stop)

    def width(self, tensor: str) -> int:
        """Columns of the tensor that are read."""
        last = self.cuts[tensor][-1]
        return last.start + last.width


def layout(attention: Attention, plan: OnlinePlan) -> Layout:
    """Cut feature axes: rows that meet in a product, a sum or a result share their cuts."""
    roots: list[Expr] = [c.score for c in plan.classes] + [t.score for t in plan.tops]
    roots += [a.scalar for a in plan.accumulators] + [e for _, e in plan.outputs]
    dots = [d for d in walk(*roots) if isinstance(d, Dot)]
    together = [rows_of([d.a, d.b, *_payloads(plan, d.a, d.b)]) for d in dots]
    together += [rows_of([a.row]) for a in plan.accumulators if a.row is not None]
    results = [e for _, e in plan.outputs if e.feature is not None]
    together += [rows_of([e, *_payloads(plan, e)]) for e in results]
    return cut_alike(together)


def _payloads(plan: OnlinePlan, *es: Expr) -> list[Expr]:
    """The rows of keys that were summed into rows below the expressions."""
    sums = [r for r in walk(*es) if isinstance(r, Reduced) and r.what == "moment"]
    rows = [plan.accumulators[r.index].row for r in sums if r.feature is not None]
    return [row for row in rows if row is not None]


def cut_alike(together: Iterable[list[Row]]) -> Layout:
    """Cut every tensor where it or a tensor it meets is cut; each list holds rows that meet."""
    cuts: dict[str, tuple[Chunk, ...]] = {}
    for rows in _merged(together):
        edges = sorted({r.start for r in rows} | {r.start + size(r.width) for r in rows})
        for name in dict.fromkeys(r.tensor for r in rows):
            own = [r for r in rows if r.tensor == name]
            first = min(r.start for r in own)
            last = max(r.start + size(r.width) for r in own)
            inside = [first, *(e for e in edges if first < e < last), last]
            cuts[name] = tuple(c for a, b in pairwise(inside) for c in cut(a, b - a))
    return Layout(cuts)


def _merged(together: Iterable[list[Row]]) -> list[list[Row]]:
    """Lists that share a tensor become one."""
    groups: list[list[Row]] = []
    for rows in together:
        names = {r.tensor for r in rows}
        meeting = [g for g in groups if names & {r.tensor for r in g}]
        merged = list(dict.fromkeys([r for g in meeting for r in g] + rows))
        groups = [g for g in groups if g not in meeting] + ([merged] if merged else [])
    return groups


def rows_of(es: Iterable[Expr]) -> list[Row]:
    """The rows the expressions read."""
    return [x for e in es for x in walk(e) if isinstance(x, Row)]


def head_axis(tensor: Tensor) -> str | None:
    """Name of the head axis, None when there is none or it is 1 (shared by all heads)."""
    i = tensor.axis("head")
    if i is None or tensor.axes[i].size == 1:
        return None
    return tensor.axes[i].name


def side_tensors(attention: Attention, side: Side) -> list[Tensor]:
    """Streams of a side, views left out."""
    roles = ("query",) if side is Side.QUERY else ("key", "value")
    return [t for t in attention.tensors if t.role in roles and t.view is None]

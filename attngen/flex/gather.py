"""Captured tensors in the form whose gradients kernels give.

A kernel adds a gradient up per position, per head, per pair, or per bucket of a table's last axis.
A tensor that is read in another way, as in `first[second[q_idx]]` or `table[distance, h]`, is
brought into such a form by torch before the call, and torch takes the gradient back through it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from attngen.core.diagnostics import CallError, Diagnostic
from attngen.frontend.trace import Slot
from attngen.ir import build
from attngen.ir.expr import (
    Axes,
    Binary,
    Cast,
    Const,
    Expr,
    Index,
    Load,
    Row,
    Side,
    Unary,
    Where,
)
from attngen.ir.walk import substitute, walk
from attngen.reference import pointwise

AXES = {"b": "B", "h": "Hq", "q_idx": "Sq", "kv_idx": "Skv"}
FLAGS = (Axes.BATCH, Axes.HEAD, Axes.QUERY, Axes.KEY)
MOST_BUCKETS = 4096


@dataclass(frozen=True)
class Gather:
    """How an input is made of a captured tensor.

    slot, name: of that tensor; axes: names of the positions the input varies with; index: of each
    axis of the tensor, None for axes that are kept, as one behind the others.
    """

    slot: int
    name: str
    axes: tuple[str, ...]
    index: tuple[Expr | None, ...]

    def make(
        self, tensors: Sequence[torch.Tensor], names: Mapping[str, int], sizes: Mapping[str, int]
    ) -> torch.Tensor:
        """The input; CallError E519 if a position would read past the end of the tensor."""
        source = tensors[self.slot]
        self._require(source, sizes)
        host = _Host(tensors, names, sizes, source.device)
        taken = [a for a, i in enumerate(self.index) if i is not None]
        kept = [a for a, i in enumerate(self.index) if i is None]
        found = source.permute(*taken, *kept)
        if taken:
            places = [
                host.place(i, source.shape[a]) for a, i in enumerate(self.index) if i is not None
            ]
            found = found[tuple(places)]
        else:
            found = found.reshape(1, 1, 1, 1, *found.shape)
        wide = [sizes[AXES[n]] if n in self.axes else 1 for n in AXES]
        found = found.expand(*wide, *found.shape[4:])
        lead = [n for n, name in zip(wide, AXES, strict=True) if name in self.axes]
        return found.reshape(*lead, *([math.prod(found.shape[4:])] if kept else []))

    def _require(self, source: torch.Tensor, sizes: Mapping[str, int]) -> None:
        for axis, i in enumerate(self.index):
            needed = sizes[AXES[i.name]] if isinstance(i, Index) and i.name in AXES else 0
            if source.shape[axis] < needed:
                raise too_short(self.name, axis, source.shape[axis], needed)


@dataclass(frozen=True)
class Spread:
    """Rows [.., S, W] with an axis for each name; axes of one element are repeated."""

    slot: int
    axes: tuple[str, ...]

    def make(
        self, tensors: Sequence[torch.Tensor], names: Mapping[str, int], sizes: Mapping[str, int]
    ) -> torch.Tensor:
        """The input."""
        source = tensors[self.slot]
        return source.expand(*(sizes[AXES[n]] for n in self.axes), source.shape[-1])


def too_short(name: str, axis: int, size: int, needed: int) -> CallError:
    """E519."""
    message = (
        f"{name} is read at positions up to {needed - 1} of axis {axis}, which has {size} elements"
    )
    fix = f"pass a {name} of at least {needed}, or index it with a smaller expression"
    return CallError(Diagnostic("E519", message, help=fix))


@dataclass
class Gathering:
    """The rewriting of one score; slots grow by what is made; new_slot: (source, shape) -> slot."""

    slots: list[Slot]
    trained: frozenset[int]
    sizes: Mapping[str, int]
    new_slot: Callable[[Slot, tuple[int, ...]], Slot]

    def __post_init__(self) -> None:
        self.made: dict[Gather | Spread, Slot] = {}
        self.numbers = {self.slots[i].name: i for i in self.trained}

    def rewritten(self, score: Expr) -> Expr:
        """The same score, reading what is made."""
        table: dict[Expr, Expr] = {}
        for e in walk(score):
            if isinstance(e, Load) and e.tensor in self.numbers and not _plain(e.index):
                table[e] = self._element(e)
            elif isinstance(e, Row) and e.tensor in self.numbers:
                table[e] = self._row(e)
        for name, i in self.numbers.items():
            reads = self.slots[i].reads
            kept = [r for r in reads if table.get(old := Load(name, r, "float"), old) is old]
            self.slots[i].reads = kept
        return substitute(score, table)

    def _element(self, e: Load) -> Expr:
        source = self.slots[self.numbers[e.tensor]]
        if not all(_evaluated(i) for i in e.index):
            return e
        tile = [i for i, x in enumerate(e.index) if Axes.QUERY in x.axes or Axes.KEY in x.axes]
        whole = Axes.NONE
        for x in e.index:
            whole |= x.axes
        kept: list[int] = []
        if Axes.QUERY in whole and Axes.KEY in whole:
            cells = math.prod(source.shape[i] for i in tile)
            pairs = self.sizes["Sq"] * self.sizes["Skv"]
            large = cells >= pairs and not any(Axes.TILE in e.index[i].axes for i in tile)
            if not large and cells > MOST_BUCKETS:
                return e  # neither a table nor as large as the pairs: the backend says E430
            kept = [] if large else tile
        return self._gathered(e, source, kept)

    def _gathered(self, e: Load, source: Slot, kept: list[int]) -> Expr:
        index = tuple(None if i in kept else x for i, x in enumerate(e.index))
        flags = Axes.NONE
        for x in index:
            flags |= x.axes if x is not None else Axes.NONE
        axes = tuple(n for n, flag in zip(AXES, FLAGS, strict=True) if flag in flags)
        axes = axes or (() if kept else ("h",))
        gather = Gather(self.numbers[e.tensor], e.tensor, axes, index)
        source.fixed.update(kept)
        count = math.prod(source.shape[i] for i in kept)
        shape = tuple(self.sizes[AXES[n]] for n in axes) + ((count,) if kept else ())
        slot = self._slot(gather, shape)
        slot.buckets = bool(kept)
        where = tuple(Index(n) for n in axes) + ((_joined(e, kept, source.shape),) if kept else ())
        if where not in slot.reads:
            slot.reads.append(where)
        return Load(slot.name, where, e.element)

    def _row(self, e: Row) -> Expr:
        """Rows of an input whose leading axes are of one element, for all batches or heads."""
        source = self.slots[self.numbers[e.tensor]]
        index, side = next(r for r in source.rows if r[1] is e.side)
        if _plain(index):
            return e
        lead = ("b", "h") if len(index) == 3 else ("h",)
        axes = (*lead, "q_idx" if side is Side.QUERY else "kv_idx")
        shape = (*(self.sizes[AXES[n]] for n in axes), source.shape[-1])
        slot = self._slot(Spread(self.numbers[e.tensor], axes), shape)
        slot.rows = [(tuple(Index(n) for n in axes), side)]
        source.rows = [r for r in source.rows if r[1] is not side]
        return Row(slot.name, side, e.width, e.start)

    def _slot(self, how: Gather | Spread, shape: tuple[int, ...]) -> Slot:
        if how not in self.made:
            self.made[how] = self.new_slot(self.slots[how.slot], shape)
        return self.made[how]


def _plain(index: Sequence[Expr]) -> bool:
    """Whether each axis is read at a position of its own."""
    names = [i.name for i in index if isinstance(i, Index) and i.name in AXES]
    return len(names) == len(index) == len(set(names))


def _joined(e: Load, kept: Sequence[int], shape: Sequence[int]) -> Expr:
    """One index into the kept axes, each within its bounds."""
    total: Expr = build.ZERO
    for axis in kept:
        last = Const(shape[axis] - 1)
        inside = build.binary("min", build.binary("max", e.index[axis], build.ZERO), last)
        total = build.add(build.mul(total, Const(shape[axis])), inside)
    return total


def _evaluated(e: Expr) -> bool:
    known = (Const, Index, Load, Unary, Binary, Where, Cast)
    return all(isinstance(x, known) for x in walk(e))


@dataclass
class _Host:
    """Indices as tensors over (b, h, q_idx, kv_idx), each axis full or of size 1."""

    tensors: Sequence[torch.Tensor]
    names: Mapping[str, int]
    sizes: Mapping[str, int]
    device: torch.device

    def place(self, e: Expr, size: int) -> torch.Tensor:
        """An index into an axis, drawn into it as kernels do."""
        with torch.no_grad():
            return self.value(e).to(torch.int64).clamp(0, size - 1)

    def value(self, e: Expr) -> torch.Tensor:
        """The value of an expression, real numbers as kernels have them."""
        real = torch.float32
        match e:
            case Const(value=value):
                return torch.as_tensor(value, device=self.device).reshape(1, 1, 1, 1)
            case Index(name="q_pos"):
                return self.value(Index("q_idx")) + (self.sizes["Skv"] - self.sizes["Sq"])
            case Index(name=name):
                shape = [-1 if n == name else 1 for n in AXES]
                return torch.arange(self.sizes[AXES[name]], device=self.device).reshape(shape)
            case Load(tensor=tensor, index=index):
                read = self.tensors[self.names[tensor]]
                places = [self.place(i, n) for i, n in zip(index, read.shape, strict=True)]
                return read[tuple(places)]
            case Unary(op=op, x=x):
                return pointwise.unary(op, self.value(x), real)
            case Binary(op=op, a=a, b=b):
                return pointwise.binary(op, self.value(a), self.value(b), real)
            case Where(condition=c, a=a, b=b):
                return pointwise.where(self.value(c), self.value(a), self.value(b), real)
            case Cast(x=x, dtype=dtype):
                return pointwise.cast(self.value(x), dtype, real)
        raise TypeError(f"{type(e).__name__} in an index")

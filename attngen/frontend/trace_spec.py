"""From a traced score and mask to a checked attention program."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attngen.core.dtype import Dtype
from attngen.core.source import Span
from attngen.frontend.mistake import wrong
from attngen.frontend.trace import Slot
from attngen.frontend.trace_ops import numeric
from attngen.ir import build
from attngen.ir.attention import Attention, Axis, Tensor
from attngen.ir.expr import (
    Axes,
    Binary,
    Const,
    Dot,
    Expr,
    Index,
    LogSumExp,
    Row,
    Side,
    Size,
    Softmax,
    Sum,
    Top,
    Where,
)
from attngen.ir.verify import verify

NEVER = build.binary("lt", Index("kv_idx"), build.ZERO)


@dataclass(frozen=True)
class Shapes:
    """Which axes of q [B, Hq, Sq, D], k [B, Hkv, Skv, D] and v [B, Hkv, Skv, Dv] are one axis."""

    one_head_count: bool
    one_length: bool
    one_width: bool

    def name(self, axis: str) -> str:
        """The name of an axis in the program: `Sq` and `Skv` are `S` where the lengths agree."""
        if axis in ("Hq", "Hkv") and self.one_head_count:
            return "H"
        if axis in ("Sq", "Skv") and self.one_length:
            return "S"
        return "D" if axis == "Dv" and self.one_width else axis

    def streams(self) -> tuple[Tensor, ...]:
        """The declarations of q, k and v."""
        return (
            self._stream("q", "query", ("Hq", "Sq", "D")),
            self._stream("k", "key", ("Hkv", "Skv", "D")),
            self._stream("v", "value", ("Hkv", "Skv", "Dv")),
        )

    def _stream(self, name: str, role: str, axes: tuple[str, str, str]) -> Tensor:
        roles = ("head", "position", "feature")
        own = (Axis(self.name(a), r) for a, r in zip(axes, roles, strict=True))
        return Tensor(name, role, Dtype.HALF, (Axis("B", "batch"), *own))


@dataclass(frozen=True)
class Asked:
    """Which results a program has, in this order."""

    out: bool = True
    lse: bool = False
    most: bool = False

    def outputs(self, score: Expr, value: Expr) -> tuple[tuple[str, Expr], ...]:
        """Their names and formulas; most: the largest kept score, -inf for an empty row."""
        made: list[tuple[str, Expr]] = []
        if self.out:
            made.append(("out", Sum(build.mul(Softmax(score, None), value))))
        if self.lse:
            made.append(("lse", LogSumExp(score, None)))
        if self.most:
            made.append(("most", Top(score, 1, "values")))
        return tuple(made)


@dataclass(frozen=True)
class Guard:
    """What a program relies on: axis `axis` of the slot has the size of the stream axis `name`."""

    slot: int
    axis: int
    name: str


@dataclass(frozen=True)
class TracedProgram:
    """A program, the slots it reads in the order of its inputs, and what it relies on.

    indexed: (slot, axis, stream axis): plain positions that index an axis of any size.
    """

    attention: Attention
    slots: tuple[int, ...]
    guards: tuple[Guard, ...]
    indexed: tuple[Guard, ...]


def plain_score(scale: float | None) -> Expr:
    """`dot(q, k)` times the scale; None is 1 / sqrt(D)."""
    factor = build.unary("rsqrt", Size("D")) if scale is None else Const(float(scale))
    return build.mul(Dot(Row("q", Side.QUERY, "D", 0), Row("k", Side.KEY, "D", 0)), factor)


def traced_program(
    name: str, shapes: Shapes, score: Expr, mask: Expr | None, slots: Sequence[Slot], asked: Asked
) -> TracedProgram:
    """The program of a traced score and mask.

    Entries of the score that are -inf by a condition become part of the mask: the same weights, and
    loop bounds follow.
    """
    score, extra = split_mask(score)
    mask = joined([*([mask] if mask is not None else []), *extra])
    used = tuple(i for i, s in enumerate(slots) if s.reads or s.rows)
    named = [_Named(i, slots[i], shapes) for i in used]
    value = Row("v", Side.KEY, shapes.name("Dv"), 0)
    attention = Attention(
        name,
        (*shapes.streams(), *(n.tensor() for n in named)),
        NEVER if mask is build.FALSE else mask,
        asked.outputs(score, value),
        same_length=shapes.one_length,
        names={score: "score"},
    )
    verify(attention)
    guards = tuple(g for n in named for g in n.guards())
    return TracedProgram(attention, used, guards, tuple(g for n in named for g in n.indexed()))


def checked_score(e: Expr, span: Span | None) -> Expr:
    """The score a callable returned, as one number for each key."""
    e = numeric(e)
    if Axes.KEY not in e.axes:
        raise wrong(
            "E133",
            "the score is the same for every key",
            span,
            "does not depend on the score or on `kv_idx`",
            "return `score + ...`",
        )
    return e


def checked_mask(e: Expr, span: Span | None) -> Expr | None:
    """The mask a callable returned; None if it keeps everything."""
    if e.kind != "bool":
        raise wrong(
            "E133",
            "the mask is a number, expected true or false",
            span,
            "true keeps a key",
            "compare: `return kv_idx <= q_idx`",
        )
    return None if e is build.TRUE else e


def split_mask(score: Expr) -> tuple[Expr, list[Expr]]:
    """(score, conditions): `where(c, x, -inf)` is x where c holds and a masked key elsewhere."""
    inner, conditions = _split(score)
    return (inner, conditions) if Axes.KEY in inner.axes else (score, [])


def _split(score: Expr) -> tuple[Expr, list[Expr]]:
    match score:
        case Where(condition=c, a=a, b=Const(value=value)) if value == -math.inf:
            inner, more = _split(a)
            kept = [c, *more]
        case Where(condition=c, a=Const(value=value), b=b) if value == -math.inf:
            inner, more = _split(b)
            kept = [build.unary("not", c), *more]
        case Binary(op="add", a=a, b=b):
            (left, one), (right, two) = _split(a), _split(b)
            inner, kept = build.add(left, right), [*one, *two]
        case _:
            return score, []
    return inner, kept


def joined(conditions: Sequence[Expr]) -> Expr | None:
    """All conditions at once; None for none."""
    whole: Expr = build.TRUE
    for condition in conditions:
        whole = build.binary("and", whole, condition)
    return None if whole is build.TRUE else whole


@dataclass(frozen=True)
class _Named:
    """The axes of one captured tensor: of the streams where index and size agree, else its own."""

    number: int
    slot: Slot
    shapes: Shapes

    def tensor(self) -> Tensor:
        axes = tuple(self._axis(i) for i in range(len(self.slot.shape)))
        last = self._stream_axis(len(axes) - 1) if axes else None
        ordered = self.slot.sorted and last in ("Sq", "Skv")
        return Tensor(self.slot.name, "input", self.slot.dtype, axes, sorted=ordered)

    def guards(self) -> Iterator[Guard]:
        for i in range(len(self.slot.shape)):
            if (name := self._stream_axis(i)) is not None:
                yield Guard(self.number, i, name)

    def indexed(self) -> Iterator[Guard]:
        for i in range(len(self.slot.shape)):
            if self._stream_axis(i) is None:
                for name in sorted(_STREAM[n] for n in self._plain(i)):
                    yield Guard(self.number, i, name)

    def _axis(self, i: int) -> Axis:
        slot = self.slot
        if (slot.rows or slot.buckets) and i == len(slot.shape) - 1:
            return Axis(str(slot.shape[i]), "feature", slot.shape[i])
        name = self._stream_axis(i)
        if name is not None:
            role = {"B": "batch", "Hq": "head"}.get(name, "position")
            return Axis(self.shapes.name(name), role)
        if slot.rows and slot.shape[i] == 1:
            return Axis("1", "head", 1)
        own = f"{slot.name}_size" if len(slot.shape) == 1 else f"{slot.name}_size_{i}"
        return Axis(own, "position")

    def _stream_axis(self, i: int) -> str | None:
        plain, indices = self._plain(i), self._indices(i)
        names = {_STREAM[n] for n in plain}
        if self.shapes.one_length and names == {"Sq", "Skv"}:
            names = {"Sq"}
        same = len(plain) == len(indices) and len(names) == 1
        return names.pop() if same and names <= self.slot.alike[i] else None

    def _indices(self, i: int) -> set[Expr]:
        read = [*self.slot.reads, *(index for index, _ in self.slot.rows)]
        return {index[i] for index in read if i < len(index)}

    def _plain(self, i: int) -> set[str]:
        """Names of the positions that index the axis as they are."""
        return {e.name for e in self._indices(i) if isinstance(e, Index) and e.name in _STREAM}


_STREAM = {"b": "B", "h": "Hq", "q_idx": "Sq", "kv_idx": "Skv"}

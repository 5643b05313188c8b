"""Traced values: a Python callable run on them leaves its formula behind.

`Traced` is one number or truth value for each (b, h, q_idx, kv_idx), `Captured` a tensor that is
indexed step by step (`table[i][j]` is `table[i, j]`), `Vector` a few traced numbers side by side.
Nothing here knows torch; `attngen.flex.proxy` teaches these classes its functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from attngen.core.dtype import Dtype
from attngen.frontend.mistake import wrong
from attngen.frontend.trace_operators import Operators
from attngen.frontend.trace_ops import FUNCTIONS, masked_bits, numeric
from attngen.frontend.trace_place import place
from attngen.ir import build
from attngen.ir.expr import Axes, Cast, Const, Dot, Expr, Index, Kind, Load, Row, Side

WIDEST = 64  # entries of a row that is written out


@dataclass
class Slot:
    """A tensor the callables read.

    alike: for each axis the axes of the streams that have its size ("B", "Hq", "Sq", "Skv");
    reads: the indices of each element read, in order; rows: of each whole row, with its side;
    fixed: axes whose size the trace relied on; buckets: whether the last axis is a table, whose
    size is part of the kernel.
    """

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    alike: tuple[frozenset[str], ...] = ()
    sorted: bool = False
    reads: list[tuple[Expr, ...]] = field(default_factory=list)
    rows: list[tuple[tuple[Expr, ...], Side]] = field(default_factory=list)
    fixed: set[int] = field(default_factory=set)
    buckets: bool = False

    @property
    def kind(self) -> Kind:
        """What an element is."""
        if self.dtype is Dtype.BOOL:
            return "bool"
        return "int" if self.dtype.is_integer else "float"


def apply(name: str, *args: Any) -> Any:
    """A function of `FUNCTIONS` on traced values, vectors and plain numbers."""
    args = tuple(read(a) for a in args)
    vectors = [a for a in args if isinstance(a, Vector)]
    if vectors:
        width = max(len(v.items) for v in vectors)
        rows = [a.items if isinstance(a, Vector) else (a,) * width for a in args]
        return Vector(tuple(apply(name, *row) for row in zip(*rows, strict=True)))
    traced = next(a for a in args if isinstance(a, Traced))
    return traced.like(FUNCTIONS[name](*(lift(a) for a in args)))


def read(value: Any) -> Any:
    """A captured tensor read at all its axes is a number, at all but one a vector."""
    return value.value() if isinstance(value, Captured) else value


def lift(value: Any) -> Expr:
    """The expression of a traced value or a Python number."""
    if isinstance(value, Traced):
        return value.expression
    if isinstance(value, Captured):
        return lift(value.value())
    if isinstance(value, bool | int | float):
        if isinstance(value, float) and math.isnan(value):
            raise wrong("E133", "the callable uses NaN", place(), "not a number", "use `-inf`")
        return Const(value)
    kind = type(value).__name__
    raise wrong(
        "E131",
        f"found a {kind} in the formula, expected a number, a position or an element of a tensor",
        place(),
        f"a {kind} has no place in a kernel",
        "index it down to one element: `table[q_idx]`",
    )


class Operated(Operators):
    """The operators, bound to what they do."""

    def operation(self, name: str, *args: Any) -> Any:
        """A function of traced values by its name."""
        match name:
            case "bits_and" | "bits_or" | "bits_xor":
                return bitwise(name.removeprefix("bits_"), *args)
            case "invert":
                return invert(*args)
            case "lshift" | "rshift":
                return shift(args[0], args[1], 1 if name == "lshift" else -1)
        return apply(name, *args)


@dataclass(eq=False)
class Traced(Operated):
    """One number or truth value per position."""

    expression: Expr
    names: dict[Expr, str] = field(default_factory=dict, repr=False)

    def like(self, expression: Expr) -> Traced:
        """Another value of the same trace."""
        return type(self)(expression, self.names)


@dataclass(eq=False)
class Vector(Operated):
    """A few traced numbers side by side: a row of a captured tensor, written out."""

    items: tuple[Any, ...]

    def fold(self, name: str) -> Any:
        """All entries joined by one operation, left to right."""
        total = self.items[0]
        for item in self.items[1:]:
            total = apply(name, total, item)
        return total

    def any(self, dim: int = -1, keepdim: bool = False) -> Any:
        """Whether an entry is true."""
        return self.fold("or")

    def all(self, dim: int = -1, keepdim: bool = False) -> Any:
        """Whether every entry is true."""
        return self.fold("and")

    def sum(self, dim: int = -1, keepdim: bool = False) -> Any:
        """The sum of the entries."""
        return self.fold("add")

    def __getitem__(self, i: int) -> Any:
        return self.items[i]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


@dataclass(eq=False)
class Captured(Operated):
    """A captured tensor, indexed along its first axes; make: builds traced values."""

    slot: Slot
    make: Callable[[Expr], Traced]
    index: tuple[Expr, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes not indexed yet; the trace relies on what it is told."""
        done = len(self.index)
        self.slot.fixed.update(range(done, len(self.slot.shape)))
        return self.slot.shape[done:]

    def __getitem__(self, index: Any) -> Any:
        written = index if isinstance(index, tuple) else (index,)
        done = list(self.index)
        for i in written:
            if len(done) == len(self.slot.shape):
                raise self._indices(len(written) + len(self.index))
            done.append(self._one(len(done), i))
        found = Captured(self.slot, self.make, tuple(done))
        return found.value() if len(done) == len(self.slot.shape) else found

    def _one(self, axis: int, i: Any) -> Expr:
        if isinstance(i, bool) or not isinstance(i, int | Traced | Captured):
            raise wrong(
                "E132",
                f"`{self.slot.name}` is indexed with {_kind(i)}",
                place(),
                "expected whole numbers: positions, constants, elements of whole-number tensors",
                "give each axis one index, such as `table[b, h, q_idx, kv_idx]`",
            )
        if isinstance(i, int) and i < 0:
            self.slot.fixed.add(axis)
            i += self.slot.shape[axis]
        e = lift(i)
        if e.kind != "int":
            raise wrong(
                "E132",
                f"`{self.slot.name}` is indexed with a "
                + ("truth value" if e.kind == "bool" else "real number"),
                place(),
                "expected a whole number",
                "write `.to(torch.int32)`, or `//` for `/`",
            )
        return e

    def row(self) -> Row | None:
        """The row along the last axis at the current position, if it is one."""
        slot, last = self.slot, len(self.slot.shape) - 1
        sides = {"q_idx": (Side.QUERY, "Sq"), "kv_idx": (Side.KEY, "Skv")}
        at = self.index[-1] if len(self.index) == last and last else None
        side, name = sides.get(at.name if isinstance(at, Index) else "", (Side.QUERY, ""))
        if slot.kind != "float" or name not in slot.alike[last - 1]:
            return None
        lead = zip(self.index[:-1], slot.alike, slot.shape, strict=False)
        if not all(_leads(i, names, size) for i, names, size in lead):
            return None
        slot.rows.append((self.index, side))
        slot.fixed.update(range(len(slot.shape)))
        return Row(slot.name, side, slot.shape[-1], 0)

    def _indices(self, count: int) -> Exception:
        rank = len(self.slot.shape)
        return wrong(
            "E132",
            f"`{self.slot.name}` has {rank} axes, found {count} indices",
            place(),
            "too many indices",
            f"give it {rank}",
        )

    def value(self) -> Any:
        """The element, or the row along the last axis written out."""
        left = len(self.slot.shape) - len(self.index)
        if left == 0:
            if self.index not in self.slot.reads:
                self.slot.reads.append(self.index)
            return self.make(Load(self.slot.name, self.index, self.slot.kind))
        if left > 1 or self.slot.shape[-1] > WIDEST:
            raise wrong(
                "E132",
                f"`{self.slot.name}` has {len(self.slot.shape)} axes, found"
                f" {len(self.index)} indices",
                place(),
                "expected one element, or a row of at most 64",
                "give each axis one index",
            )
        self.slot.fixed.add(len(self.slot.shape) - 1)
        return Vector(tuple(self[i] for i in range(self.slot.shape[-1])))


def bitwise(name: str, a: Any, b: Any) -> Any:
    """`&`, `|`, `^`: on truth values, or `& constant` with one run of ones on whole numbers."""
    a, b = read(a), read(b)
    if isinstance(a, Vector) or isinstance(b, Vector):
        return apply(name, a, b)
    x, y = lift(a), lift(b)
    if x.kind == y.kind == "bool":
        return apply(name, a, b)
    if name == "and" and x.kind == "int" and isinstance(y, Const) and y.kind == "int":
        masked = masked_bits(x, int(y.value))
        if masked is not None:
            return a.like(masked)
    raise wrong(
        "E131",
        "bits of whole numbers are combined, which no kernel of attngen does",
        place(),
        "expected truth values on both sides",
        "compare first, `(a > 0) & (b > 0)`; bit tricks: capture a table and index it",
    )


def invert(a: Any) -> Any:
    """`~` of a truth value; of a whole number, -a - 1."""
    a = read(a)
    if isinstance(a, Traced) and a.expression.kind == "int":
        return apply("sub", apply("neg", a), 1)
    return apply("not", a)


def shift(a: Any, places: Any, direction: int) -> Any:
    """`<<` and `>>` by a constant, as a product or a quotient rounded down."""
    a = read(a)
    if not isinstance(places, int) or not 0 <= places < 31 or lift(a).kind != "int":
        raise wrong(
            "E131",
            "only whole numbers are shifted, by a constant from 0 to 30",
            place(),
            "cannot be traced",
            "multiply, or divide with `//`",
        )
    return apply("mul" if direction > 0 else "floordiv", a, 1 << places)


def clamp(x: Any, low: Any = None, high: Any = None) -> Any:
    """A number drawn into [low, high]."""
    x = x if low is None else apply("max", x, low)
    return x if high is None else apply("min", x, high)


def cast(x: Any, kind: Kind) -> Any:
    """Conversion by kind: real numbers are cut towards zero, numbers compare with zero."""
    x = read(x)
    e = lift(x)
    if kind == "bool":
        return apply("ne", x, 0) if e.kind != "bool" else x
    if kind == "float":
        return x if e.kind == "float" else apply("div", x, 1)
    if e.kind == "float":
        return x.like(Cast(FUNCTIONS["trunc"](e), "i32"))
    return x.like(numeric(e))


def dot(a: Any, b: Any) -> Any:
    """Sum of products of two rows: a tile product where both are rows of the current position."""
    rows = [x.row() if isinstance(x, Captured) else None for x in (a, b)]
    if rows[0] is not None and rows[1] is not None:
        return a.make(Dot(rows[0], rows[1]))
    left, right = read(a), read(b)
    return Vector(tuple(apply("mul", x, y) for x, y in zip(left, right, strict=True))).fold("add")


def positions(make: Callable[[Expr], Traced], query: str = "q_idx") -> tuple[Traced, ...]:
    """What a callable gets as b, h, q_idx and kv_idx; query: the query's, counted as wanted."""
    return tuple(make(Index(name)) for name in ("b", "h", query, "kv_idx"))


def _leads(i: Expr, names: frozenset[str], size: int) -> bool:
    """Whether an index in front of a row is the one the row has anyway."""
    if isinstance(i, Index):
        return {"b": "B", "h": "Hq"}.get(i.name, "") in names
    return size == 1 and (build.is_number(i, 0) or Axes.TILE & i.axes == Axes.NONE)


def _kind(i: Any) -> str:
    if isinstance(i, slice):
        return "a slice"
    return "`None`" if i is None else "`...`" if i is ... else f"a {type(i).__name__}"

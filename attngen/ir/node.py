"""What every expression is: a frozen, hash-consed node that knows its axes, feature and kind.

Equal nodes are the same object, so equality is `is`, common subexpressions are shared by
construction, and "the same dot" needs no search. Idea of levels and hash-consing: docs/adr/0001.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias
from weakref import WeakValueDictionary

Kind: TypeAlias = Literal["bool", "int", "float"]
Extent: TypeAlias = "str | int"  # a feature axis: its name in the spec ("D"), or its size


class Axes(enum.Flag):
    """Positions a value varies along: the first four in attention, TIME only in recurrences."""

    NONE = 0
    BATCH = enum.auto()
    HEAD = enum.auto()
    QUERY = enum.auto()
    KEY = enum.auto()
    TIME = enum.auto()
    TILE = QUERY | KEY


class Side(enum.Enum):
    """Which position a stream's row belongs to."""

    QUERY = "query"
    KEY = "key"
    TIME = "time"

    @property
    def axis(self) -> Axes:
        """The axis a row of this side varies along."""
        return {Side.QUERY: Axes.QUERY, Side.KEY: Axes.KEY, Side.TIME: Axes.TIME}[self]


class _Interned(type):
    """Makes equal nodes one object: `Cls(*args)` returns the node already built from `args`."""

    _table: ClassVar[WeakValueDictionary[tuple[Any, ...], Any]] = WeakValueDictionary()

    def __call__(cls, *args: Any) -> Any:
        # 1, 1.0 and True are equal in Python but are different constants
        key = (cls, *args, *(type(a) for a in args))
        node = _Interned._table.get(key)
        if node is None:
            node = _Interned._table.setdefault(key, super().__call__(*args))
        return node


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Node(metaclass=_Interned):
    """Base of all expressions. Do not instantiate.

    axes: positions the value varies along; feature: extent of its feature axis, or None for a
    number; kind: what the number is.
    """

    axes: Axes = field(init=False, repr=False)
    feature: Extent | None = field(init=False, repr=False)
    kind: Kind = field(init=False, repr=False)

    def _facts(self, axes: Axes, feature: Extent | None, kind: Kind) -> None:
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "feature", feature)
        object.__setattr__(self, "kind", kind)

    @property
    def level(self) -> Axes:
        """`axes` without batch and head: NONE scalar, QUERY row, KEY column, TILE both."""
        return self.axes & Axes.TILE

"""Which axes of a tile a value has, and how it is spread over the others.

A frame says what the rows and the columns of a score tile stand for. In the `tile` form a program
owns query positions of one head; in the `split` form (decode) its rows are (query, head of the
group) pairs and the tile is held as [keys, rows].
"""

from __future__ import annotations

from dataclasses import dataclass

from attngen.ir.expr import Axes, Expr, Index
from attngen.ir.walk import walk

SCALAR, ROW, COLUMN, TILE = "", "q", "k", "qk"


@dataclass(frozen=True)
class Frame:
    """rows: axes that vary along the rows of a tile; keys_first: a tile is [keys, rows]."""

    rows: Axes = Axes.QUERY
    keys_first: bool = False

    def shape(self, e: Expr) -> str:
        """SCALAR, ROW, COLUMN or TILE.

        Where heads vary along the rows they share a head of the keys: rows of keys and `h_kv` are
        the same for all of them, and only what reads `h` is not.
        """
        along = e.axes & self.rows
        if along == Axes.HEAD and not any(x is Index("h") for x in walk(e)):
            along = Axes.NONE
        row = ROW if along else SCALAR
        return row + (COLUMN if e.axes & Axes.KEY else SCALAR)

    def join(self, *shapes: str) -> str:
        """The least shape that holds all of them."""
        return "".join(letter for letter in TILE if any(letter in s for s in shapes))

    def spread(self, text: str, shape: str, target: str) -> str:
        """`text` indexed so that a value of `shape` broadcasts against `target`."""
        if shape in (target, SCALAR) or target != TILE:
            return text
        first = (shape == ROW) != self.keys_first
        return f"{text}[:, None]" if first else f"{text}[None, :]"

    @property
    def keys_axis(self) -> int:
        """Tensor dimension of a score tile along which keys are reduced."""
        return 0 if self.keys_first else 1

    def spread_row(self, text: str) -> str:
        """A row vector against an accumulator of rows ([rows, width], or [width, rows])."""
        return f"{text}[None, :]" if self.keys_first else f"{text}[:, None]"

"""Straight-line code: which sub-expressions get a name, and where they are computed.

Each value is computed at the outermost place its axes allow: scalars and rows once per program,
columns and tiles once per step of the loop over keys. A value gets a name when it is loaded, is a
product of rows, is used twice, is computed further out than its user, or was named by the user.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from attngen.backend.triton.layout import Chunk, Layout
from attngen.backend.triton.names import Names
from attngen.backend.triton.printer import MUL, Printer
from attngen.backend.triton.shape import COLUMN, ROW, SCALAR, TILE
from attngen.ir import build
from attngen.ir.expr import Const, Dot, Expr, Index, Load, Reduced, Row, Side, Size, Unary, children
from attngen.ir.walk import walk

_SUFFIX = {SCALAR: "", ROW: "_q", COLUMN: "_k", TILE: "_qk"}
_WISH = {SCALAR: "factor", ROW: "row_term", COLUMN: "column", TILE: "t"}


@dataclass
class Binder:
    """Collects lines per shape.

    printer: prints and remembers names; layout: chunks of rows; user: names from the spec;
    tiles: text of each chunk of a row tensor; precision: argument text of fp32 products; known: the
    names of the chunks of rows that are in registers already.
    sections: lines at SCALAR, ROW, COLUMN and TILE.
    """

    printer: Printer
    names: Names
    layout: Layout
    user: Mapping[Expr, str]
    tiles: Mapping[tuple[str, int], str]
    precision: str = ""
    known: dict[Expr, Sequence[str]] = field(default_factory=dict)
    sections: dict[str, list[str]] = field(
        default_factory=lambda: {s: [] for s in (SCALAR, ROW, COLUMN, TILE)}
    )
    uses: Counter[Expr] = field(default_factory=Counter)
    key_tiles: dict[str, None] = field(default_factory=dict)
    query_tiles: dict[str, None] = field(default_factory=dict)

    def count(self, *roots: Expr) -> None:
        """Note how often each node is used, before anything is placed."""
        for e in walk(*roots):
            self.uses.update(children(e))
        self.uses.update(roots)

    def place(self, e: Expr, user_shape: str = TILE) -> None:
        """Make `e` printable in code of `user_shape`: bind what must have a name."""
        if e in self.printer.bound or isinstance(e, Const | Size):
            return
        if isinstance(e, Row):
            self._note_tile(e)
            return
        shape = self.printer.frame.shape(e)
        if isinstance(e, Dot):
            self._place_dot(e, shape)
            return
        for child in children(e):
            self.place(child, shape)
        if self._wants_name(e, shape, user_shape):
            self.bind(e, self._wish(e, shape))

    def bind(self, e: Expr, wish: str, shape: str | None = None) -> str:
        """Give `e` a name now, in its own section (or another one)."""
        where = self.printer.frame.shape(e) if shape is None else shape
        name = self.names.take(wish)
        self.sections[where].append(f"{name} = {self.printer.text(e)}")
        self.printer.bound[e] = name
        return name

    def _wants_name(self, e: Expr, shape: str, user_shape: str) -> bool:
        if isinstance(e, Index | Reduced):
            return False
        if isinstance(e, Load):
            return bool(e.index)  # a run-time scalar is a parameter already
        if e.feature is not None:
            return False
        if shape == SCALAR and not _costly(e):
            return False  # the compiler hoists scalar arithmetic by itself
        hoisted = shape != user_shape
        return hoisted or self.uses[e] > 1 or (shape == TILE and e in self.user)

    def _wish(self, e: Expr, shape: str) -> str:
        if e in self.user and not isinstance(e, Load):
            return self.user[e]
        if isinstance(e, Load):
            return e.tensor + _SUFFIX[shape]
        loads = [x for x in walk(e) if isinstance(x, Load)]
        if shape == SCALAR and len(loads) == 1:
            return f"{loads[0].tensor}_scaled"
        return _WISH[shape]

    def note_rows(self, e: Expr) -> None:
        """Have the row tensors an expression reads loaded."""
        for x in walk(e):
            if isinstance(x, Row):
                self._note_tile(x)

    def _note_tile(self, row: Row) -> None:
        (self.key_tiles if row.side is Side.KEY else self.query_tiles)[row.tensor] = None

    # --- rows with a feature axis ---------------------------------------------------------------
    def chunks(self, e: Expr) -> tuple[Chunk, ...]:
        """How the feature axis of `e` is cut."""
        return self.layout.chunks(e)

    def row_texts(self, e: Expr, wish: str = "rows") -> list[str]:
        """A name per chunk of a row-valued expression, in the dtype of its first tensor."""
        self.note_rows(e)
        if isinstance(e, Row):
            return [self.tiles[e.tensor, c.start] for c in self.chunks(e)]
        if e in self.known:
            return list(self.known[e])
        shape = self.printer.frame.shape(e)
        self._place_numbers(e, shape)
        out = []
        for i, text in enumerate(self.chunk_texts(e)):
            name = self.names.take(wish if len(self.chunks(e)) == 1 else f"{wish}_{i}")
            self.sections[shape].append(f"{name} = ({text}).to({self._operand(e, i)}.dtype)")
            out.append(name)
        return out

    def _operand(self, e: Expr, i: int) -> str:
        """A tile whose dtype a computed row takes: that of the first row it is computed from."""
        known = next((x for x in walk(e) if x in self.known), None)
        if known is not None:
            return self.known[known][i]
        first = next(x for x in walk(e) if isinstance(x, Row))
        return self.tiles[first.tensor, self.chunks(first)[i].start]

    def chunk_texts(
        self, e: Expr, reduced: Mapping[Expr, Sequence[str]] | None = None
    ) -> list[str]:
        """The text of a row-valued expression, chunk by chunk; numbers in it must be printable."""
        below = set(walk(e))
        known = {x: [f"{t}.to(tl.float32)" for t in texts] for x, texts in self.known.items()}
        reduced = {x: texts for x, texts in {**known, **(reduced or {})}.items() if x in below}
        out = []
        rows = [x for x in below if isinstance(x, Row)]
        for i in range(len(self._count_chunks(e, reduced))):
            before = dict(self.printer.bound)
            for row in rows:
                tile = self.tiles[row.tensor, self.chunks(row)[i].start]
                self.printer.bound[row] = f"{tile}.to(tl.float32)"
            for node, texts in reduced.items():
                self.printer.bound[node] = texts[i]
            out.append(self.printer.text(e))
            self.printer.bound = before
        return out

    def _count_chunks(self, e: Expr, reduced: Mapping[Expr, Sequence[str]]) -> Sequence[object]:
        return next(iter(reduced.values()), None) or self.chunks(e)

    def _place_numbers(self, e: Expr, shape: str) -> None:
        for child in children(e):
            if child.feature is None:
                self.place(child, shape)
            else:
                self._place_numbers(child, shape)

    def _place_dot(self, e: Dot, shape: str) -> None:
        name = self.names.take(self.user.get(e, "s" if shape == TILE else f"dot{_SUFFIX[shape]}"))
        if e.a.feature is None or e.b.feature is None:  # a number times each column: a row's sum
            row = build.mul(e.a, e.b)
            self.note_rows(row)
            self._place_numbers(row, shape)
            parts = [f"tl.sum({text}, 1)" for text in self.chunk_texts(row)]
            self.sections[shape].append(f"{name} = {' + '.join(parts)}")
            self.printer.bound[e] = name
            return
        a, b = self.row_texts(e.a, "left"), self.row_texts(e.b, "right")
        if shape == TILE:
            keys_left = self.printer.frame.shape(e.a) == COLUMN
            if keys_left != self.printer.frame.keys_first:
                a, b = b, a
            lines = _tile_dot(name, a, b, self.precision)
        else:
            lines = _flat_dot(name, a, b)
        self.sections[shape] += lines
        self.printer.bound[e] = name

    def product(self, e: Expr, at: int = MUL) -> str:
        """Text of a number to be used as a factor."""
        return self.printer.text(e, at)


def _tile_dot(name: str, a: list[str], b: list[str], precision: str) -> list[str]:
    lines = [f"{name} = tl.dot({a[0]}, {b[0]}.T{precision})"]
    pairs = zip(a[1:], b[1:], strict=True)
    return lines + [f"{name} = tl.dot({x}, {y}.T, {name}{precision})" for x, y in pairs]


def _flat_dot(name: str, a: list[str], b: list[str]) -> list[str]:
    parts = [
        f"tl.sum({x}.to(tl.float32) * {y}.to(tl.float32), 1)" for x, y in zip(a, b, strict=True)
    ]
    return [f"{name} = {' + '.join(parts)}"]


def _costly(e: Expr) -> bool:
    """Whether a scalar is worth a name: it reads memory or calls a function."""
    return any(isinstance(x, Unary) or (isinstance(x, Load) and x.index) for x in walk(e))

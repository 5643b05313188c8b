"""Row limits: the mask of a partial tile as one or two compares of a column with a row vector."""

from __future__ import annotations

from dataclasses import dataclass

from attngen.backend.triton.index_printer import IndexPrinter, NoScalarForm
from attngen.backend.triton.inputs import Inputs
from attngen.backend.triton.names import Names
from attngen.backend.triton.shape import COLUMN, ROW, TILE, Frame
from attngen.ir import index as ix
from attngen.ir import index_build as ib
from attngen.ir.maskplan import MaskPlan

Q, K, Q_POS = ix.var("q"), ix.var("k"), ix.var("q_pos")
Q_LEN, KV_LEN = ix.var("q_len"), ix.var("kv_len")


@dataclass(frozen=True)
class Owner:
    """The side a program owns a tile of, and the names of that tile in its kernel.

    position: the index variable; vector: its positions; first, stop: scalars of the tile's ends;
    begin, end: the same as index variables; inside: which positions exist; length: of the side;
    other: positions of the loop's side.
    """

    position: ix.Poly
    vector: str
    first: str
    stop: str
    begin: ix.Poly
    end: ix.Poly
    inside: str
    length: str
    other: str
    shape: str


QUERIES = Owner(
    Q, "q_idx", "row0", "row1", ix.var("q0"), ix.var("q1"), "inside", "q_len", "kv_idx", ROW
)
KEYS = Owner(
    K, "kv_idx", "col0", "col1", ix.var("k0"), ix.var("k1"), "live", "kv_len", "q_idx", COLUMN
)


class Runs:
    """Starts and ends of runs of equal elements (documents), for the positions of a tile.

    One search per tile finds the run of its first (last) position; the others follow from where the
    elements change inside the tile.
    """

    def __init__(
        self, inputs: Inputs, names: Names, helpers: set[str], owner: Owner = QUERIES
    ) -> None:
        self.inputs, self.names, self.helpers, self.owner = inputs, names, helpers, owner
        self.lines: list[str] = []
        self._known: dict[tuple[str, str], tuple[str, str]] = {}

    def _find(self, term: ix.FirstGe) -> tuple[str, str]:
        """(scalar at the tile's end, vector over its positions)."""
        kind, _ = term.run or ("run_start", Q)
        key = (kind, term.row.row)
        if key in self._known:
            return self._known[key]
        lead = []
        for p in term.row.index[:-1]:
            if not isinstance(p.term, ix.Var):
                raise NoScalarForm(str(term))
            lead.append(p.term.name)
        row = self.inputs.address(term.row.tensor, tuple(lead))
        self.helpers |= {"first_ge", kind}
        self._known[key] = self._search(kind, term.row.tensor, row)
        return self._known[key]

    def _search(self, kind: str, tensor: str, row: str) -> tuple[str, str]:
        o = self.owner
        if kind == "run_start":
            one, many = self.names.take(f"{tensor}_start"), self.names.take(f"{tensor}_starts")
            self.lines.append(f"{one} = first_ge({row}, tl.load({row} + {o.first}), {o.first} + 1)")
        else:
            one, many = self.names.take(f"{tensor}_end"), self.names.take(f"{tensor}_ends")
            last = f"tl.load({row} + {o.stop} - 1) + 1"
            self.lines.append(f"{one} = first_ge({row}, {last}, {o.length})")
        self.lines.append(f"{many} = {kind}s({row}, {o.vector}, {o.inside}, {one})")
        return one, many

    def scalar(self, term: ix.FirstGe) -> str | None:
        """At the first or last position of the tile; None elsewhere."""
        if term.run is None or term.run[1] not in (self.owner.begin, self.owner.end - 1):
            return None
        kind, position = term.run
        one, many = self._find(term)
        if kind == "run_start":
            return one if position is self.owner.begin else f"tl.max({many}, 0)"
        return one if position is not self.owner.begin else f"tl.min({many}, 0)"

    def vector(self, term: ix.FirstGe) -> str | None:
        """Of every position of the tile; None for another search."""
        if term.run is None or term.run[1] is not self.owner.position:
            return None
        return self._find(term)[1]


@dataclass
class Limits:
    """Prints `keep` of a partial tile from the limits of the positions a program owns.

    printer: with the owner's position as its vector; lines: gets the vectors of the limits;
    untested: an upper limit that need not be tested.
    """

    plan: MaskPlan
    printer: IndexPrinter
    frame: Frame
    names: Names
    lines: list[str]
    owner: Owner = QUERIES
    untested: ix.Poly | None = None

    def keep(self) -> str | None:
        """The condition; None where the formula of the mask is needed."""
        way = self.plan.forward if self.owner is QUERIES else self.plan.transposed
        if len(way.row) != 1 or way.leftovers or self.plan.needs:
            return None
        before = len(self.lines)
        try:
            low, high = without(way.row[0].lo, ix.number(0), "max"), way.row[0].hi
            conditions = []
            if low is not None and low.constant != 0:
                conditions.append(self._compare(low, ">=", "first"))
            if high is not self.untested:
                conditions.append(self._compare(high, "<", "end"))
        except NoScalarForm:
            del self.lines[before:]
            return None
        if not conditions:
            return None
        if len(conditions) == 1:
            return conditions[0].removeprefix("(").removesuffix(")")
        return " & ".join(conditions)

    def _compare(self, p: ix.Poly, sign: str, wish: str) -> str:
        o = self.owner
        other = self.frame.spread(o.other, COLUMN if o.shape == ROW else ROW, TILE)
        names = (("q", "q_idx"), ("q_pos", "q_pos")) if o is QUERIES else (("k", "kv_idx"),)
        if o is QUERIES:
            p = _from_position(p)
        if not any(name in p.names for name, _ in names):
            return f"({other} {sign} {self.printer.text(p)})"
        for name, vector in names:
            own = self.frame.spread(vector, o.shape, TILE)
            if sign == "<" and p is ix.var(name) + 1:
                return f"({other} <= {own})"
            if sign == ">=" and p is ix.var(name):
                return f"({other} >= {own})"
        text = self.printer.text(p)
        if not text.isidentifier():
            name = self.names.take(f"{wish}_{'key' if o is QUERIES else 'query'}")
            self.lines.append(f"{name} = {text}")
            text = name
        return f"({other} {sign} {self.frame.spread(text, o.shape, TILE)})"


def _from_position(p: ix.Poly) -> ix.Poly:
    """The limit written with q_pos = q + kv_len - q_len where that is shorter."""
    other = ib.substitute(p, "q", Q_POS - KV_LEN + Q_LEN)
    return other if isinstance(other, ix.Poly) and len(str(other)) < len(str(p)) else p


def without(p: ix.Poly, value: ix.Poly, kind: ix.Kind) -> ix.Poly | None:
    """An extreme without one of its arguments."""
    if isinstance(p.term, ix.Extreme) and p.term.kind == kind and value in p.term.args:
        rest = [a for a in p.term.args if a is not value]
        return ib.extreme(kind, rest)
    return p

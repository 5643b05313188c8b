"""Row limits: the mask of a partial tile as one or two compares of a column with a row vector."""

from __future__ import annotations

from attngen.backend.triton.index_printer import IndexPrinter, NoScalarForm
from attngen.backend.triton.inputs import Inputs
from attngen.backend.triton.names import Names
from attngen.backend.triton.shape import COLUMN, ROW, TILE, Frame
from attngen.ir import index as ix
from attngen.ir import index_build as ib
from attngen.ir.maskplan import MaskPlan

Q, Q0, Q1, Q_POS = ix.var("q"), ix.var("q0"), ix.var("q1"), ix.var("q_pos")
Q_LEN, KV_LEN = ix.var("q_len"), ix.var("kv_len")


class Runs:
    """Starts and ends of runs of equal elements (documents), for the rows of a tile.

    One search per tile finds the run of its first (last) row; the others follow from where the
    elements change inside the tile.
    """

    def __init__(self, inputs: Inputs, names: Names, helpers: set[str]) -> None:
        self.inputs, self.names, self.helpers = inputs, names, helpers
        self.lines: list[str] = []
        self._known: dict[tuple[str, str], tuple[str, str]] = {}

    def _find(self, term: ix.FirstGe) -> tuple[str, str]:
        """(scalar at the tile's end, vector over its rows)."""
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
        tensor = term.row.tensor
        if kind == "run_start":
            one, many = self.names.take(f"{tensor}_start"), self.names.take(f"{tensor}_starts")
            self.lines.append(
                f"{one} = first_ge({row}, tl.load({row} + row0), row0 + 1)  # of the first query"
            )
        else:
            one, many = self.names.take(f"{tensor}_end"), self.names.take(f"{tensor}_ends")
            self.lines.append(f"{one} = first_ge({row}, tl.load({row} + row1 - 1) + 1, kv_len)")
        self.lines.append(f"{many} = {kind}s({row}, q_idx, inside, {one})  # [queries]")
        self._known[key] = one, many
        return one, many

    def scalar(self, term: ix.FirstGe) -> str | None:
        """At the first or last row of the tile; None elsewhere."""
        if term.run is None or term.run[1] not in (Q0, Q1 - 1):
            return None
        kind, position = term.run
        one, many = self._find(term)
        if kind == "run_start":
            return one if position is Q0 else f"tl.max({many}, 0)"
        return one if position is not Q0 else f"tl.min({many}, 0)"

    def vector(self, term: ix.FirstGe) -> str | None:
        """Of every row of the tile; None for another search."""
        if term.run is None or term.run[1] is not Q:
            return None
        return self._find(term)[1]


def row_keep(
    plan: MaskPlan, printer: IndexPrinter, frame: Frame, names: Names, lines: list[str]
) -> str | None:
    """`keep` from the limits of one row, bound in `lines`; None where a formula is needed.

    printer: with `q` as the vector of queries.
    """
    way = plan.forward
    if len(way.row) != 1 or way.leftovers or plan.needs:
        return None
    bound: list[str] = []
    try:
        low, high = _without(way.row[0].lo, ix.number(0), "max"), way.row[0].hi
        conditions = []
        if low is not None and low.constant != 0:
            conditions.append(_compare(low, ">=", "first_key", printer, frame, names, bound))
        conditions.append(_compare(high, "<", "end_key", printer, frame, names, bound))
    except NoScalarForm:
        return None
    lines += bound
    return (
        " & ".join(conditions)
        if len(conditions) > 1
        else conditions[0].removeprefix("(").removesuffix(")")
    )


def _compare(
    p: ix.Poly,
    sign: str,
    wish: str,
    printer: IndexPrinter,
    frame: Frame,
    names: Names,
    lines: list[str],
) -> str:
    column = frame.spread("kv_idx", COLUMN, TILE)
    p = _from_position(p)
    if "q" not in p.names and "q_pos" not in p.names:
        return f"({column} {sign} {printer.text(p)})"
    for position, name in ((Q, "q_idx"), (Q_POS, "q_pos")):
        if sign == "<" and p is position + 1:
            return f"({column} <= {frame.spread(name, ROW, TILE)})"
    text = printer.text(p)
    if not text.isidentifier():
        name = names.take(wish)
        lines.append(f"{name} = {text}  # [queries]")
        text = name
    return f"({column} {sign} {frame.spread(text, ROW, TILE)})"


def _from_position(p: ix.Poly) -> ix.Poly:
    """The limit written with q_pos = q + kv_len - q_len where that is shorter."""
    other = ib.substitute(p, "q", Q_POS - KV_LEN + Q_LEN)
    return other if isinstance(other, ix.Poly) and len(str(other)) < len(str(p)) else p


def _without(p: ix.Poly, value: ix.Poly, kind: ix.Kind) -> ix.Poly | None:
    """An extreme without one of its arguments."""
    if isinstance(p.term, ix.Extreme) and p.term.kind == kind and value in p.term.args:
        rest = [a for a in p.term.args if a is not value]
        return ib.extreme(kind, rest)
    return p

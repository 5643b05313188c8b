"""Expressions of one pair (query, key) as text over `ops` and `at`; index expressions too."""

from __future__ import annotations

from attngen.backend.cute.split import ANCHOR
from attngen.backend.triton.index_printer import IndexPrinter, NoScalarForm
from attngen.backend.triton.printer import ATOM, LOG2E, MUL, OR, UNARY, Printer, unbound
from attngen.backend.triton.shape import Frame
from attngen.core.dtype import Dtype
from attngen.ir import index as ix
from attngen.ir.attention import Attention
from attngen.ir.expr import COMPARE, Binary, Cast, Const, Expr, Index, Load, Unary, Where
from attngen.passes.interval import interval

_FLOAT = {"exp", "exp2", "log", "log2", "sqrt", "rsqrt", "tanh", "sigmoid", "silu", "softplus"}
_TILE = ("b", "h", "h_kv", "q_len", "kv_len")  # attributes of `at`


class Scalars(Frame):
    """Every value is a number of one pair: nothing is ever spread."""

    def shape(self, e: Expr) -> str:
        """No axes."""
        del e
        return ""


class PairPrinter(Printer):
    """Prints expressions of one pair.

    names: attribute of `at` for each tensor. Indices along queries and keys are the parameters
    `q_idx` and `kv_idx`, which are `ops.Position`s.
    """

    def __init__(self, attention: Attention, names: dict[str, str]) -> None:
        super().__init__(Scalars(), lambda e, _: self._load(e))
        self.attention, self.names = attention, names
        for name in _TILE:
            self.bound[Index(name)] = f"at.{name}"
        position = "q_idx" if attention.same_length else "at.position(q_idx)"
        self.bound[Index("q_pos")] = position

    def _load(self, e: Load) -> str:
        name = f"at.{self.names[e.tensor]}"
        tensor = self.attention.tensor(e.tensor)
        if not e.index:
            return f"({name} != 0)" if tensor.dtype is Dtype.BOOL else name
        index = [self._index(e, i, x) for i, x in enumerate(e.index)]
        text = f"ops.load({', '.join([name, *index])})"
        if ANCHOR in e.index:  # of another query than the row's own: it must not reach the row
            return f"ops.finite({text})"
        return f"({text} != 0)" if tensor.dtype is Dtype.BOOL else text

    def _index(self, e: Load, i: int, index: Expr) -> str:
        if index is Index("q_idx"):
            return "at.row(q_idx)"
        if index is Index("kv_idx"):
            return "at.key(kv_idx)"
        text = self.text(index)
        if isinstance(index, Index | Const):
            return text
        size = self.attention.tensor(e.tensor).axes[i].size
        low, high = interval(index)
        if size is not None and low >= 0 and high <= size - 1:
            return text
        last = f"at.{self.names[e.tensor]}.shape[{i}] - 1" if size is None else str(size - 1)
        return f"ops.minimum(ops.maximum({text}, 0), {last})"

    # ---- what differs from Triton's spelling ----------------------------------------------------
    def _operand(self, e: Expr, parent: Expr, at: int) -> str:
        if e.kind == "float" or not _wants_float(parent):
            return self.text(e, at)
        if isinstance(e, Const):
            return repr(float(e.value))
        return f"ops.real({self.text(e)})"

    def _float(self, e: Expr) -> str:
        return self.text(e) if e.kind == "float" else f"ops.real({self.text(e)})"

    def _body(self, e: Expr) -> tuple[str, int]:
        match e:
            case Cast(x=x):
                return self._cast(e, x)
            case Where(condition=c):
                arms = ", ".join([self.text(c), *(self._operand(x, e, OR) for x in (e.a, e.b))])
                return f"ops.select({arms})", ATOM
        return super()._body(e)

    def _cast(self, e: Cast, x: Expr) -> tuple[str, int]:
        if e.dtype == "f32":
            return (self.text(x, ATOM) if x.kind == "float" else f"ops.real({self.text(x)})"), ATOM
        if e.dtype in ("i32", "bool") and x.kind == e.kind:
            return self.text(x, ATOM), ATOM
        if e.dtype in ("bf16", "f16"):
            return f"ops.rounded({self._float(x)}, {e.dtype!r})", ATOM
        raise unbound(e)

    def _unary(self, e: Unary) -> tuple[str, int]:
        if e.op in _FLOAT:
            return f"ops.{e.op}({self._float(e.x)})", ATOM
        match e.op:
            case "recip":
                return f"ops.rcp({self._float(e.x)})", ATOM
            case "relu":
                return f"ops.maximum({self._float(e.x)}, 0.0)", ATOM
            case "abs":
                return f"ops.absolute({self.text(e.x)})", ATOM
            case "not":
                return f"ops.negated({self.text(e.x)})", ATOM
        raise unbound(e)

    def _binary(self, e: Binary) -> tuple[str, int]:
        match e.op:
            case "max" | "min":
                arms = ", ".join(self._operand(x, e, OR) for x in (e.a, e.b))
                return f"ops.{e.op}imum({arms})", ATOM
            case "pow":
                a, b = self._operand(e.a, e, OR), self._operand(e.b, e, MUL)
                return f"ops.exp2({b} * ops.log2({a}))", ATOM
            case "logaddexp":
                arms = ", ".join(self._operand(x, e, OR) for x in (e.a, e.b))
                return f"ops.logaddexp({arms})", ATOM
        return super()._binary(e)

    def _product(self, e: Binary) -> str:
        for x, y in ((e.b, e.a), (e.a, e.b)):
            if isinstance(x, Unary) and x.op == "recip" and x not in self.bound:
                # no division in a kernel: the reciprocal is a value of its own
                return f"{self._operand(y, e, MUL)} * {self._operand(x, e, UNARY)}"
        return super()._product(e)

    def _floor(self, e: Binary) -> tuple[str, int]:
        a, b = self.text(e.a), self.text(e.b)
        if interval(e.a)[0] >= 0 and interval(e.b)[0] >= 0:
            sign = "//" if e.op == "floordiv" else "%"
            return f"{self.text(e.a, MUL)} {sign} {self.text(e.b, UNARY)}", MUL
        name = "floor_div" if e.op == "floordiv" else "floor_mod"
        return f"ops.{name}({a}, {b})", ATOM


def _wants_float(parent: Expr) -> bool:
    if isinstance(parent, Binary) and parent.op in COMPARE:
        return "float" in (parent.a.kind, parent.b.kind)
    return parent.kind == "float"


class TilePrinter(IndexPrinter):
    """Bounds of a tile, and limits of its rows, over `at`.

    row: the name of the row, or None; runs: gets name and text of every row of sorted elements
    whose runs of equal elements a bound asks for.
    """

    minimum, maximum, where = "ops.minimum", "ops.maximum", "ops.select"
    floor_div, floor_mod = "ops.floor_div", "ops.floor_mod"

    def __init__(
        self,
        attention: Attention,
        names: dict[str, str],
        row: str | None = None,
        runs: dict[str, str] | None = None,
    ) -> None:
        self.runs = {} if runs is None else runs
        variables = {"q0": "at.row0", "q1": "at.row1"} | {n: f"at.{n}" for n in _TILE}
        variables |= {t.name: f"at.{names[t.name]}" for t in attention.tensors if t.is_scalar}
        if row is not None:
            variables["q"] = row
        self.names = names
        super().__init__(variables, self._address, self._element, lambda _: None, self._search)

    def _address(self, tensor: str, index: tuple[str, ...]) -> str:
        raise NoScalarForm(tensor)

    def _element(self, e: ix.Element, index: tuple[str, ...]) -> str:
        if "q" in e.names:
            index = tuple("at.row(q_idx)" if x == "q_idx" else x for x in index)
        return f"ops.load({', '.join([f'at.{self.names[e.tensor]}', *index])})"

    def _search(self, term: ix.FirstGe) -> str | None:
        """Where the run of equal elements of a query of the tile begins."""
        lead = [p.term.name for p in term.row.index[:-1] if isinstance(p.term, ix.Var)]
        if term.run is None or len(lead) + 1 != len(term.row.index) or not {*lead} <= {"b", "h"}:
            raise NoScalarForm(str(term))
        kind, position = term.run
        begin, end = ix.var("q0"), ix.var("q1") - 1
        ends = {begin: "first", end: "last"}
        if kind != "run_start" or (position is not ix.var("q") and position not in ends):
            raise NoScalarForm(str(term))
        name = f"{self.names[term.row.tensor]}_runs"
        row = ", ".join([*(f"at.{x}" for x in lead), "None"])
        self.runs[name] = f"at.{self.names[term.row.tensor]}[{row}]"
        if position is ix.var("q"):
            return f"at.{name}.of({self.variables['q']})"
        return f"at.{name}.{ends[position]}"


__all__ = ["LOG2E", "NoScalarForm", "PairPrinter", "TilePrinter"]

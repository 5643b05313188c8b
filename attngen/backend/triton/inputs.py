"""Captured inputs: scalars as parameters, tensors read at explicit indices.

Only the last axis must have stride 1. Index terms that do not vary inside the tile go into a base
pointer; an index that is not a plain position is clamped to its axis, so that an element under a
false condition is never read outside its tensor.
"""

from __future__ import annotations

from attngen.backend.triton.names import Names
from attngen.backend.triton.printer import ATOM, Printer
from attngen.backend.triton.shape import COLUMN, ROW, SCALAR, TILE
from attngen.backend.triton.tensors import POINTER, Parameters, Sizes
from attngen.backend.value import shape_of, stride_of, variable
from attngen.core.dtype import Dtype
from attngen.ir import index as ix
from attngen.ir.attention import Attention, Tensor
from attngen.ir.expr import Const, Expr, Index, Known, Load
from attngen.passes.interval import interval

_PLAIN = ("b", "h", "h_kv", "q_idx", "kv_idx")
_SCALARS = {Dtype.I32: "i32", Dtype.I64: "i64", Dtype.F32: "fp32", Dtype.BOOL: "i1"}


class Inputs:
    """Prints loads of captured tensors."""

    def __init__(
        self, attention: Attention, parameters: Parameters, names: Names, sizes: Sizes
    ) -> None:
        self.attention, self.parameters, self.names, self.sizes = (
            attention,
            parameters,
            names,
            sizes,
        )
        self.base_lines: list[str] = []
        self._bases: dict[tuple[str, str], str] = {}
        for t in attention.tensors:
            if t.is_scalar:  # a parameter of the kernel by its own name
                names.take(t.name)

    def scalar(self, own: str) -> str:
        """The parameter of a run-time scalar."""
        kind = _SCALARS.get(self.attention.tensor(own).dtype, "fp32")
        return self.parameters.add(own, kind, variable(own))

    def load(self, e: Load, printer: Printer) -> str:
        """Text of one element per position of the tile."""
        if not e.index:
            return self.scalar(e.tensor)
        t = self.attention.tensor(e.tensor)
        shape = printer.frame.shape(e)
        base, moving = self._split(t, e, printer)
        cells = " + ".join([base, *moving])
        mask = _mask(shape, printer)
        text = f"tl.load({cells}{mask + ', other=0' if mask else ''})"
        return f"{text}.to(tl.float32)" if t.dtype in (Dtype.F16, Dtype.BF16) else text

    def _split(self, t: Tensor, e: Load, printer: Printer) -> tuple[str, list[str]]:
        """Base pointer (terms that are scalars) and moving terms, spread to the load's shape."""
        shape = printer.frame.shape(e)
        fixed, moving = [], []
        for i, index in enumerate(e.index):
            own = printer.frame.shape(index)
            text = self.index(t, i, index, printer)
            if own == SCALAR:
                if not isinstance(index, Const) or index.value:
                    fixed.append(self._times_stride(t, i, text))
            else:
                term = self._times_stride(t, i, _atom(text))
                spread = printer.frame.spread(f"({term})" if " " in term else term, own, shape)
                moving.append(spread)
        return self._base(t, fixed), moving

    def index(self, t: Tensor, i: int, index: Expr, printer: Printer) -> str:
        """Text of one index of a read, inside its axis."""
        if t.packed and index is Index("q_idx"):
            return "(q_start + q_idx)"  # a number per row of the packed queries
        plain = isinstance(index, Index) and index.name in _PLAIN
        if plain or isinstance(index, Const | Known):  # a slot of a list is one of its slots
            return printer.text(index, ATOM)
        low, high = interval(index)
        size = t.axes[i].size
        if size is not None and low >= 0 and high <= size - 1:
            return printer.text(index, ATOM)
        last = (
            str(size - 1)
            if size is not None
            else self.parameters.add(f"{t.name}_size_{i}", "i32", shape_of(t.name, i)) + " - 1"
        )
        return f"tl.minimum(tl.maximum({printer.text(index)}, 0), {last})"

    def _times_stride(self, t: Tensor, i: int, text: str) -> str:
        if i == len(t.axes) - 1:
            return text
        step = self.parameters.add(f"{t.name}_stride_{i}", "i32", stride_of(t.name, i))
        if text.isdecimal():  # a literal has no .to
            return f"{text} * {step}"
        return f"{_atom(text)}.to(tl.int64) * {step}"

    def _base(self, t: Tensor, fixed: list[str]) -> str:
        pointer = self.parameters.add_array(f"{t.name}_ptr", POINTER[t.dtype], t.name)
        if not fixed:
            return pointer
        key = (t.name, " + ".join(fixed))
        if key not in self._bases:
            self._bases[key] = self.names.take(f"{t.name}_base")
            self.base_lines.append(f"{self._bases[key]} = {pointer} + {key[1]}")
        return self._bases[key]

    # --- scalars of a tile, for loop bounds -------------------------------------------------------
    def address(self, tensor: str, index: tuple[str, ...]) -> str:
        """Pointer to an element, or to a row when the last index is left out."""
        t = self.attention.tensor(tensor)
        lead = [
            self._times_stride(t, i, text)
            for i, text in enumerate(index[: len(t.axes) - 1])
            if text != "0"
        ]
        base = self._base(t, lead)
        return f"{base} + {index[-1]}" if len(index) == len(t.axes) else base

    def element(self, e: ix.Element, index: tuple[str, ...]) -> str:
        """One element as an i32 scalar."""
        text = f"tl.load({self.address(e.tensor, index)})"
        return (
            text if self.attention.tensor(e.tensor).dtype is Dtype.I32 else f"{text}.to(tl.int32)"
        )

    def row_element(self, e: ix.Element, index: tuple[str, ...]) -> str:
        """One element per row of the tile (its last index moves), or a scalar."""
        if "q" not in e.names:
            return self.element(e, index)
        text = f"tl.load({self.address(e.tensor, index)}, mask=inside, other=0)"
        return (
            text if self.attention.tensor(e.tensor).dtype is Dtype.I32 else f"{text}.to(tl.int32)"
        )

    def column_element(self, e: ix.Element, index: tuple[str, ...]) -> str:
        """One element per key of the tile, or a scalar."""
        if "k" not in e.names:
            return self.element(e, index)
        text = f"tl.load({self.address(e.tensor, index)}, mask=live, other=0)"
        return (
            text if self.attention.tensor(e.tensor).dtype is Dtype.I32 else f"{text}.to(tl.int32)"
        )

    def tile_extreme(
        self, e: ix.TileExtreme, begin: ix.Poly, end: ix.Poly, vector: str, inside: str
    ) -> str | None:
        """Least or greatest over the tile's own positions; None for any other span."""
        if e.lo is not begin or e.hi is not end - 1:
            return None
        lead = []
        for p in e.row.index[:-1]:
            if not isinstance(p.term, ix.Var):
                return None
            lead.append(p.term.name)
        pointer = self.address(e.row.tensor, tuple(lead))
        other = "-2147483648" if e.kind == "max" else "2147483647"
        return f"tl.{e.kind}(tl.load({pointer} + {vector}, mask={inside}, other={other}), 0)"

    def cells(self, t: Tensor, e: Load, printer: Printer) -> tuple[str, str]:
        """(pointers, mask) of one element of `t` per position of the tile, to store at."""
        base, moving = self._split(t, e, printer)
        mask = _mask(printer.frame.shape(e), printer).removeprefix(", mask=")
        return " + ".join([base, *moving]), mask


def _atom(text: str) -> str:
    return text if text.isidentifier() or text.endswith(")") else f"({text})"


def _mask(shape: str, printer: Printer) -> str:
    rows, columns = "inside", "(kv_idx < kv_len)"
    if shape == ROW:
        return ", mask=inside"
    if shape == COLUMN:
        return ", mask=kv_idx < kv_len"
    if shape == TILE:
        frame = printer.frame
        return f", mask={frame.spread(rows, ROW, TILE)} & {frame.spread(columns, COLUMN, TILE)}"
    return ""

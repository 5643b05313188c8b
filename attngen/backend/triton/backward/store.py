"""Where gradients go: arrays the host allocates, stores of a kernel, sums the host finishes.

A gradient whose index map names the launch axes is stored in place. One that leaves some out is
stored per (batch, head) and summed by the host; one without a position is summed per program first.
Every sum has a fixed order, so two runs give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attngen.backend.triton.backward.elements import Elements, Read, computed, stored
from attngen.backend.triton.backward.ledger import TORCH, Ledger, not_built
from attngen.backend.triton.host import Allocate, Let
from attngen.backend.triton.layout import size
from attngen.backend.triton.shape import COLUMN, ROW, TILE
from attngen.backend.triton.tensors import POINTER, head_index
from attngen.backend.value import (
    ONE,
    Value,
    cdiv,
    product,
    shape_of,
    stride_of,
    sum_over,
    value,
    variable,
)
from attngen.core.dtype import Dtype
from attngen.ir.attention import Axis, Tensor
from attngen.ir.backward import Gradient, HeadSum, TileStore
from attngen.ir.expr import Const, Expr, Index, Known, Load, Row, Side
from attngen.ir.walk import walk

if TYPE_CHECKING:
    from attngen.backend.triton.backward.base import BackwardContext

POSITION = {"q_idx": "q_len", "kv_idx": "kv_len"}
FLOAT = "torch.float32"
LEADS = ("b", "h", "h_kv")  # indices of a program, before a bucket's


@dataclass(frozen=True)
class Buckets:
    """Sums of a tile by a computed index; line: the step's; lead: indices before the bucket's."""

    name: str
    line: str
    tensor: Tensor
    lead: tuple[str, ...]
    count: int
    slots: int


class Stores:
    """Stores of one kernel."""

    def __init__(self, kernel: BackwardContext) -> None:
        self.kernel = kernel
        self.ledger = Ledger()
        self.buckets: list[Buckets] = []

    # --- gradients of one place -------------------------------------------------------------------
    def epilogue(self, place: str) -> list[str]:
        """Lines after the loop: every gradient and head sum of that place."""
        backward = self.kernel.backward
        self._bind_sums()
        lines: list[str] = []
        for g in backward.gradients:
            if g.place == place:
                lines += self._row(g, g.of) if isinstance(g.of, Row) else self._number(g, g.of)
        for s in backward.sums:
            if s.place == place:
                lines += self._head_sum(s)
        if place == "queries":
            lines += self._tile_sums()
            lines += self._histogram_stores()
            lines += self._handed()
        return lines

    def _handed(self) -> list[str]:
        """Sums that later launches read, stored as they are."""
        k, lines = self.kernel, []
        for leaf, name in k.backward.handed.items():
            t, sums = k.attention.tensor(name), k.sums[leaf].names
            if leaf.width is None:
                cells, mask = k.inputs.cells(t, k.backward.number(name), k.printer)
                lines.append(f"tl.store({cells}, {sums[0]}, mask={mask})")
                continue
            pointer = k.parameters.add_array(f"{name}_ptr", POINTER[t.dtype], name)
            rows, inside = self.cells(t, name, pointer, Side.QUERY)
            of = Row(name, Side.QUERY, size(leaf.width), 0)
            for own, c in zip(sums, k.binder.chunks(of), strict=True):
                columns = f"tl.arange(0, {c.block})"
                at = columns if c.start == 0 else f"({c.start} + {columns})"
                mask = f"{inside}[:, None]"
                mask += f" & ({columns} < {c.width})[None, :]" if c.padded else ""
                lines.append(f"tl.store({rows}[:, None] + {at}[None, :], {own}, mask={mask})")
        return lines

    def _bind_sums(self) -> None:
        for leaf, s in self.kernel.sums.items():
            if leaf.feature is None:
                self.kernel.printer.bound[leaf] = s.names[0]
            else:
                self.kernel.binder.known[leaf] = s.names

    def _leaf_chunks(self) -> dict[Expr, list[str]]:
        sums = self.kernel.sums
        return {leaf: list(s.names) for leaf, s in sums.items() if leaf.feature is not None}

    def _row(self, g: Gradient, of: Row) -> list[str]:
        """A row gradient, in the layout and dtype of its tensor."""
        k = self.kernel
        t, array = self._row_array(g, of)
        k.binder.note_rows(g.value)
        self.numbers(g.value)
        texts = k.binder.chunk_texts(g.value, self._leaf_chunks())
        pointer = k.parameters.add_array(f"{array}_ptr", POINTER[t.dtype], array)
        rows, inside = self.cells(t, array, pointer, of.side)
        lines = []
        for i, (text, c) in enumerate(zip(texts, k.binder.chunks(of), strict=True)):
            columns = f"tl.arange(0, {c.block})"
            at = columns if c.start == 0 else f"({c.start} + {columns})"
            mask = f"{inside}[:, None]" + (
                f" & ({columns} < {c.width})[None, :]" if c.padded else ""
            )
            own = k.names.take(array if len(texts) == 1 else f"{array}_{i}")
            lines.append(f"{own} = ({text}).to({pointer}.dtype.element_ty)")
            lines.append(f"{own}_cells = {rows}[:, None] + {at}[None, :]")
            lines.append(f"tl.store({own}_cells, {own}, mask={mask})")
        return lines

    def _row_array(self, g: Gradient, of: Row) -> tuple[Tensor, str]:
        """(tensor the rows are stored in, its array): the gradient, or one row per (batch, head).

        Programs cannot add to an element that others add to without an order; so where a tensor is
        shared by batches or heads, each stores its rows in float32 and the host adds them up.
        """
        k = self.kernel
        t = k.attention.tensor(of.tensor)
        whole = of.start == 0 and size(of.width) == size(t.axes[-1].size)
        left = [r for r in g.reduces if not (k.grouped and r in ("group", "h"))]
        if not left:
            array = self.ledger.name(f"d_{t.name}")
            wide = t.name in self.ledger.wide
            dtype = FLOAT if wide else None
            self.ledger.allocations.append(Allocate(array, t.name, dtype=dtype, zero=not whole))
            self.ledger.part(t.name, variable(array))
            return replace(t, dtype=Dtype.F32) if wide else t, array
        alike = k.facts.packed == (t.packed is not None)
        if not alike or not set(left) <= {"b", "h", "group"}:
            raise not_built(f"the gradient of {t.name} summed over {', '.join(left)}")
        roles = {"b": "batch", self._own_head(): "head"}
        roles |= {"q_idx" if of.side is Side.QUERY else "kv_idx": "position", "column": "feature"}
        if t.packed is not None:
            del roles["b"]
        names = list(roles)
        array = self.ledger.name(f"d_{t.name}_parts")
        width = size(t.axes[-1].size)
        counts = (*(self._count(n) for n in names[:-1]), value(width))
        self.ledger.allocations.append(Allocate(array, t.name, counts, FLOAT, zero=not whole))
        self.ledger.finish(t.name, array, names, [self._axis_name(t, a, names) for a in t.axes])
        axes = tuple(Axis(n, roles[n], width if n == "column" else None) for n in names)
        return Tensor(array, t.role, Dtype.F32, axes, packed=t.packed), array

    def _own_head(self) -> str:
        return "h_kv" if self.kernel.grouped else "h"

    def _axis_name(self, t: Tensor, axis: Axis, names: list[str]) -> str:
        """What an axis of a row tensor is called in an array of parts."""
        if axis.role == "head":
            head = head_index(t, self.kernel.sizes)
            return "one" if head == "0" else head
        return {"batch": "b", "position": names[-2], "feature": "column"}[axis.role]

    def cells(self, t: Tensor, array: str, pointer: str, side: Side) -> tuple[str, str]:
        """(pointers to the rows of a tile, which of them exist)."""
        k = self.kernel
        start = ("q_start + " if side is Side.QUERY else "kv_start + ") if t.packed else ""
        vector, inside = ("q_idx", "inside") if side is Side.QUERY else ("kv_idx", "live")
        index = {
            "batch": "b",
            "head": self._head(t, side),
            "position": f"({start}{vector})" if start else vector,
        }
        base, rows = [pointer], ""
        for i, a in enumerate(t.axes):
            if a.role not in index or index[a.role] == "0":
                continue
            step = k.parameters.add(f"{array}_stride_{i}", "i32", stride_of(array, i))
            term = f"{index[a.role]}.to(tl.int64) * {step}"
            if a.role == "position":
                rows = term
            else:
                base.append(term)
        k.inputs.base_lines.append(f"{array}_head = {' + '.join(base)}")
        return f"({array}_head + {rows})", inside

    def _head(self, t: Tensor, side: Side) -> str:
        grouped = self.kernel.grouped
        index = head_index(t, self.kernel.sizes)
        return "h_kv" if side is Side.KEY and grouped and index != "0" else index

    # --- numbers ----------------------------------------------------------------------------------
    def _number(self, g: Gradient, of: Load) -> list[str]:
        """One number per query or per key."""
        k = self.kernel
        self.numbers(g.value)
        k.binder.place(g.value, ROW if g.place != "keys" else COLUMN)
        text = k.printer.text(g.value)
        if computed(of):
            return self._by_element(of, text)
        target, load = self._destination(of, g.reduces)
        cells, mask = k.inputs.cells(target, load, k.printer)
        return [f"tl.store({cells}, {text}, mask={mask})"]

    def _by_element(self, of: Load, text: str) -> list[str]:
        """Stores a number and which element it belongs to; a further kernel adds them up."""
        k = self.kernel
        t = k.attention.tensor(of.tensor)
        read = Read.of_load(t, of)
        names = read.names(self._own_head())
        place = ""
        for axis in read.rest:
            k.binder.place(of.index[axis], k.owner.shape)
            own = k.inputs.index(t, axis, of.index[axis], k.printer)
            size_ = k.parameters.add(f"{t.name}_size_{axis}", "i32", shape_of(t.name, axis))
            place = f"({place}) * {size_} + {own}" if place else own
        lines, counts = [], tuple(self._count(n) for n in names)
        arrays = [self.ledger.name(f"d_{t.name}_{what}") for what in ("numbers", "places", "sums")]
        for array, own, dtype in zip(arrays, (text, place), (Dtype.F32, Dtype.I32), strict=False):
            zero = dtype is Dtype.F32  # what no program stores counts for nothing
            made = Allocate(array, t.name, counts, TORCH[dtype], zero=zero)
            self.ledger.allocations.append(made)
            cells, mask = k.inputs.cells(*stored(array, names, dtype), k.printer)
            lines.append(f"tl.store({cells}, {own}, mask={mask})")
        leads, rest = read.sizes(tuple(axis for _, axis in read.leads)), read.sizes(read.rest)
        self.ledger.allocations.append(Allocate(arrays[2], t.name, (*leads, *rest), FLOAT))
        of_each = product(counts) // product(leads) if leads else product(counts)
        self.ledger.elements.append(
            Elements(arrays[0], arrays[1], arrays[2], product(leads), of_each, product(rest))
        )
        self.ledger.part(t.name, read.ordered(arrays[2]), fits=False)
        return lines

    def _destination(self, of: Load, reduces: tuple[str, ...]) -> tuple[Tensor, Load]:
        """The array a per-position gradient is stored in, and where in it."""
        k = self.kernel
        t = k.attention.tensor(of.tensor)
        if computed(of):
            raise not_built(f"the gradient of {t.name} at computed positions")
        plain = [i.name if isinstance(i, Index) else "" for i in of.index]
        if not reduces:
            array = self.ledger.name(f"d_{t.name}")
            self.ledger.allocations.append(Allocate(array, t.name, zero=True))
            self.ledger.part(t.name, variable(array))
            return Tensor(array, "input", t.dtype, t.axes), Load(array, of.index, "float")
        array = self.ledger.name(f"d_{t.name}_parts")
        names = ["b", self._own_head(), *(n for n in plain if n in POSITION)]
        counts = tuple(
            shape_of(t.name, plain.index(n)) if n in POSITION else self._count(n) for n in names
        )
        self.ledger.allocations.append(Allocate(array, t.name, counts, FLOAT, zero=True))
        fixed = {i: e.value for i, e in enumerate(of.index) if isinstance(e, Const)}
        self.ledger.finish(t.name, array, names, plain, fixed)
        axes = tuple(Axis(n, "feature") for n in names)
        return Tensor(array, "input", Dtype.F32, axes), Load(
            array, tuple(Index(n) for n in names), "float"
        )

    def _count(self, index: str) -> Value:
        s = self.kernel.sizes
        heads = {"h": s.heads, "h_kv": self.kernel.key_heads}
        return {"b": s.batch, **heads, "q_idx": s.q_len, "kv_idx": s.kv_len}[index]

    def numbers(self, e: Expr) -> None:
        """Make the numbers of an expression printable where the kernel owns its rows."""
        k = self.kernel
        k.binder.count(e)
        for x in walk(e):
            if x.feature is None and not isinstance(x, Known):
                k.binder.place(x, k.owner.shape)

    # --- sums over tiles --------------------------------------------------------------------------
    def _head_sum(self, s: HeadSum) -> list[str]:
        k = self.kernel
        self.numbers(s.value)
        k.binder.place(s.value, k.owner.shape)
        inside = k.owner.inside
        return self._partial(
            s.leaf, f"tl.sum(tl.where({inside}, {k.printer.text(s.value)}, 0.0), 0)"
        )

    def _tile_sums(self) -> list[str]:
        lines: list[str] = []
        for leaf, s in self.kernel.sums.items():
            if not leaf.level.value:
                lines += self._partial(leaf, f"tl.sum(tl.where(inside, {s.names[0]}, 0.0), 0)")
        return lines

    def _partial(self, leaf: Known, text: str) -> list[str]:
        """One number per program; the host adds them."""
        k = self.kernel
        array = self.ledger.name(f"{leaf.name}_parts")
        tiles, tile = self._tiles()
        query = k.outputs.query.name
        counts = (k.sizes.batch, k.sizes.heads, tiles)
        self.ledger.allocations.append(Allocate(array, query, counts, FLOAT, zero=True))
        total = sum_over(variable(array), (-1,))
        self.ledger.finishing.append(Let(leaf.name, total, after="[batch, heads]"))
        k.parameters.add_array(f"{array}_ptr", "fp32", array)
        k.parameters.add(f"{array}_tiles", "i32", tiles)
        head = "h" if k.sizes.heads != ONE else "0"
        single = k.programs == ONE and not k.facts.packed
        place = tile if single else f"(b * heads + {head}) * {array}_tiles + {tile}"
        return [f"tl.store({array}_ptr + {place}, {text})"]

    def _tiles(self) -> tuple[Value, str]:
        """(host: number of tiles, kernel: which one).

        Of packed sequences each has as many as all rows together would: those never stored are 0.
        """
        k = self.kernel
        if k.owner.first == "row0":
            block = k.schedule.block_q
            return cdiv(k.sizes.q_len, block), f"row0 // {block}"
        return cdiv(k.sizes.kv_len, k.schedule.block_k), f"col0 // {k.schedule.block_k}"

    # --- buckets ----------------------------------------------------------------------------------
    def histogram_inits(self) -> list[tuple[str, str]]:
        """State of the bucket sums."""
        return [(x.name, f"tl.zeros([{x.slots}], tl.float32)") for x in self.buckets]

    def histogram_lines(self) -> list[str]:
        """Lines of the step that add a tile to the bucket sums."""
        return [x.line for x in self.buckets]

    def _add_buckets(self, s: TileStore, weight: str, index: str) -> None:
        """Sum a tile into buckets: the last axis of the tensor, at a computed index."""
        k = self.kernel
        t = k.attention.tensor(s.of.tensor)
        buckets = t.axes[-1].size
        lead = [i.name for i in s.of.index[:-1] if isinstance(i, Index) and i.name in LEADS]
        if buckets is None or buckets > 4096 or len(lead) != len(s.of.index) - 1:
            raise not_built(f"the gradient of {t.name} at computed positions")
        slots = max(16, 1 << (buckets - 1).bit_length())
        name = k.names.take(f"d_{t.name}_sums")
        k.printer.helpers.add("add_buckets")
        line = f"{name} = add_buckets({name}, {index}, {weight}, {slots})"
        self.buckets.append(Buckets(name, line, t, tuple(lead), buckets, slots))

    def _histogram_stores(self) -> list[str]:
        lines = []
        k = self.kernel
        for x in self.buckets:
            array, tensor = self.ledger.name(f"{x.name}_parts"), x.tensor.name
            tiles, tile = self._tiles()
            counts = (k.sizes.batch, k.sizes.heads, tiles, value(x.slots))
            self.ledger.allocations.append(Allocate(array, tensor, counts, FLOAT, zero=True))
            total = self.ledger.name(f"{x.name}_total")
            summed = Value("first", (sum_over(variable(array), (2,)), x.count))
            self.ledger.finishing.append(Let(total, summed))
            self.ledger.finish(tensor, total, ["b", "h", "bucket"], [*x.lead, "bucket"])
            k.parameters.add_array(f"{array}_ptr", "fp32", array)
            k.parameters.add(f"{array}_tiles", "i32", tiles)
            place = f"((b * heads + h) * {array}_tiles + {tile}) * {x.slots}"
            lines.append(f"tl.store({array}_ptr + {place} + tl.arange(0, {x.slots}), {x.name})")
        return lines

    def tile(self, s: TileStore, weight: str) -> list[str]:
        """Lines of the step for an input read once per pair; weight: its gradient's name."""
        k = self.kernel
        if s.map == "bucket":
            index = s.of.index[-1]
            k.binder.place(index)
            self._add_buckets(s, weight, k.printer.spread(index, TILE))
            return []
        target, load = self._destination(s.of, s.reduces)
        cells, mask = k.inputs.cells(target, load, k.printer)
        return [f"tl.store({cells}, {weight}, mask={mask})"]

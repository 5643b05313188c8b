"""Kernel parameters: how tensors, scalars and lengths reach a kernel, and what the host passes."""

from __future__ import annotations

from dataclasses import dataclass, field

from attngen.backend.triton.host import Descriptor, Let
from attngen.backend.triton.layout import Chunk, Layout, head_axis, side_tensors
from attngen.backend.triton.names import Names
from attngen.backend.value import ONE, Value, shape_of, stride_of, value, variable
from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention, Tensor
from attngen.ir.expr import Side

POINTER = {
    Dtype.F16: "fp16",
    Dtype.BF16: "bf16",
    Dtype.F32: "fp32",
    Dtype.F64: "fp64",
    Dtype.I32: "i32",
    Dtype.I64: "i64",
    Dtype.I8: "i8",
    Dtype.BOOL: "i1",
}


@dataclass(frozen=True)
class Parameter:
    """One kernel parameter.

    type: as Triton spells it; host: what the host passes; specialised: whether Triton may compile a
    variant for its divisibility.
    """

    name: str
    type: str
    host: Value | Descriptor
    specialised: bool = False

    @property
    def descriptor(self) -> bool:
        """Whether it is a tensor descriptor."""
        return isinstance(self.host, Descriptor)


@dataclass
class Parameters:
    """All parameters a kernel could use; what it does use is found from its text."""

    table: dict[str, Parameter] = field(default_factory=dict)

    def add(self, own: str, type_: str, host: Value, specialised: bool = False) -> str:
        """Register a parameter and return its name."""
        self.table[own] = Parameter(own, type_, host, specialised)
        return own

    def add_array(self, own: str, type_: str, array: str) -> str:
        """Register the pointer of an array, whose address is a multiple of 16 bytes."""
        return self.add(own, f"*{type_}", variable(array), True)

    def add_descriptor(self, own: str, type_: str, descriptor: Descriptor) -> None:
        """Register a tensor descriptor over elements of a type; the host makes it."""
        kind = f"tensordesc<{type_}{list(descriptor.block)}>"
        self.table[own] = Parameter(own, kind, descriptor, True)


@dataclass(frozen=True)
class Sizes:
    """Host values of the run-time sizes, and the names of the head indices in a kernel.

    steps: how the host finds them; groups: head axis name of keys / values -> kernel index name;
    own_keys: whether some key or value has the head axis of the queries.
    """

    batch: Value
    heads: Value
    q_len: Value
    kv_len: Value
    steps: tuple[Let, ...]
    groups: dict[str, str]
    own_keys: bool


def sizes(attention: Attention) -> Sizes:
    """Where batch, heads and lengths are read from: the first stream that has the axis."""
    queries, keys = side_tensors(attention, Side.QUERY), side_tensors(attention, Side.KEY)
    steps: list[Let] = []

    def read(own: str, tensors: list[Tensor], role: str, otherwise: Value = ONE) -> Value:
        for t in tensors:
            i = t.axis(role)
            if i is not None and not (role == "head" and t.axes[i].size == 1 and len(tensors) > 1):
                steps.append(Let(own, shape_of(t.name, i)))
                return variable(own)
        return otherwise

    if any(t.packed for t in queries):
        packed = next(t.packed for t in queries if t.packed)
        steps.append(Let("batch", shape_of(packed, 0) - 1))
        batch = variable("batch")
    else:
        batch = read("batch", queries + keys, "batch")
    heads = read("heads", queries, "head")
    q_len = read("q_len", queries, "position")
    kv_len = read("kv_len", keys, "position") if keys else q_len
    own = next((a for t in queries if (a := head_axis(t)) is not None), None)
    groups: dict[str, str] = {}
    for t in keys:
        axis, at = head_axis(t), t.axis("head")
        if axis is not None and at is not None and axis != own and axis not in groups:
            groups[axis] = "h_kv" if not groups else f"h_{axis.lower()}"
            steps.append(Let(head_count(groups[axis]), shape_of(t.name, at)))
    own_keys = own is not None and any(head_axis(t) == own for t in keys)
    return Sizes(batch, heads, q_len, kv_len, tuple(steps), groups, own_keys)


def head_count(index: str) -> str:
    """Name of the host variable that counts the heads of a kernel's head index."""
    return "kv_heads" if index == "h_kv" else f"{index[2:]}_heads"


def group_lines(sizes: Sizes, parameters: Parameters) -> list[str]:
    """Kernel lines that map a query head to the head of each other head axis."""
    lines = [] if sizes.groups else [f"h_kv = {'h' if sizes.own_keys else 0}"]
    for index in sizes.groups.values():
        group = "group" if index == "h_kv" else f"group_{index[2:]}"
        parameters.add(group, "i32", sizes.heads // variable(head_count(index)))
        lines.append(f"{index} = h // {group}")
    return lines


def head_index(tensor: Tensor, sizes: Sizes) -> str:
    """The head a program reads from this tensor."""
    name = head_axis(tensor)
    if name is None:
        return "0"
    return sizes.groups.get(name, "h")


@dataclass(frozen=True)
class ChunkView:
    """One block of columns of a row tensor, as the templates load it."""

    name: str
    handle: str
    corner: str
    block: int
    cells: str
    mask_partial: str
    mask_full: str


@dataclass(frozen=True)
class TileView:
    """A row tensor on one side, as the templates load it; shape: for the comment."""

    tensor: str
    shape: str
    descriptor: bool
    packed: bool
    chunks: tuple[ChunkView, ...]


@dataclass(frozen=True)
class Form:
    """How a kernel's rows are laid out.

    block_q, block_k: of a tile; descriptors: rows come by tensor descriptor where they can;
    rows: "queries" of one head, "group" (queries of every head of a group) or "one" (a single row);
    owns_queries: a program owns a tile of queries and loops over keys, or the other way round.
    """

    block_q: int
    block_k: int
    descriptors: bool
    rows: str = "queries"
    owns_queries: bool = True


def side_of(attention: Attention, tensor: Tensor) -> Side:
    """Query streams and inputs along the query positions are rows of the tile."""
    if tensor.role in ("key", "value"):
        return Side.KEY
    if tensor.role == "query":
        return Side.QUERY
    at = tensor.axis("position")
    own = tensor.axes[at].name if at is not None else ""
    only_keys = _positions(attention, Side.KEY) - _positions(attention, Side.QUERY)
    return Side.KEY if own in only_keys else Side.QUERY


def _positions(attention: Attention, side: Side) -> set[str]:
    streams = side_tensors(attention, side)
    return {t.axes[i].name for t in streams if (i := t.axis("position")) is not None}


class Streams:
    """Row tensors of one kernel: their parameters, tiles and base pointers."""

    def __init__(
        self,
        attention: Attention,
        layout: Layout,
        sizes: Sizes,
        names: Names,
        parameters: Parameters,
        form: Form,
    ) -> None:
        self.attention, self.layout, self.sizes, self.form = attention, layout, sizes, form
        self.names, self.parameters = names, parameters
        self.base_lines: list[str] = []
        self.tiles: dict[tuple[str, int], str] = {}
        self.views: dict[str, TileView] = {}
        for name in layout.cuts:
            t = attention.tensor(name)
            if form.rows == "one" and self.side(t) is Side.KEY:
                continue
            self.views[name] = self._view(t)

    def side(self, tensor: Tensor) -> Side:
        """Which side of a tile its rows are on."""
        return side_of(self.attention, tensor)

    def _head(self, t: Tensor) -> str:
        head = head_index(t, self.sizes)
        if head == "h" and self.form.rows == "group" and self.side(t) is Side.KEY:
            return "head_group" if self.sizes.groups else "h_kv"  # a program of one query head
        return head

    def _view(self, t: Tensor) -> TileView:
        side = self.side(t)
        by_descriptor = self.form.descriptors and (side is Side.KEY or self.form.rows == "queries")
        rows = "" if by_descriptor else self._rows(t, side)
        views = []
        chunks = self.layout.cuts[t.name]
        for i, c in enumerate(chunks):
            name = self.names.take(t.name if len(chunks) == 1 else f"{t.name}_{i}")
            self.tiles[t.name, c.start] = name
            views.append(self._chunk(t, side, c, name, rows))
            if by_descriptor:
                self._descriptor(t, views[-1].handle, c, side)
        what = (
            "keys"
            if side is Side.KEY
            else {"queries": "queries", "group": "rows", "one": ""}[self.form.rows]
        )
        axis = t.axes[-1].name
        return TileView(
            t.name,
            f"[{what}, {axis}]" if what else f"[{axis}]",
            by_descriptor,
            bool(t.packed),
            tuple(views),
        )

    def _chunk(self, t: Tensor, side: Side, c: Chunk, name: str, rows: str) -> ChunkView:
        columns = f"tl.arange(0, {c.block})"
        narrow = f"{columns} < {c.width}" if c.padded else ""
        offset = columns if c.start == 0 else f"({c.start} + {columns})"
        inside = "inside" if side is Side.QUERY else "(kv_idx < kv_len)"
        owned = (side is Side.QUERY) == self.form.owns_queries
        loop = "n" if self.form.owns_queries else "m"
        first = ("row0" if side is Side.QUERY else "col0") if owned else loop
        if t.packed:
            first = f"{'q_start' if side is Side.QUERY else 'kv_start'} + {first}"
        batch = "0" if t.axis("batch") is None else "b"
        corner = f"[{batch}, {self._head(t)}, {first}, {c.start}]"
        if self.form.rows == "one":
            return ChunkView(name, "", "", c.block, f"{rows} + {offset}", narrow, narrow)
        partial = f"{inside}[:, None]" + (f" & ({narrow})[None, :]" if narrow else "")
        full = f"({narrow})[None, :]" if narrow else ""
        return ChunkView(
            name, f"{name}_tiles", corner, c.block, f"{rows} + {offset}[None, :]", partial, full
        )

    def _rows(self, t: Tensor, side: Side) -> str:
        """Pointers to the rows of a tile, without their columns."""
        fine = self.layout.width(t.name) % 16 == 0
        position = t.axis("position") or 0
        step = self.parameters.add(f"{t.name}_stride_s", "i32", stride_of(t.name, position), fine)
        index = "q_idx" if side is Side.QUERY else "kv_idx"
        if t.packed:
            index = f"({'q_start' if side is Side.QUERY else 'kv_start'} + {index})"
        moving = [f"{index}.to(tl.int64) * {step}"]
        heads = [("head", self._head(t))]
        if self.form.rows == "group" and side is Side.QUERY:
            moving += self._stride_terms(t, heads, fine)
            heads = []
        base = self._base(t, [("batch", "b"), *heads], fine)
        if self.form.rows == "one":
            return f"{base} + {moving[0]}"
        cells = f"({' + '.join(moving)})" if len(moving) > 1 else f"({moving[0]})"
        return f"{base} + {cells}[:, None]"

    def _stride_terms(self, t: Tensor, axes: list[tuple[str, str]], fine: bool) -> list[str]:
        terms = []
        for role, index in axes:
            at = t.axis(role)
            if at is not None and index != "0":
                step = self.parameters.add(
                    f"{t.name}_stride_{role[0]}", "i32", stride_of(t.name, at), fine
                )
                terms.append(f"{index}.to(tl.int64) * {step}")
        return terms

    def _base(self, t: Tensor, axes: list[tuple[str, str]], fine: bool) -> str:
        pointer = self.parameters.add_array(f"{t.name}_ptr", POINTER[t.dtype], t.name)
        terms = self._stride_terms(t, axes, fine)
        if not terms:
            return pointer
        self.base_lines.append(f"{t.name}_head = {' + '.join([pointer, *terms])}")
        return f"{t.name}_head"

    def _descriptor(self, t: Tensor, handle: str, c: Chunk, side: Side) -> None:
        sizes, strides = _outer_axes(t)
        rows = self.form.block_q if side is Side.QUERY else self.form.block_k
        # a block wider than its chunk must read zeros there, not the columns of the next chunk
        width = value(c.start + c.width if c.padded else self.layout.width(t.name))
        made = Descriptor(t.name, (*sizes, width), (*strides, ONE), (1, 1, rows, c.block))
        self.parameters.add_descriptor(handle, POINTER[t.dtype], made)


def _outer_axes(t: Tensor) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    """Sizes and strides along batch, head and position, in this order."""
    position = t.axis("position") or 0
    at = [t.axis("batch"), t.axis("head"), position]
    sizes = tuple(ONE if i is None else shape_of(t.name, i) for i in at)
    return sizes, tuple(stride_of(t.name, position if i is None else i) for i in at)

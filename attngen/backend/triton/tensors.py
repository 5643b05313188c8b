"""Kernel parameters: how each tensor, scalar and length reaches the kernel and what the host passes."""

from __future__ import annotations

from dataclasses import dataclass, field

from attngen.backend.triton.layout import Chunk, Layout, head_axis, side_tensors
from attngen.backend.triton.names import Names
from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention, Tensor
from attngen.ir.expr import Side

POINTER = {Dtype.F16: "fp16", Dtype.BF16: "bf16", Dtype.F32: "fp32", Dtype.F64: "fp64", Dtype.I32: "i32",
           Dtype.I64: "i64", Dtype.I8: "i8", Dtype.BOOL: "i1"}  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """One kernel parameter: its name, its Triton type, what the host passes, whether Triton may specialise on it."""

    name: str
    type: str
    host: str
    specialised: bool = False


@dataclass
class Parameters:
    """All parameters a kernel could use; what it does use is found from its text."""

    table: dict[str, Parameter] = field(default_factory=dict)

    def add(self, name: str, type_: str, host: str, specialised: bool = False) -> str:
        """Register a parameter and return its name."""
        self.table[name] = Parameter(name, type_, host, specialised)
        return name


@dataclass(frozen=True)
class Sizes:
    """Host expressions of the run-time sizes, and the names of the head indices in a kernel.

    heads: query heads axis name; groups: head axis name of keys / values -> kernel index name.
    """

    batch: str
    heads: str
    q_len: str
    kv_len: str
    lines: tuple[str, ...]
    groups: dict[str, str]


def sizes(attention: Attention) -> Sizes:
    """Where batch, heads and lengths are read from: the first stream of each side that has the axis."""
    queries, keys = side_tensors(attention, Side.QUERY), side_tensors(attention, Side.KEY)
    lines: list[str] = []

    def read(name: str, tensors: list[Tensor], role: str, otherwise: str = "1") -> str:
        for t in tensors:
            i = t.axis(role)
            if i is not None and not (role == "head" and t.axes[i].size == 1 and len(tensors) > 1):
                lines.append(f"{name} = {t.name}.shape[{i}]")
                return name
        return otherwise

    if any(t.packed for t in queries):
        packed = next(t.packed for t in queries if t.packed)
        lines.append(f"batch = {packed}.shape[0] - 1")
        batch = "batch"
    else:
        batch = read("batch", queries + keys, "batch")
    heads = read("heads", queries, "head")
    q_len = read("q_len", queries, "position")
    kv_len = read("kv_len", keys, "position") if keys else q_len
    own = next((a for t in queries if (a := head_axis(t)) is not None), None)
    groups: dict[str, str] = {}
    for t in keys:
        name = head_axis(t)
        if name is not None and name != own and name not in groups:
            groups[name] = "h_kv" if not groups else f"h_{name.lower()}"
            lines.append(f"{_count(groups[name])} = {t.name}.shape[{t.axis('head')}]")
    return Sizes(batch, heads, q_len, kv_len, tuple(lines), groups)


def _count(index: str) -> str:
    return "kv_heads" if index == "h_kv" else f"{index[2:]}_heads"


def group_lines(sizes: Sizes, parameters: Parameters) -> list[str]:
    """Kernel lines that map a query head to the head of each other head axis."""
    lines = []
    for index in sizes.groups.values():
        group = "group" if index == "h_kv" else f"group_{index[2:]}"
        parameters.add(group, "i32", f"{sizes.heads} // {_count(index)}")
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
    columns: str
    mask_partial: str
    mask_full: str


@dataclass(frozen=True)
class TileView:
    """A row tensor on one side, as the templates load it."""

    tensor: str
    axis: str
    descriptor: bool
    packed: bool
    base: str
    rows: str
    stride: str
    chunks: tuple[ChunkView, ...]


class Streams:
    """Row tensors of one kernel: their parameters, tiles and base pointers."""

    def __init__(self, attention: Attention, layout: Layout, sizes: Sizes, names: Names, parameters: Parameters,
                 block_q: int, block_k: int, descriptors: bool) -> None:  # fmt: skip
        self.attention, self.layout, self.sizes = attention, layout, sizes
        self.names, self.parameters, self.descriptors = names, parameters, descriptors
        self.blocks = {Side.QUERY: block_q, Side.KEY: block_k}
        self.base_lines: list[str] = []
        self.tiles: dict[tuple[str, int], str] = {}
        self.views: dict[str, TileView] = {}
        for name in layout.cuts:
            self._add(attention.tensor(name))

    def side(self, tensor: Tensor) -> Side:
        """Query streams and inputs along the query positions are rows of the tile."""
        if tensor.role in ("key", "value"):
            return Side.KEY
        if tensor.role == "query":
            return Side.QUERY
        keys = {t.axes[i].name for t in side_tensors(self.attention, Side.KEY) if (i := t.axis("position")) is not None}
        queries = {t.axes[i].name for t in side_tensors(self.attention, Side.QUERY) if (i := t.axis("position")) is not None}
        at = tensor.axis("position")
        own = tensor.axes[at].name if at is not None else ""
        return Side.KEY if own in keys and own not in queries else Side.QUERY

    def _add(self, t: Tensor) -> None:
        side, chunks = self.side(t), self.layout.cuts[t.name]
        head = head_index(t, self.sizes)
        first = "row0" if side is Side.QUERY else "n"
        starts = {Side.QUERY: "q_start", Side.KEY: "kv_start"}[side] if t.packed else ""
        row = f"{starts} + {first}" if starts else first
        rows = ("q_idx" if side is Side.QUERY else "kv_idx") if not starts else f"({starts} + {'q_idx' if side is Side.QUERY else 'kv_idx'})"
        batch = "0" if t.axis("batch") is None else "b"
        position, feature = t.axis("position"), len(t.axes) - 1
        stride = f"{t.name}.stride({position})"
        base, stride_name = f"{t.name}_ptr", f"{t.name}_stride_s"
        if not self.descriptors:
            base = self._base(t, head)
            self.parameters.add(stride_name, "i32", stride, self.layout.width(t.name) % 16 == 0)
        views = []
        length = "q_len" if side is Side.QUERY else "kv_len"
        inside = "inside[:, None]" if side is Side.QUERY else f"(kv_idx < {length})[:, None]"
        for i, c in enumerate(chunks):
            name = self.names.take(t.name if len(chunks) == 1 else f"{t.name}_{i}")
            self.tiles[t.name, c.start] = name
            handle = f"{name}_tiles"
            corner = f"[{batch}, {head}, {row}, {c.start}]"
            columns = f"tl.arange(0, {c.block})" if c.start == 0 else f"({c.start} + tl.arange(0, {c.block}))"
            narrow = f"(tl.arange(0, {c.block}) < {c.width})[None, :]" if c.padded else ""
            full = f", mask={narrow}, other=0.0" if narrow else ""
            partial = f"{inside} & {narrow}" if narrow else inside
            if self.descriptors:
                self._descriptor(t, handle, c, side, position or 0)
            views.append(ChunkView(name, handle, corner, c.block, columns, partial, full))
        self.views[t.name] = TileView(
            t.name, t.axes[feature].name, self.descriptors, bool(t.packed), base, rows, stride_name, tuple(views)
        )  # fmt: skip

    def _base(self, t: Tensor, head: str) -> str:
        fine = self.layout.width(t.name) % 16 == 0
        pointer = self.parameters.add(f"{t.name}_ptr", f"*{POINTER[t.dtype]}", t.name, True)
        terms = [pointer]
        for role, index in (("batch", "b"), ("head", head)):
            at = t.axis(role)
            if at is not None and index != "0":
                name = self.parameters.add(f"{t.name}_stride_{role[0]}", "i32", f"{t.name}.stride({at})", fine)
                terms.append(f"{index}.to(tl.int64) * {name}")
        if len(terms) == 1:
            return pointer
        self.base_lines.append(f"{t.name}_head = {' + '.join(terms)}")
        return f"{t.name}_head"

    def _descriptor(self, t: Tensor, handle: str, c: Chunk, side: Side, position: int) -> None:
        length = f"{t.name}.shape[{position}]"
        shape, strides = [], []
        for role in ("batch", "head"):
            at = t.axis(role)
            shape.append("1" if at is None else f"{t.name}.shape[{at}]")
            strides.append(f"{t.name}.stride({position if at is None else at})")
        width = self.layout.width(t.name)
        block = f"[1, 1, {self.blocks[side]}, {c.block}]"
        host = (f"TensorDescriptor({t.name}, [{', '.join(shape)}, {length}, {width}], "
                f"[{', '.join(strides)}, {t.name}.stride({position}), 1], {block})")  # fmt: skip
        self.parameters.add(handle, f"tensordesc<{POINTER[t.dtype]}{block}>", host, True)

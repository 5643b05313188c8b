"""The program IR of the `attention` form: declared tensors, a mask, named results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attngen.core.dtype import Dtype
from attngen.core.source import Span

if TYPE_CHECKING:  # a kernel found in the cache is called without any expression
    from attngen.ir.expr import Expr, Extent, Side


@dataclass(frozen=True)
class Axis:
    """One declared axis: its text in the spec (`B`, `Hkv`, `D`, `B + 1`, `129`) and what it is.

    role: "batch", "head", "position" or "feature"; position axes of streams carry their side.
    size: the number, when the axis is one.
    """

    name: str
    role: str
    size: int | None = None


@dataclass(frozen=True)
class Tensor:
    """A declared stream or input.

    role: "query", "key", "value" or "input". axes in memory order; strides are read at run time.
    view: (parent, start, stop) for `value v = k[:512]`: same memory.
    packed / paged / scaled: names of the tensors that describe the storage.
    sorted: never decreases along its position axis; const: gets no gradient.
    """

    name: str
    role: str
    dtype: Dtype
    axes: tuple[Axis, ...]
    sorted: bool = False
    const: bool = False
    packed: str | None = None
    paged: tuple[str, str] | None = None
    scaled: str | None = None
    view: tuple[str, int, int] | None = None
    span: Span | None = field(default=None, compare=False)

    def axis(self, role: str) -> int | None:
        """Index of the (first) axis with that role, or None."""
        return next((i for i, a in enumerate(self.axes) if a.role == role), None)

    @property
    def is_stream(self) -> bool:
        """Whether it was declared with query, key or value."""
        return self.role != "input"

    @property
    def is_scalar(self) -> bool:
        """Whether it is a run-time scalar (`input window : i32`)."""
        return not self.axes and self.view is None


@dataclass(frozen=True)
class RowAccess:
    """How a bare name is read as a row: which tensor, which side, how wide."""

    tensor: str
    side: Side
    width: Extent


@dataclass(frozen=True)
class Sparsity:
    """`blocks(index, count, size)`, or chosen at run time (`top_blocks`, `threshold_blocks`).

    kind: name of the constructor; tensors: index and count of `blocks`; score: the expression that
    ranks blocks; options: the remaining named arguments as text.
    """

    kind: str
    size: tuple[int, int]
    tensors: tuple[str, ...] = ()
    score: Expr | None = None
    options: tuple[tuple[str, str], ...] = ()
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Attention:
    """A checked attention spec.

    tensors: in declaration order; inputs that are run-time scalars included.
    mask: bool expression over q_idx and kv_idx, or None (keep all); applies to every reduction.
    outputs: (name, row expression) in the order they are returned; `gate` is already multiplied in.
    same_length: the query and key position axes have one name, so q_len == kv_len.
    names: what the user called an expression (`p`, `u`): for readable kernels; first name wins.
    spans: where an expression stands in the source; never part of identity.
    """

    name: str
    tensors: tuple[Tensor, ...]
    mask: Expr | None
    outputs: tuple[tuple[str, Expr], ...]
    params: tuple[tuple[str, int | float | bool], ...] = ()
    sparsity: Sparsity | None = None
    same_length: bool = False
    targets: tuple[str, ...] = ()
    schedule: tuple[tuple[str, str | int | bool], ...] = ()
    names: Mapping[Expr, str] = field(default_factory=dict, compare=False)
    spans: Mapping[Expr, Span] = field(default_factory=dict, compare=False)

    def tensor(self, name: str) -> Tensor:
        """The declared tensor of that name."""
        return next(t for t in self.tensors if t.name == name)

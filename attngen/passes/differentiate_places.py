"""Where gradients go: which axes a read does not tell apart, and how its elements are shared."""

from __future__ import annotations

from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention, Tensor
from attngen.ir.backward import Map
from attngen.ir.expr import Axes, Const, Index, Load, Row, Side, Size

_DIFFERENTIABLE = (Dtype.HALF, Dtype.F16, Dtype.BF16, Dtype.F32, Dtype.F64)
_BARE = (Index, Const, Size)


def differentiable(t: Tensor) -> bool:
    """Whether a tensor has a gradient: plain floats, not `const`; a view is its parent."""
    return t.dtype in _DIFFERENTIABLE and not t.const and t.view is None


def map_of(e: Row | Load) -> Map:
    """How the elements of a read are shared by positions."""
    if isinstance(e, Row):
        return "row" if e.side is Side.QUERY else "column"
    if not all(isinstance(i, _BARE) for i in e.index):
        return "bucket"
    match e.level:
        case Axes.TILE:
            return "tile"
        case Axes.QUERY:
            return "row"
        case Axes.KEY:
            return "column"
        case _:
            return "head"


def reduces_of(e: Row | Load, attention: Attention) -> tuple[str, ...]:
    """Axes of the launch that a read does not tell apart: b, h or group, q, k."""
    return _row_reduces(e, attention) if isinstance(e, Row) else _load_reduces(e)


def _load_reduces(e: Load) -> tuple[str, ...]:
    names = {i.name for i in e.index if isinstance(i, Index)}
    out = [] if "b" in names else ["b"]
    if "h" not in names:
        out.append("group" if "h_kv" in names else "h")
    return tuple(out)


def _row_reduces(e: Row, attention: Attention) -> tuple[str, ...]:
    tensors = {t.name: t for t in attention.tensors}
    query = next((t for t in attention.tensors if t.role == "query"), None)
    t = tensors.get(e.tensor)
    if t is None or query is None:
        return ()
    out = []
    if t.axis("batch") is None and t.packed is None and query.axis("batch") is not None:
        out.append("b")
    own, heads = _head(t), _head(query)
    if heads is not None and own != heads:
        out.append("h" if own in (None, "1") else "group")
    if t.axis("position") is None:
        out.append("q" if e.side is Side.QUERY else "k")
    return tuple(out)


def _head(t: Tensor) -> str | None:
    axis = t.axis("head")
    return None if axis is None else t.axes[axis].name

"""Programs made by hand, for tests that need no parser."""

from __future__ import annotations

from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention, Axis, Tensor

_HEADS = ("H", "Hq", "Hkv", "Hv", "G")
_POSITIONS = ("S", "Sq", "Skv", "T")


def axis(name: str) -> Axis:
    """An axis of the vocabulary, or a feature axis."""
    role = "batch" if name == "B" else "head" if name in _HEADS else "feature"
    role = "position" if name in _POSITIONS else role
    return Axis(name, role, int(name) if name.isdigit() else None)


def stream(name: str, role: str, axes: str, dtype: Dtype = Dtype.HALF, **facts) -> Tensor:
    """A declaration: `stream("q", "query", "B H S D")`."""
    return Tensor(name, role, dtype, tuple(axis(a) for a in axes.split()), **facts)


def attention(tensors, mask=None, sparsity=None, **outputs) -> Attention:
    """An attention of these outputs."""
    return Attention("test", tuple(tensors), mask, tuple(outputs.items()), sparsity=sparsity)

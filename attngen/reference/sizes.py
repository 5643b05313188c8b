"""Sizes of a call: every declared axis matched to the shapes of the tensors that arrived."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from attngen.ir.attention import Tensor
from attngen.ir.expr import Extent

Argument = torch.Tensor | int | float | bool
Arguments = Mapping[str, Argument]
_SUM = re.compile(r"(\w+)\s*\+\s*(\d+)")


@dataclass(frozen=True)
class Sizes:
    """Size of each axis name."""

    of: Mapping[str, int]

    def extent(self, extent: Extent) -> int:
        """The number of a feature axis given by name or number."""
        return extent if isinstance(extent, int) else self.of[extent]


def bind_sizes(declared: Iterable[Tensor], arguments: Arguments) -> Sizes:
    """Match the axes of each declared tensor to its shape.

    Raises: ValueError for a missing tensor, a wrong rank, or two sizes for one axis; it names both.
    """
    found: dict[str, tuple[int, str]] = {}
    late: list[tuple[str, int, str]] = []
    for tensor in declared:
        if not tensor.axes or tensor.view is not None or tensor.name not in arguments:
            continue
        shape = _shape(tensor, arguments[tensor.name])
        for axis, size in zip(tensor.axes, shape, strict=True):
            if axis.size is not None:
                _require(size, axis.size, tensor.name, axis.name, "the declaration")
            elif axis.name.isidentifier():
                known, where = found.setdefault(axis.name, (size, tensor.name))
                _require(size, known, tensor.name, axis.name, where)
            else:
                late.append((axis.name, size, tensor.name))
    for text, size, name in late:
        _bind_sum(text, size, name, found)
    return Sizes({name: size for name, (size, _) in found.items()})


def require_arguments(declared: Iterable[Tensor], arguments: Arguments) -> None:
    """Raise ValueError naming the first declared tensor that did not arrive."""
    for tensor in declared:
        if tensor.view is None and tensor.name not in arguments:
            raise ValueError(f"missing {tensor.role} {tensor.name!r}")


def size_of(tensor: Tensor, role: str, arguments: Arguments) -> int:
    """Size of the axis of a role, 1 if the tensor has none."""
    axis = tensor.axis(role)
    value = arguments[tensor.name]
    return 1 if axis is None or not isinstance(value, torch.Tensor) else value.shape[axis]


def _bind_sum(text: str, size: int, name: str, found: dict[str, tuple[int, str]]) -> None:
    """`B + 1` over a shape of 5 says B = 4."""
    match = _SUM.fullmatch(text.strip())
    if match is None:
        return
    base = size - int(match[2])
    known, where = found.setdefault(match[1], (base, name))
    _require(base, known, name, match[1], where)


def _shape(tensor: Tensor, value: Argument) -> tuple[int, ...]:
    shape = tuple(value.shape) if isinstance(value, torch.Tensor) else ()
    if len(shape) != len(tensor.axes):
        axes = ", ".join(axis.name for axis in tensor.axes)
        raise ValueError(f"{tensor.name}: expected {tensor.dtype.value}[{axes}], got shape {shape}")
    return shape


def _require(size: int, known: int, name: str, axis: str, where: str) -> None:
    if size != known:
        raise ValueError(f"axis {axis}: {size} in {name!r} but {known} in {where!r}")

"""Rows of streams in any declared layout: batch, grouped heads, packed, paged, scaled."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attngen.core.dtype import Dtype
from attngen.ir.attention import Tensor
from attngen.reference.sizes import Arguments


@dataclass(frozen=True)
class Streams:
    """The tensors of one call. compute: the dtype floats are converted to."""

    declared: dict[str, Tensor]
    arguments: Arguments
    compute: torch.dtype

    def tensor(self, name: str) -> torch.Tensor:
        """An argument as a tensor, floats in the compute dtype, whole numbers as int64."""
        value = self.arguments[name]
        if not isinstance(value, torch.Tensor):
            value = torch.tensor(value, device=self.device)
        if value.dtype == torch.bool:
            return value
        return value.to(self.compute if value.is_floating_point() else torch.int64)

    @property
    def device(self) -> torch.device:
        """Device of the first tensor."""
        tensors = (v for v in self.arguments.values() if isinstance(v, torch.Tensor))
        return next((t.device for t in tensors), torch.device("cpu"))

    def rows(self, name: str, b: int, heads: int) -> torch.Tensor:
        """Rows of sequence `b`, scaled: [heads, length, width].

        Heads are grouped: head h of `heads` reads head h * own // heads of the tensor.
        """
        declared = self.declared[name]
        if declared.dtype.is_quantised:
            raise ValueError(f"{name}: the reference does not read {declared.dtype.value}")
        values = self._scaled(declared)
        layout = self._sequence(declared, values, b)
        own = layout.shape[0]
        if heads % own:
            raise ValueError(f"{name}: {own} heads do not divide the {heads} heads of the query")
        return layout.repeat_interleave(heads // own, 0)

    def length(self, name: str, b: int) -> int:
        """Number of positions of a stream in sequence `b`."""
        declared = self.declared[name]
        if declared.packed is not None:
            start, stop = self._bounds(declared.packed, b)
            return stop - start
        if declared.paged is not None:
            return int(self.tensor(declared.paged[1])[b])
        axis = declared.axis("position")
        value = self.arguments[name]
        return value.shape[axis] if axis is not None and isinstance(value, torch.Tensor) else 1

    def element(self, name: str, index: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Elements at broadcasting indices; an index out of range reads the nearest element.

        The value there never matters: a spec guards such a read with its mask or `where`.
        """
        values = self.tensor(name)
        if not index:
            return values.reshape(())
        if values.numel() == 0:
            return values.new_zeros(()).expand(sum(index, index[0]).shape)
        safe = (i.clamp(0, size - 1) for i, size in zip(index, values.shape, strict=True))
        return values[tuple(safe)]

    def _scaled(self, declared: Tensor) -> torch.Tensor:
        values = self.tensor(declared.name)
        if declared.scaled is None:
            return values
        scale, axes = self.tensor(declared.scaled), self.declared[declared.scaled].axes
        names, shape = [axis.name for axis in axes], []
        for axis in declared.axes:  # the axes of a scale are some of the tensor's, in order
            shape.append(scale.shape[len(axes) - len(names)] if names[:1] == [axis.name] else 1)
            names = names[1:] if names[:1] == [axis.name] else names
        if names:
            raise ValueError(f"{declared.scaled}: axis {names[0]} is not one of {declared.name!r}")
        return values * scale.reshape(shape)

    def _sequence(self, declared: Tensor, values: torch.Tensor, b: int) -> torch.Tensor:
        """[own heads, length, width] of one sequence."""
        if declared.paged is not None:
            return self._pages(declared, values, b)
        order = [declared.axis(role) for role in ("batch", "head", "position")]
        batch, head, position = order
        index: list[int | slice] = [slice(None)] * values.dim()
        if declared.packed is not None and position is not None:
            index[position] = slice(*self._bounds(declared.packed, b))
        elif batch is not None:
            index[batch] = b
        kept = [axis for axis in range(values.dim()) if not isinstance(index[axis], int)]
        values = values[tuple(index)]
        if position is not None and head is not None and kept.index(position) < kept.index(head):
            values = values.transpose(kept.index(position), kept.index(head))
        if position is None:  # one row, the same at every position
            values = values.unsqueeze(-2)
        return values if head is not None else values.unsqueeze(0)

    def _pages(self, declared: Tensor, values: torch.Tensor, b: int) -> torch.Tensor:
        """Gather the pages of one sequence. Axes but head and the last are page, then slot."""
        table, _ = declared.paged or ("", "")
        head, last = declared.axis("head"), values.dim() - 1
        page, slot = (axis for axis in range(last) if axis != head)
        values = values.permute(page, slot, *([head] if head is not None else []), last)
        if head is None:
            values = values.unsqueeze(2)
        length = self.length(declared.name, b)
        count = -(-length // values.shape[1])
        pages = values[self.tensor(table)[b, :count]]
        return pages.flatten(0, 1)[:length].transpose(0, 1)

    def _bounds(self, boundaries: str, b: int) -> tuple[int, int]:
        start, stop = self.tensor(boundaries)[b : b + 2].tolist()
        return int(start), int(stop)


def half_of(declared: Tensor) -> bool:
    """Whether a tensor is multiplied on tensor cores as 16-bit numbers."""
    return declared.dtype in (Dtype.HALF, Dtype.F16, Dtype.BF16) or declared.dtype.bytes == 1

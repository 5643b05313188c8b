"""How a kernel is called once its arguments are known to be good: a plan per signature."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from attngen.core.diagnostics import CallError, Diagnostic
from attngen.ir.attention import Tensor
from attngen.runtime.bind import found
from attngen.runtime.checks import Call
from attngen.runtime.scalars import Scalar

ALIGNMENT = 16  # bytes: what tensor descriptors ask of an address and of strides

Copy: TypeAlias = "tuple[int, Callable[[torch.Tensor], torch.Tensor]]"


def signature(values: Sequence[Any]) -> Hashable | None:
    """Everything a plan depends on; None if an argument is no ordinary tensor or number."""
    key: list[Any] = []
    add = key.append  # a call of every call: microseconds count here
    try:
        for v in values:
            if isinstance(v, torch.Tensor):
                kind = v.__class__  # a tensor without contents is of a class of its own
                address = v.data_ptr() % ALIGNMENT
                add((kind, v.shape, v.stride(), v.dtype, v.device, v.requires_grad, address))
            else:
                add(type(v))
        return tuple(key)
    except (RuntimeError, NotImplementedError):  # sparse, meta and fake tensors
        return None


class _Thread(threading.local):
    bound = False


THREAD = _Thread()


def bind_thread(device: str) -> None:
    """Make the GPU's context the current one of this thread, once.

    A thread such as autograd's has none until the CUDA runtime does something in it, and memory may
    come from torch's cache: tensor descriptors, which the driver makes, would be refused.
    """
    if device != "cpu":
        place = torch.device(device)
        with torch.cuda.device(place):
            torch.cuda.set_device(place)
            if not torch.cuda.is_current_stream_capturing():
                torch.empty(1, device=place).zero_()
        THREAD.bound = True


@dataclass(slots=True)
class Plan:
    """One way to call: the host function, and what must be done to the arguments first.

    plain: nothing must be done; copies: (position, why); scalars, boundaries: positions to look at
    in each call; guard: index of a GPU that is not always the current one.
    """

    call: Call
    entry: Callable[..., tuple[Any, ...]]
    single: bool
    plain: bool
    copies: tuple[Copy, ...] = ()
    scalars: tuple[tuple[int, Scalar], ...] = ()
    boundaries: tuple[tuple[int, str, int], ...] = ()
    guard: int | None = None

    def run(self, values: Sequence[Any]) -> Any:
        """The result, or the tuple of results."""
        if not THREAD.bound:
            bind_thread(self.call.device)
        results = self.entry(*values) if self.plain else self._prepared(list(values))
        return results[0] if self.single else results

    def _prepared(self, values: list[Any]) -> tuple[Any, ...]:
        for position, scalar in self.scalars:
            values[position] = scalar.convert(values[position])
        for position, name, total in self.boundaries:
            require_boundaries(name, values[position], total)
        for position, copy in self.copies:
            values[position] = copy(values[position])
        if self.guard is None or torch.cuda.current_device() == self.guard:
            return self.entry(*values)
        with torch.cuda.device(self.guard):
            return self.entry(*values)


def aligned(tensor: torch.Tensor, broadcast: bool = False) -> bool:
    """Whether a tensor descriptor can be made over it: address and strides in units of 16 bytes.

    broadcast: strides of 0 will do, but for the last two axes.
    """
    unit = ALIGNMENT // tensor.element_size()
    strides = tensor.stride()
    return (
        strides[-1:] in ((1,), ())
        and tensor.data_ptr() % ALIGNMENT == 0
        and all(stride % unit == 0 for stride in strides[:-1])
        and all(stride > 0 for stride in (strides[-2:-1] if broadcast else strides[:-1]))
    )


def align(tensor: torch.Tensor) -> torch.Tensor:
    """A copy over which a tensor descriptor can be made: rows padded to 16 bytes."""
    unit = max(1, ALIGNMENT // tensor.element_size())
    width = -(-tensor.shape[-1] // unit) * unit
    store = torch.empty((*tensor.shape[:-1], width), dtype=tensor.dtype, device=tensor.device)
    return store[..., : tensor.shape[-1]].copy_(tensor)


def packed_boundaries(
    declared: Sequence[Tensor], values: Sequence[Any]
) -> tuple[tuple[int, str, int], ...]:
    """(position, name, number of tokens) of each tensor of sequence boundaries."""
    names = [tensor.name for tensor in declared]
    found = {
        t.packed: int(values[i].shape[axis])
        for i, t in enumerate(declared)
        if t.packed is not None and (axis := t.axis("position")) is not None
    }
    return tuple((names.index(name), name, total) for name, total in found.items())


def require_boundaries(name: str, value: torch.Tensor, total: int) -> None:
    """CallError E514 unless boundaries start at 0, never decrease and end at the token count."""
    listed = value.tolist()
    wrong = next((i for i in range(1, len(listed)) if listed[i] < listed[i - 1]), None)
    if not listed or listed[0] != 0:
        problem = f"starts at {listed[0] if listed else 'nothing'}, expected 0"
    elif wrong is not None:
        problem = f"decreases at index {wrong}, from {listed[wrong - 1]} to {listed[wrong]}"
    elif listed[-1] != total:
        problem = f"ends at {listed[-1]}, expected {total}, the number of tokens"
    else:
        return
    fix = f"{name} holds the first token of each sequence, and last the number of tokens"
    raise CallError(Diagnostic("E514", f"{name} {problem}", help=fix))


def require_narrow(call: Call, declared: Sequence[Tensor], values: Sequence[Any]) -> None:
    """CallError E515: a tensor descriptor's strides are 40-bit numbers of bytes."""
    if not call.wide:
        return
    value = next(v for t, v in zip(declared, values, strict=True) if t.name == call.wide[0])
    message = (
        f"{call.wide[0]}: a stride is 2**40 bytes or more, found {found(value)} with strides "
        f"{list(value.stride())}; expected less"
    )
    raise CallError(Diagnostic("E515", message, help=f"{call.wide[0]}.contiguous()"))

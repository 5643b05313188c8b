"""What is left of a call once its signature is known: allocate, fill in addresses, launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .arguments import convert
from .errors import PackageError
from .piece import ALIGNMENT, MisfitError
from .prepare import Preparation, result

try:
    _raw_stream: Callable[[int], int] = torch._C._cuda_getCurrentRawStream
except AttributeError:  # a torch built without CUDA

    def _raw_stream(device: int) -> int:
        return int(torch.cuda.current_stream(device).cuda_stream)


def stream_of(device: int) -> int:
    """The handle of the current stream."""
    return _raw_stream(device)


class Ready:
    """One signature of one program, in one thread; `run` may not be entered twice at a time."""

    __slots__ = (
        "arena",
        "arrays",
        "checks",
        "copies",
        "count",
        "device",
        "ends",
        "finish",
        "guard",
        "index",
        "memory",
        "needed",
        "offsets",
        "pieces",
        "plain",
        "single",
    )

    def __init__(
        self,
        prepared: Preparation,
        copies: tuple[int, ...],
        scalars: tuple[tuple[int, str, Any], ...],
        single: bool,
    ) -> None:
        p = prepared
        self.device, self.index = p.device, max(0, p.device.index or 0)
        self.copies, self.checks = copies, scalars
        self.single, self.count = single, len(p.arguments)
        several = p.device.type == "cuda" and torch.cuda.device_count() > 1
        self.guard = several
        self.arrays = tuple(
            (shape.shape, shape.dtype, torch.zeros if zero else torch.empty)
            for _, shape, zero in p.made
        )
        self.plain = not (copies or scalars)
        self.ends = tuple(p.ends)
        self.arena = p.arena
        self.offsets = tuple(offset for _, offset in p.scratch)
        self.pieces = tuple(p.pieces)
        self.finish = _finish(p)
        self.needed = _needed(p)
        self.memory: Any = None

    def run(self, values: Sequence[Any]) -> Any:
        """The results; values: the arguments, as the signature says."""
        if self.guard and torch.cuda.current_device() != self.index:
            with torch.cuda.device(self.index):
                return self._run(values)
        return self._run(values)

    def _run(self, values: Sequence[Any]) -> Any:
        given = list(values)
        if not self.plain:
            self._prepare(given)
        device = self.device
        for shape, dtype, make in self.arrays:
            given.append(make(shape, dtype=dtype, device=device))
        for at, i in self.ends:
            torch.searchsorted(given[i], given[i], right=True, out_int32=True, out=given[at])
        addresses = [given[i].data_ptr() if n else 0 for i, n in enumerate(self.needed)]
        if self.arena:
            scratch = torch.empty((self.arena,), dtype=torch.uint8, device=device)
            base = scratch.data_ptr()
            addresses += [base + offset for offset in self.offsets]
        stream = stream_of(self.index)
        for piece in self.pieces:
            piece.run(addresses, given, stream)
        if self.single:
            return given[self.count]
        return self.finish(given)

    def _prepare(self, given: list[Any]) -> None:
        """Numbers checked, tensors that no kernel takes copied."""
        for i, name, declared in self.checks:
            given[i] = convert(name, declared, given[i])
        for i in self.copies:
            given[i] = align(given[i])


def _needed(p: Preparation) -> tuple[bool, ...]:
    """Which of arguments and arrays a launch wants the address of."""
    used = {i for piece in p.pieces for i in piece.used}
    return tuple(i in used for i in range(len(p.arguments) + len(p.made)))


def _finish(p: Preparation) -> Callable[[list[Any]], tuple[torch.Tensor, ...]]:
    """What is done after the launches: often nothing but taking the results."""
    places = p.places
    if not p.later and all(isinstance(tree, str) and tree in places for tree in p.returned):
        at = tuple(places[tree] for tree in p.returned)
        return lambda values: tuple([values[i] for i in at])
    names = sorted(places, key=places.__getitem__)

    def finish(values: list[Any]) -> tuple[torch.Tensor, ...]:
        arrays = dict(zip(names, values, strict=True))
        for name, tree in p.later:
            arrays[name] = result(tree, arrays)
        return tuple([result(tree, arrays) for tree in p.returned])

    return finish


def align(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that any kernel takes: address and rows in units of 16 bytes."""
    unit = max(1, ALIGNMENT // tensor.element_size())
    width = -(-tensor.shape[-1] // unit) * unit
    store = torch.empty((*tensor.shape[:-1], width), dtype=tensor.dtype, device=tensor.device)
    return store[..., : tensor.shape[-1]].copy_(tensor)


def prepare(
    make: Callable[[dict[str, torch.Tensor]], Preparation],
    declared: Sequence[tuple[str, Any]],
    values: Sequence[Any],
    single: bool,
) -> Ready:
    """A signature made ready; arguments that no kernel takes as they lie are copied in each call.

    declared: (name, None) of a tensor, (name, (kernel's name, declaration)) of a scalar.
    """
    places = {name: i for i, (name, _) in enumerate(declared)}
    scalars = tuple((i, s[0], s[1]) for i, (_, s) in enumerate(declared) if s is not None)
    tensors = {n: v for (n, s), v in zip(declared, values, strict=True) if s is None}
    copies = {n for n, t in tensors.items() if t.ndim and t.shape[-1] > 1 and t.stride(-1) != 1}
    for _ in range(3):
        shown = {n: align(t) if n in copies else t for n, t in tensors.items()}
        try:
            prepared = make(shown).build()
        except MisfitError as misfit:
            if misfit.wanted <= copies:
                raise PackageError(f"a copy of {misfit} does not fit either") from None
            copies |= misfit.wanted
            continue
        order = tuple(sorted(places[n] for n in copies))
        return Ready(prepared, order, scalars, single)
    raise PackageError(f"no copies of {', '.join(sorted(copies))} fit")

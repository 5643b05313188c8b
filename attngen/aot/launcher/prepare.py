"""From a program of the manifest and the shapes of a call to a few lists that only want addresses.

Everything that follows from shapes, strides and dtypes is computed once: the grid, sizes to
allocate, numbers that kernels take. A call then allocates, fills in addresses and launches.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .descriptors import Maker
from .errors import ArgumentError, SchemaError
from .piece import ALIGNMENT, PACK, MisfitError, Piece, bits
from .structs import Structs
from .values import array, names, number

ARENA = 256  # bytes: where each array of the scratch memory may begin
MOST_X, MOST_Y = 2**31 - 1, 65535
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int32": torch.int32,
    "int64": torch.int64,
}


@dataclass
class Shape:
    """Shape, strides, bytes of an element and address of a tensor, known before it exists."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    size: int
    dtype: torch.dtype
    pointer: int = 0

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Shape:
        """Of a tensor."""
        shape, strides = tuple(tensor.shape), tuple(tensor.stride())
        return cls(shape, strides, tensor.element_size(), tensor.dtype, tensor.data_ptr())

    @classmethod
    def new(cls, shape: Sequence[int], dtype: torch.dtype) -> Shape:
        """Of a contiguous one."""
        strides, step = [], 1
        for size in reversed(shape):
            strides.append(step)
            step *= max(1, size)
        return cls(tuple(shape), tuple(reversed(strides)), dtype.itemsize, dtype)


_STEPS = frozenset(("let", "array", "ends", "rows", "launch"))


class Preparation:
    """Works through the steps of a program for one set of shapes.

    tensors: the arguments by name; scalars: their positions by name; load: (kernel name) ->
    (function, entry of the manifest); device: index.
    """

    def __init__(
        self,
        driver: Any,
        program: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
        load: Callable[[str], tuple[int, dict[str, Any]]],
        device: torch.device,
    ) -> None:
        self.driver, self.program, self.load, self.device = driver, program, load, device
        self.arguments: list[str] = list(program["arguments"])
        self.places = {name: i for i, name in enumerate(self.arguments)}
        self.shapes = {name: Shape.of(t) for name, t in tensors.items()}
        self.given = frozenset(self.shapes)
        self.known: dict[str, Any] = {}
        self.made: list[tuple[str, Shape, bool]] = []  # arrays of their own
        self.scratch: list[tuple[str, int]] = []  # (name, offset) inside of one allocation
        self.arena = 0
        self.ends: list[tuple[int, int]] = []  # (array, sorted argument): ends of its runs
        self.waiting: list[tuple[_Filler | Structs, int, tuple[int, int, int]]] = []
        self.pieces: list[Piece] = []
        self.later: list[tuple[str, Any]] = []
        self.returned: list[Any] = []
        self.misfits: set[str] = set()
        self._read = self._needed()

    def build(self) -> Preparation:
        """Itself, complete. MisfitError: what must be copied; ArgumentError: what cannot be."""
        for step in self.program["host"]:
            kind, *rest = step
            if kind == "return":
                self.returned = rest[0]
                continue
            if kind not in _STEPS:
                raise SchemaError(f"the manifest has a step {kind!r} this launcher does not know")
            getattr(self, f"_{kind}")(*rest)
        if self.misfits:
            raise MisfitError(self.misfits)
        base = len(self.arguments) + len(self.made)
        places = self.places | {name: base + i for i, (name, _) in enumerate(self.scratch)}
        self.pieces = [f.piece(function, grid, places) for f, function, grid in self.waiting]
        return self

    def _needed(self) -> set[str]:
        """Arrays that torch reads: results, and what sums are made of."""
        trees = [s[2] for s in self.program["host"] if s[0] == "let"]
        trees += [tree for s in self.program["host"] if s[0] == "return" for tree in s[1]]
        return {n for tree in trees for n in names(tree)}

    def _let(self, name: str, tree: Any) -> None:
        if names(tree) <= set(self.known):
            self.known[name] = number(tree, self.known, self.shapes)
        else:
            self.later.append((name, tree))

    def _array(self, name: str, tensor: str, shape: Any, dtype: str | None, zero: bool) -> None:
        like = self.shapes[tensor]
        sizes = like.shape
        if shape is not None:
            sizes = tuple(number(s, self.known, self.shapes) for s in shape)
        made = Shape.new(sizes, DTYPES[dtype] if dtype else like.dtype)
        self.shapes[name] = made
        if name in self._read or zero:
            self.places[name] = len(self.arguments) + len(self.made)
            self.made.append((name, made, zero))
        else:
            self.scratch.append((name, self.arena))
            self.arena += -(-math.prod(sizes) * made.size // ARENA) * ARENA

    def _ends(self, name: str, tensor: str) -> None:
        made = Shape.new(self.shapes[tensor].shape, torch.int32)
        self.shapes[name] = made
        self.places[name] = len(self.arguments) + len(self.made)
        self.made.append((name, made, False))
        self.ends.append((self.places[name], self.places[tensor]))

    def _rows(self, wanted: Sequence[str]) -> None:
        """These arguments are read by rows of 16 bytes, by descriptors with strides of 40 bits."""
        for name in self.given & {*wanted}:
            t = self.shapes[name]
            steps = [s * t.size for s in t.strides[:-1]]
            if any(s >= 1 << 40 for s in steps):
                raise ArgumentError(f"{name}: a stride of 2**40 bytes or more: {t.strides}")
            odd = any(s % ALIGNMENT or s <= 0 for s in steps)
            if odd or t.pointer % ALIGNMENT or t.strides[-1] != 1:
                self.misfits.add(name)

    def _launch(self, name: str, grid: Sequence[Any], given: Sequence[Any]) -> None:
        function, kernel = self.load(name)
        sizes = [number(g, self.known, self.shapes) for g in grid]
        x, y, z = (*sizes, 1, 1)[:3]
        if x * kernel["clusters"] > MOST_X or y > MOST_Y or z > MOST_Y:
            raise ArgumentError(f"{name}: {x} x {y} x {z} programs are more than a GPU starts")
        filler = (Structs if kernel["backend"] == "cute" else _Filler)(self, kernel)
        for i, (type_, value) in enumerate(zip(kernel["parameters"], given, strict=True)):
            filler.add(type_, value, i in kernel["divisible"])
        if 0 not in (x, y, z):
            self.waiting.append((filler, function, (x, y, z)))


class _Filler:
    """The parameters of one launch."""

    def __init__(self, preparation: Preparation, kernel: dict[str, Any]) -> None:
        self.p, self.kernel = preparation, kernel
        self.constants: list[int] = []
        self.pointers: list[tuple[int, str]] = []
        self.numbers: list[tuple[int, int, str]] = []
        self.maps: list[tuple[int, str, Maker]] = []
        self.order: list[int | None] = []  # slot of each parameter; None: a descriptor
        self.descriptors = iter(kernel["descriptors"])

    def add(self, type_: str, value: Any, divisible: bool) -> None:
        """One parameter of the kernel as Triton declares it."""
        if type_.startswith("tensordesc"):
            self._descriptor(value)
        elif type_.startswith("*"):
            self.pointers.append((self._slot(0), value))
            if divisible and value in self.p.given and self.p.shapes[value].pointer % ALIGNMENT:
                self.p.misfits.add(value)
        elif isinstance(value, str) and value in self.p.places:
            self.numbers.append((self._slot(0), self.p.places[value], PACK[type_]))
        else:
            self._number(type_, value, divisible)

    def piece(self, function: int, grid: tuple[int, int, int], places: Mapping[str, int]) -> Piece:
        """The launch, with every constant in its slot."""
        scratch, alignment = self.kernel["scratch"]
        if scratch or self.kernel["profile_scratch"]:
            raise SchemaError(f"{self.kernel['symbol']} wants scratch memory ({alignment})")
        self._slot(0)
        self._slot(0)
        slots = (ctypes.c_uint64 * len(self.constants))(*self.constants)
        first = ctypes.addressof(slots)
        addresses = [None if s is None else first + 8 * s for s in self.order]
        parameters = (ctypes.c_void_p * len(addresses))(*addresses)
        launch = self.p.driver.launcher(function, grid, self.kernel, parameters)
        return Piece(
            launch,
            slots,
            parameters,
            tuple((slot, places[name]) for slot, name in self.pointers),
            tuple(self.numbers),
            tuple((at, places[name], maker) for at, name, maker in self.maps),
        )

    def _slot(self, value: int) -> int:
        self.constants.append(value)
        self.order.append(len(self.constants) - 1)
        return len(self.constants) - 1

    def _number(self, type_: str, tree: Any, divisible: bool) -> None:
        value = number(tree, self.p.known, self.p.shapes)
        stride = isinstance(tree, list) and tree[0] == "stride"
        odd = value > MOST_X or (divisible and value % ALIGNMENT)
        if odd and stride and self.p.shapes[tree[1]].shape[tree[2]] <= 1:
            value = 0  # never stepped along
        if divisible and value % ALIGNMENT:
            self.p.misfits.add(tree[1])
        try:
            self._slot(bits(PACK[type_], value))
        except struct.error:
            what = f"the stride of axis {tree[2]} of {tree[1]}" if stride else f"{tree}"
            raise ArgumentError(
                f"{self.kernel['symbol']}: {what} is {value}: more than {type_} holds"
            ) from None

    def _descriptor(self, given: Sequence[Any]) -> None:
        _, base, shape, strides, _ = given
        meta = next(self.descriptors)  # even of one that is left out: the others follow in order
        p, known, shapes = self.p, self.p.known, self.p.shapes
        sizes = [number(s, known, shapes) for s in shape]
        steps = [number(s, known, shapes) for s in strides]
        tensor = shapes[base]
        odd = any(s * tensor.size % ALIGNMENT or s <= 0 for s in steps[:-1])
        if base in p.given and (odd or tensor.pointer % ALIGNMENT or tensor.strides[-1] != 1):
            p.misfits.add(base)
            return
        if any(s * tensor.size >= 1 << 40 for s in steps):
            raise ArgumentError(f"{base}: a stride of 2**40 bytes or more: {tensor.strides}")
        maker = Maker(p.driver, sizes, steps, meta)
        self.order.append(None)
        self.maps.append((len(self.order) - 1, base, maker))
        for size in sizes:
            self._slot(bits("<i", size))
        for step in steps:
            self._slot(bits("<q", step))


def zeros(tensor: torch.Tensor | float, device: torch.Tensor, scalar: bool) -> torch.Tensor:
    """A gradient of zeros."""
    if scalar or not isinstance(tensor, torch.Tensor):
        return torch.zeros((), dtype=torch.float32, device=device.device)
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device=device.device)


def result(tree: Any, arrays: Mapping[str, Any]) -> torch.Tensor:
    """One returned value."""
    if isinstance(tree, list) and tree[0] == "zeros":
        return zeros(arrays[tree[1]], arrays[tree[2]], tree[3])
    found: torch.Tensor = array(tree, arrays)
    return found

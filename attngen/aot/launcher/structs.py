"""Parameters of kernels made by the CuTe DSL: structs whose fields the manifest lists.

A field is a number, or `["address", array, bytes after its beginning]`. A tensor descriptor is one
of them, 16 words of which the first is an address: the kernel's own host code makes it of shapes
and strides, and so does the manifest's arithmetic, without the driver.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import ArgumentError
from .piece import PACK, Piece, bits
from .values import number

MAP = "tensormap"
MAP_FIELDS = ("ptr", *["u64"] * 15)
LINE = 8  # slots of 8 bytes: where a tensor descriptor may begin
_SIZES = {"ptr": 8, "u64": 8, "i64": 8, "fp64": 8, "i32": 4, "fp32": 4, "i8": 1, "i1": 1}
_CODES = {**PACK, "u64": "<Q"}


class Structs:
    """The parameters of one launch; shapes, numbers and places are the preparation's."""

    def __init__(self, preparation: Any, kernel: dict[str, Any]) -> None:
        self.p, self.kernel = preparation, kernel
        self.data = bytearray()
        self.starts: list[int] = []
        self.pointers: list[tuple[int, str, int]] = []
        self.numbers: list[tuple[int, str, str]] = []

    def add(self, type_: str, fields: Sequence[Any], _: bool) -> None:
        """One parameter."""
        line = 8 * LINE if type_ == MAP else 8
        self.data += bytes(-len(self.data) % line)
        start = len(self.data)
        self.starts.append(start // 8)
        kinds = MAP_FIELDS if type_ == MAP else type_.split()
        for kind, field in zip(kinds, fields, strict=True):
            size = _SIZES[kind]
            self.data += bytes((start - len(self.data)) % size)
            self._field(kind, field)

    def piece(self, function: int, grid: tuple[int, int, int], places: Mapping[str, int]) -> Piece:
        """The launch, with every number in its place."""
        self.data += bytes(-len(self.data) % 8)
        count = len(self.data) // 8
        room = (ctypes.c_uint64 * (count + LINE))()
        skipped = -ctypes.addressof(room) % (8 * LINE)
        slots = (ctypes.c_uint64 * count).from_buffer(room, skipped)
        ctypes.memmove(slots, bytes(self.data), len(self.data))
        first = ctypes.addressof(slots)
        parameters = (ctypes.c_void_p * len(self.starts))(*[first + 8 * s for s in self.starts])
        launch = self.p.driver.launcher(function, grid, self.kernel, parameters)
        plain = [(slot, places[name]) for slot, name, offset in self.pointers if not offset]
        shifted = [(slot, places[name], offset) for slot, name, offset in self.pointers if offset]
        numbers = tuple((slot, places[name], code) for slot, name, code in self.numbers)
        return Piece(launch, slots, parameters, tuple(plain), numbers, (), tuple(shifted))

    def _field(self, kind: str, field: Any) -> None:
        slot = len(self.data) // 8
        if kind == "ptr":
            _, name, offset = field
            self.pointers.append((slot, name, offset))
            self.data += bytes(8)
            return
        code = _CODES[kind]
        if isinstance(field, str) and field in self.p.places:
            self.numbers.append((slot, field, code))
            self.data += bytes(_SIZES[kind])
            return
        value = number(field, self.p.known, self.p.shapes)
        try:
            self.data += bits(code, value).to_bytes(_SIZES[kind], "little")
        except struct.error:
            raise ArgumentError(
                f"{self.kernel['symbol'][:60]}: {field} is {value}: more than {kind} holds"
            ) from None

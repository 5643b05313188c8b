"""One launch of a call: memory with every number in its place, which only wants addresses."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .descriptors import Maker

ALIGNMENT = 16  # bytes: of addresses, and in elements of the strides that kernels count on
PACK = {"i32": "<i", "i64": "<q", "fp32": "<f", "fp64": "<d", "i1": "<b", "i8": "<b"}


@dataclass
class Piece:
    """What to fill in, and the function that launches on a stream.

    pointers: (slot, argument); numbers: (slot, argument, format); maps: (parameter, argument,
    descriptors); shifted: (slot, argument, bytes after its beginning).
    """

    launch: Callable[[int], None]
    slots: Any
    parameters: Any
    pointers: tuple[tuple[int, int], ...]
    numbers: tuple[tuple[int, int, str], ...]
    maps: tuple[tuple[int, int, Maker], ...] = ()
    shifted: tuple[tuple[int, int, int], ...] = ()

    def run(self, addresses: Sequence[int], values: Sequence[Any], stream: int) -> None:
        """Fill in and launch."""
        slots = self.slots
        for slot, i in self.pointers:
            slots[slot] = addresses[i]
        for slot, i, code in self.numbers:
            slots[slot] = bits(code, values[i])
        for parameter, i, maker in self.maps:
            self.parameters[parameter] = maker.address(addresses[i])
        for slot, i, offset in self.shifted:
            slots[slot] = addresses[i] + offset
        self.launch(stream)

    @property
    def used(self) -> set[int]:
        """The arguments and arrays whose address it wants."""
        pairs = [(i, slot) for slot, i in self.pointers] + [(i, at) for at, i, _ in self.maps]
        return {i for i, _ in pairs} | {i for _, i, _ in self.shifted}


def bits(code: str, value: Any) -> int:
    """A number as the 64 bits of its slot; struct.error if it does not fit."""
    raw = struct.pack(code, value)
    return int.from_bytes(raw, "little")


class MisfitError(Exception):
    """Arguments (by name) that must be copied before a kernel can take them."""

    def __init__(self, wanted: set[str]) -> None:
        super().__init__(", ".join(sorted(wanted)))
        self.wanted = wanted

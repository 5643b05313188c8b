"""Tensor descriptors (TMA): 128 bytes that the driver makes from an address, sizes and strides."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any

SIZE, ALIGNMENT = 128, 128
REMEMBERED = 256  # addresses per descriptor
_TYPES = {8: 10, 9: 8, 10: 9}  # Triton's numbers of floating types -> CUtensorMapDataType
_FIXED_DRIVER, _SMALL, _WRONG_BIT = 13010, 128 * 1024, 1 << 21
_PROMOTE_L2 = 2  # 128 bytes


class Maker:
    """Descriptors over tensors that differ only in their address; made when first met."""

    def __init__(
        self, cuda: Any, shape: Sequence[int], strides: Sequence[int], meta: dict[str, Any]
    ) -> None:
        rank, size = len(shape), meta["elem_size"]
        self.cuda, self.rank, self.meta = cuda, rank, meta
        sizes = list(reversed(shape))
        sizes[0] *= 2 if meta["fp4_padded"] else 1
        steps = [s * size for s in reversed(strides[:-1])]
        self.sizes = (ctypes.c_uint64 * rank)(*sizes)
        self.steps = (ctypes.c_uint64 * max(rank - 1, 1))(*steps)
        self.box = (ctypes.c_uint32 * rank)(*reversed(meta["block_size"]))
        self.ones = (ctypes.c_uint32 * rank)(*([1] * rank))
        extent = 1 + sum((n - 1) * step for n, step in zip(sizes, [size, *steps], strict=True))
        self.mend = cuda.version <= _FIXED_DRIVER and extent < _SMALL
        self.made: dict[int, tuple[int, Any]] = {}

    def address(self, pointer: int) -> int:
        """Where the descriptor of a tensor at that address lies."""
        found = self.made.get(pointer)
        return found[0] if found is not None else self._make(pointer)

    def _make(self, pointer: int) -> int:
        if len(self.made) >= REMEMBERED:  # the driver has copied what was launched
            self.made.clear()
        raw = ctypes.create_string_buffer(SIZE + ALIGNMENT)
        place = -(-ctypes.addressof(raw) // ALIGNMENT) * ALIGNMENT
        kind = self.meta["elem_type"]
        status = self.cuda.library.cuTensorMapEncodeTiled(
            place,
            _TYPES.get(kind, kind),
            self.rank,
            pointer,
            self.sizes,
            self.steps,
            self.box,
            self.ones,
            0,
            self.meta["swizzle"],
            _PROMOTE_L2,
            0,
        )
        self.cuda.check(status, "making a tensor descriptor")
        if self.mend:
            # drivers up to 13.1 set a bit too many for tensors below 128 KiB; CUTLASS and later
            # versions of Triton clear it too
            offset = place - ctypes.addressof(raw) + 8
            (word,) = struct.unpack_from("<Q", raw, offset)
            struct.pack_into("<Q", raw, offset, word & ~_WRONG_BIT)
        self.made[pointer] = (place, raw)
        return place

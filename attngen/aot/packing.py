"""How the file of a kernel is stored: as it is, or packed by xz.

CuTe's cubins are large, and kernels for older drivers are rarely loaded: both are packed.
"""

from __future__ import annotations

import lzma
from typing import Any

SUFFIX = ".xz"


def pack(data: bytes) -> bytes:
    """Packed; the same bytes for the same version of liblzma."""
    return lzma.compress(data, check=lzma.CHECK_CRC32, preset=9 | lzma.PRESET_EXTREME)


def image_name(path: str) -> str:
    """Where a file is unpacked."""
    return path.removesuffix(SUFFIX)


def unpacked(entry: dict[str, Any], data: bytes) -> bytes:
    """The binary of an entry of the manifest; ValueError: it cannot be unpacked."""
    if entry.get("packing") != "xz":
        return data
    try:
        return lzma.decompress(data)
    except lzma.LZMAError as error:
        raise ValueError(f"cannot be unpacked: {error}") from None

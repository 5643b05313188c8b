"""What a compiled kernel says about itself: NVIDIA's cubin and AMD's hsaco are ELF files.

A cubin carries attributes (`.nv.info`), a hsaco a note in MessagePack. Layout of the attributes:
CUDA Binary Utilities, and what cuobjdump prints; of the note: LLVM, User Guide for AMDGPU Backend.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

REGISTERS, FRAME, PARAMETER, THREADS = 0x2F, 0x11, 0x17, 0x10
SYMBOL = 24  # bytes of an entry of the symbol table
SIZED = 4  # format of an attribute whose contents follow it
AMD_METADATA = 32


@dataclass(frozen=True)
class Facts:
    """Of one kernel. parameters: (offset, bytes), offsets from that of the first.

    registers, frame (bytes of local memory) per thread; shared: bytes the file itself asks for;
    threads: of a program, 0 if it does not say.
    """

    symbol: str
    parameters: tuple[tuple[int, int], ...]
    registers: int
    frame: int
    shared: int
    threads: int


def read(data: bytes, symbol: str = "") -> Facts:
    """The facts of a kernel of a file, of its only one if it is not named.

    ValueError: it is no such file, it is cut short, or has no such kernel.
    """
    try:
        sections = dict(_sections(data))
        return _hsaco(sections[".note"]) if ".note" in sections else _cubin(sections, symbol)
    except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"a damaged binary: {error}") from None


def _sections(data: bytes) -> Iterator[tuple[str, bytes]]:
    if data[:4] != b"\x7fELF" or data[4] != 2:
        raise ValueError("not an ELF file of 64 bits")
    (start,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    (segments,) = struct.unpack_from("<Q", data, 0x20)
    segment_size, segment_count = struct.unpack_from("<HH", data, 0x36)
    if max(start + size * count, segments + segment_size * segment_count) > len(data):
        raise ValueError("a damaged binary: cut short")
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, start + i * size) for i in range(count)]
    table = headers[names][4]
    for header in headers:
        end = data.index(b"\0", table + header[0])
        empty = header[1] == 8  # NOBITS: only its size counts
        contents = bytes(0) if empty else data[header[4] : header[4] + header[5]]
        name = data[table + header[0] : end].decode()
        yield (name, header[5].to_bytes(8, "little")) if empty else (name, contents)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    i = 0
    while i + 4 <= len(data):
        kind, number, size = struct.unpack_from("<BBH", data, i)
        if kind == SIZED:
            yield number, data[i + 4 : i + 4 + size]
            i += 4 + size
        else:
            yield number, data[i + 2 : i + 4]
            i += 4


def _cubin(sections: dict[str, bytes], wanted: str) -> Facts:
    own = f".nv.info.{wanted}" if wanted else _only(sections)
    symbol = own.removeprefix(".nv.info.")
    parameters: dict[int, tuple[int, int]] = {}
    threads = 0
    for number, value in _attributes(sections[own]):
        if number == PARAMETER:
            _, ordinal, offset, packed = struct.unpack("<IHHI", value)
            parameters[ordinal] = (offset, packed >> 18)
        elif number == THREADS:
            threads = struct.unpack_from("<I", value)[0]
    counts = dict(_counts(sections, symbol))
    first = min((offset for offset, _ in parameters.values()), default=0)
    ordered = tuple((o - first, s) for _, (o, s) in sorted(parameters.items()))
    shared = sections.get(f".nv.shared.{symbol}", b"")
    return Facts(
        symbol,
        ordered,
        counts.get(REGISTERS, 0),
        counts.get(FRAME, 0),
        int.from_bytes(shared[:8], "little"),
        threads,
    )


def _only(sections: dict[str, bytes]) -> str:
    found = [name for name in sections if name.startswith(".nv.info.")]
    if len(found) != 1:
        raise ValueError(f"a file of {len(found)} kernels")
    return found[0]


def _counts(sections: dict[str, bytes], symbol: str) -> Iterator[tuple[int, int]]:
    """(attribute, value) of a kernel among those that all kernels of a file are listed in."""
    symbols, texts = sections.get(".symtab", b""), sections.get(".strtab", b"")
    for number, value in _attributes(sections[".nv.info"]):
        if number in (REGISTERS, FRAME):
            index, count = struct.unpack("<II", value)
            (start,) = struct.unpack_from("<I", symbols, index * SYMBOL)
            if texts[start : texts.index(b"\0", start)].decode() == symbol:
                yield number, count


def _hsaco(note: bytes) -> Facts:
    name_size, size, kind = struct.unpack_from("<III", note)
    if kind != AMD_METADATA:
        raise ValueError("a note that is not AMD's")
    start = 12 + -(-name_size // 4) * 4
    found, _ = _unpack(note[start : start + size], 0)
    (kernel,) = found["amdhsa.kernels"]
    arguments = [a for a in kernel.get(".args", []) if not a[".value_kind"].startswith("hidden")]
    return Facts(
        kernel[".name"],
        tuple((a[".offset"], a[".size"]) for a in arguments),
        kernel[".vgpr_count"],
        kernel[".private_segment_fixed_size"],
        kernel[".group_segment_fixed_size"],
        kernel[".max_flat_workgroup_size"],
    )


def _unpack(data: bytes, i: int) -> tuple[Any, int]:
    """One value of MessagePack (the kinds that AMD's notes hold), and where the next begins."""
    tag = data[i]
    i += 1
    if tag <= 0x7F or tag >= 0xE0:
        return (tag if tag <= 0x7F else tag - 256), i
    if tag in _FIXED:
        code = _FIXED[tag]
        return struct.unpack_from(code, data, i)[0], i + struct.calcsize(code)
    if tag in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[tag], i
    kind, count, i = _sized(data, tag, i)
    if kind == "text":
        return data[i : i + count].decode(), i + count
    if kind == "list":
        out = []
        for _ in range(count):
            value, i = _unpack(data, i)
            out.append(value)
        return out, i
    pairs = {}
    for _ in range(count):
        key, i = _unpack(data, i)
        pairs[key], i = _unpack(data, i)
    return pairs, i


_FIXED = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i"}
_SIZED = {0xD9: ("text", 1), 0xDA: ("text", 2), 0xDB: ("text", 4), 0xDC: ("list", 2)}
_SIZED |= {0xDD: ("list", 4), 0xDE: ("map", 2), 0xDF: ("map", 4)}


def _sized(data: bytes, tag: int, i: int) -> tuple[str, int, int]:
    """(kind, count, where the contents begin) of a text, list or map."""
    if tag in _SIZED:
        kind, width = _SIZED[tag]
        return kind, int.from_bytes(data[i : i + width], "big"), i + width
    if 0xA0 <= tag <= 0xBF:
        return "text", tag & 0x1F, i
    if 0x90 <= tag <= 0x9F:
        return "list", tag & 0x0F, i
    if 0x80 <= tag <= 0x8F:
        return "map", tag & 0x0F, i
    raise ValueError(f"a kind of MessagePack value that is not expected: {tag:#x}")

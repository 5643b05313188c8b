"""Types of the host function's values, and the memory it builds parameters in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from attngen.cutelib.host.numbers import HostCodeError

_WORDS = re.compile(r"x(?= )|[A-Za-z!][\w.]*|\d+|[<>(),*]")
_POINTER = 8


@dataclass(frozen=True)
class Type:
    """A type as C lays it out.

    kind: "int", "float", "ptr", "struct"; an array is a struct of equal parts.
    """

    kind: str
    size: int
    alignment: int
    parts: tuple[Type, ...] = ()

    def at(self, index: int) -> tuple[int, Type]:
        """(offset, type) of a part."""
        offset = 0
        for i, part in enumerate(self.parts):
            offset = -(-offset // part.alignment) * part.alignment
            if i == index:
                return offset, part
            offset += part.size
        raise HostCodeError(f"a part {index} of {len(self.parts)}")

    def leaves(self, offset: int = 0) -> Iterator[tuple[int, Type]]:
        """(offset, type) of everything that is no struct."""
        if self.kind != "struct":
            yield offset, self
        for i in range(len(self.parts)):
            start, part = self.at(i)
            yield from part.leaves(offset + start)


def struct(parts: tuple[Type, ...]) -> Type:
    """A struct; parts where C puts them."""
    alignment = max([p.alignment for p in parts], default=1)
    end = 0
    for p in parts:
        end = -(-end // p.alignment) * p.alignment + p.size
    return Type("struct", -(-end // alignment) * alignment, alignment, parts)


def read_type(text: str) -> Type:
    """From the text of a type of MLIR's LLVM dialect."""
    words = _WORDS.findall(text)
    found, rest = _type(words, 0)
    if rest != len(words):
        raise HostCodeError(f"a type of another form than expected: {text[:80]}")
    return found


def _type(words: list[str], i: int) -> tuple[Type, int]:
    word = words[i].removeprefix("!llvm.")
    if word == "struct":
        parts, i = [], i + 3
        while words[i] != ")":
            part, i = _type(words, i)
            parts.append(part)
            i += words[i] == ","
        return struct(tuple(parts)), i + 2
    if word == "array":
        part, end = _type(words, i + 4)
        return struct((part,) * int(words[i + 2])), end + 1
    if word == "ptr":
        spaced = words[i + 1 : i + 2] == ["<"]
        return Type("ptr", _POINTER, _POINTER), i + (4 if spaced else 1)
    bits = re.fullmatch(r"(i|f|bf)(\d+)", word)
    if bits is None:
        raise HostCodeError(f"a type of another form than expected: {word}")
    size = max(1, int(bits[2]) // 8)
    return Type("int" if bits[1] == "i" else "float", size, size), i + 1


@dataclass(frozen=True)
class Place:
    """An address in the host's own memory."""

    memory: Memory
    offset: int = 0


@dataclass(eq=False)
class Memory:
    """What one `alloca` gave: values by offset."""

    type: Type
    alignment: int = 0
    values: dict[int, Any] = field(default_factory=dict)

    def store(self, offset: int, type_: Type, value: Any) -> None:
        """Aggregates part by part; what was never set stays unset."""
        if type_.kind != "struct":
            self.values[offset] = value
            return
        for i, part in (value or {}).items():
            start, own = type_.at(i)
            self.store(offset + start, own, part)

    def load(self, offset: int, type_: Type) -> Any:
        """The value as it was stored, None where nothing was."""
        if type_.kind == "struct":
            parts = range(len(type_.parts))
            places = {i: type_.at(i) for i in parts}
            return {i: self.load(offset + start, own) for i, (start, own) in places.items()}
        return self.values.get(offset)

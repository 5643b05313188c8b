"""The host function as operations, read from MLIR's generic form: one operation a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from attngen.cutelib.host.numbers import HostCodeError

_LINE = re.compile(r'(?:(%\S+) = )?"([\w.]+)"\(([^)]*)\)(?:\[([^\]]*)\])?(.*)')
_BLOCK = re.compile(r"(\^bb\d+)(?:\((.*)\))?:")
_PAIR = re.compile(r"(\w+) = ")
_END = "}) "


@dataclass(frozen=True)
class Operation:
    """One operation; values and blocks by their names, attributes and types as text."""

    name: str
    result: str
    operands: tuple[str, ...]
    successors: tuple[str, ...]
    attributes: dict[str, str]
    types: tuple[str, ...]
    result_type: str

    def numbers(self, attribute: str) -> list[int]:
        """An attribute that is a number, or an array of them."""
        text = self.attributes.get(attribute, "")
        return [int(x) for x in re.findall(r"(?<![\w.])-?\d+", re.sub(r":? *i\d+:?", "", text))]


@dataclass
class Block:
    """arguments: (name, type) of each."""

    arguments: list[tuple[str, str]] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)


def functions(text: str) -> Iterator[tuple[str, list[str]]]:
    """(name, lines of the body) of every function that has one."""
    name, body = "", list[str]()
    for line in text.split("\n"):
        own = line.strip()
        if own.startswith('"llvm.func"()') and own.endswith("({"):
            found = re.search(r'sym_name = "([^"]*)"', own)
            name, body = (found[1] if found else "?"), []
        elif name and own.startswith(_END):
            yield name, body
            name = ""
        elif name:
            body.append(own)


def blocks(body: list[str]) -> dict[str, Block]:
    """Blocks by name, in order; HostCodeError: a line that is read as nothing."""
    found: dict[str, Block] = {}
    for line in filter(None, body):
        head = _BLOCK.match(line)
        if head is not None:
            found[head[1]] = Block([_argument(x) for x in split(head[2] or "")])
            continue
        match = _LINE.match(line)
        if match is None or not found:
            raise HostCodeError(f"a line that is not read: {line[:120]}")
        next(reversed(found.values())).operations.append(_operation(match))
    return found


def split(text: str) -> list[str]:
    """At commas that are in no brackets."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "<({[") - (letter in ">)}]" and text[i - 1 : i + 1] != "->")
        if letter == "," and not depth:
            parts.append(text[start:i].strip())
            start = i + 1
    return [*parts, text[start:].strip()] if text.strip() else []


def _argument(text: str) -> tuple[str, str]:
    name, _, type_ = text.partition(":")
    return name.strip(), type_.strip()


def _operation(match: re.Match[str]) -> Operation:
    result, name, operands, successors, rest = match.groups()
    attributes, _, signature = rest.rpartition(" : (")
    given, _, made = signature.rpartition(") -> ")
    return Operation(
        name,
        result or "",
        tuple(split(operands)),
        tuple(split(successors or "")),
        dict(_pair(x) for x in split(_inside(attributes))),
        tuple(split(given)),
        made.strip(),
    )


def _inside(text: str) -> str:
    """What is between `<{` and `}>`."""
    start, end = text.find("<{"), text.rfind("}>")
    return text[start + 2 : end] if start >= 0 else ""


def _pair(text: str) -> tuple[str, str]:
    found = _PAIR.match(text)
    return (found[1], text[found.end() :]) if found else (text, "")

"""Kernels of the CuTe DSL in a package: what their binaries take, and their launches as steps.

A plan's host function is compiled code. `cutelib.host` reads its launches out of it when the
kernel is compiled; here they take the place of the step that calls the plan (docs/adr/0012).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from attngen.aot.elf import read
from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.target import Target
from attngen.runtime.binary import Binary

BYTES = {"ptr": 8, "i64": 8, "i32": 4, "i16": 2, "i8": 1, "fp32": 4, "fp16": 2, "bf16": 2}
MAP_BYTES, MAP_ALIGNMENT = 128, 64
INNER = ("shape", "stride", "address", "argument")  # operations on the name of an array


def layout(types: Sequence[str]) -> list[tuple[int, int]]:
    """(offset, bytes) of every parameter, as C lays structs out."""
    out, end = [], 0
    for text in types:
        size, alignment = MAP_BYTES, MAP_ALIGNMENT
        if text != "tensormap":
            size, alignment = _struct(text.split())
        end = -(-end // alignment) * alignment
        out.append((end, size))
        end += size
    return out


def _struct(fields: Sequence[str]) -> tuple[int, int]:
    end, widest = 0, 1
    for field in fields:
        size = BYTES[field]
        end = -(-end // size) * size + size
        widest = max(widest, size)
    return -(-end // widest) * widest, widest


def require_cute_contract(binary: Binary, target: Target) -> None:
    """SpecError E312: not what its host function hands over; E313: more than a launcher can do."""
    launch = binary.launch
    if "problem" in launch:
        raise _error("E313", binary, target, f"cannot be launched from data: {launch['problem']}")
    unknown = {f for t in launch["types"] if t != "tensormap" for f in t.split()} - set(BYTES)
    if unknown:
        raise _error("E313", binary, target, f"takes parameters of {', '.join(sorted(unknown))}")
    try:
        facts = read(binary.data, binary.symbol)
    except ValueError as error:
        raise _error("E312", binary, target, str(error)) from None
    expected = layout(launch["types"])
    if list(facts.parameters) != expected:
        what = f"has parameters (offset, bytes) {list(facts.parameters)}, expected {expected}"
        raise _error("E312", binary, target, what)
    if facts.threads not in (0, launch["threads"]):
        what = f"is made for {facts.threads} threads, its host starts {launch['threads']}"
        raise _error("E312", binary, target, what)


def _error(code: str, binary: Binary, target: Target, what: str) -> SpecError:
    message = f"{binary.kernel} for {target.name} {what}"
    return SpecError(Diagnostic(code, message, help="--backend triton, and report this"))


def cute_entry(binary: Binary) -> dict[str, Any]:
    """What a kernel's entry of the manifest holds besides what all of them do."""
    launch = binary.launch
    return {
        "backend": "cute",
        "threads": launch["threads"],
        "parameters": launch["types"],
        "divisible": [],
        "descriptors": [],
        "clusters": 1,
        "scratch": [0, 1],
        "profile_scratch": 0,
        "dependent": launch["dependent"],
        "cooperative": launch["cooperative"],
        "cuda": int(compiler_of(binary.data).split(".")[0]),
    }


def compiler_of(data: bytes) -> str:
    """Version of the ptxas that made a cubin, such as "13.4.59", as it says itself; "0" if not."""
    found = re.search(rb"Cuda compilation tools, release [\d.]+, V([\d.]+)", data)
    return found[1].decode() if found else "0"


def with_launches(host: Sequence[Any], binaries: Sequence[Binary]) -> list[Any]:
    """The steps of a host function, with the launches of each plan that it calls."""
    numbers = count()
    steps: list[Any] = []
    for step in host:
        if step[0] == "call":
            steps += _launches(step, binaries, numbers)
        else:
            steps.append(step)
    return steps


def _launches(step: Sequence[Any], binaries: Sequence[Binary], numbers: Iterator[int]) -> list[Any]:
    _, plan, given = step
    own = [b for b in binaries if b.launch.get("plan") == plan]
    own.sort(key=lambda b: int(b.launch["number"]))
    names = dict(zip(own[0].launch["arguments"], given, strict=True))
    trees = [
        [_renamed(tree, names) for tree in (*b.launch["grid"], *_flat(b.launch["parameters"]))]
        for b in own
    ]
    lets, shared = _shared([tree for launch in trees for tree in launch], numbers)
    out: list[Any] = [["rows", [names[n] for n in own[0].launch["aligned"]]], *lets]
    for binary, launch in zip(own, trees, strict=True):
        rest = iter([shared(tree) for tree in launch])
        grid = [next(rest) for _ in binary.launch["grid"]]
        parameters = [[next(rest) for _ in p] for p in binary.launch["parameters"]]
        out.append(["launch", binary.kernel, grid, parameters])
    return out


def _flat(parameters: Sequence[Sequence[Any]]) -> Iterator[Any]:
    return (field for parameter in parameters for field in parameter)


def _renamed(tree: Any, names: Mapping[str, str]) -> Any:
    """With the host's names of arrays; as tuples, which can be counted."""
    if not isinstance(tree, list):
        return tree
    op, *rest = tree
    if op == "argument":
        return names[rest[0]]
    if op in INNER:
        return (op, names[rest[0]], *rest[1:])
    return (op, *(_renamed(x, names) for x in rest))


def _shared(trees: Sequence[Any], numbers: Iterator[int]) -> tuple[list[Any], Any]:
    """(let-steps of what occurs several times, the function that puts their names in)."""
    counts: Counter[Any] = Counter()
    for tree in trees:
        _count(tree, counts)
    names: dict[Any, str] = {}
    lets: list[Any] = []

    def put(tree: Any) -> Any:
        if not isinstance(tree, tuple):
            return tree
        if tree in names:
            return names[tree]
        op, *rest = tree
        made = [op, *rest] if op in INNER else [op, *(put(x) for x in rest)]
        if counts[tree] > 1 and op not in INNER:
            names[tree] = f"_{next(numbers)}"
            lets.append(["let", names[tree], made])
            return names[tree]
        return made

    for tree in trees:
        put(tree)
    return lets, put


def _count(tree: Any, counts: Counter[Any]) -> None:
    if isinstance(tree, tuple) and tree[0] not in INNER:
        counts[tree] += 1
        if counts[tree] == 1:
            for part in tree[1:]:
                _count(part, counts)

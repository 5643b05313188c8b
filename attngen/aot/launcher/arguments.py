"""What a kernel is called with: every mistake is named and refused before any launch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from .errors import ArgumentError

DEVICES = ("cuda",)  # where kernels run
HALVES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
DTYPES = {
    **HALVES,
    "f64": torch.float64,
    "i8": torch.int8,
    "i32": torch.int32,
    "i64": torch.int64,
    "bool": torch.bool,
}
FAR = 1 << 30  # positions and sizes stay below; scalars that only bound positions are cut to it
RANGES = {"i8": 7, "i32": 31, "i64": 63}
SHIFTED = re.compile(r"\s*([A-Za-z]\w*)\s*([+-])\s*(\d+)\s*")


@dataclass
class Facts:
    """What a checked call is: sizes of its axes by name, and the lengths of its streams.

    half: what `half` stands for ("bf16"); device: index of the GPU.
    """

    sizes: dict[str, Any]
    half: str
    device: int
    q_len: Any
    kv_len: Any
    heads: Any
    batch: Any

    @property
    def empty(self) -> bool:
        """Whether there are no results to compute."""
        return 0 in (self.q_len, self.heads, self.batch)


def check(name: str, declared: Sequence[Mapping[str, Any]], values: Sequence[Any]) -> Facts:
    """The facts of a call. ArgumentError names the first mistake; nothing is read but shapes."""
    if len(values) != len(declared):
        names = ", ".join(d["name"] for d in declared)
        raise ArgumentError(f"{name}({names}) takes {len(declared)} arguments, not {len(values)}")
    pairs = [(d, v) for d, v in zip(declared, values, strict=True) if not d["scalar"]]
    for d, value in pairs:
        _tensor(name, d, value)
    _same_device(name, pairs)
    half = _half(name, pairs)
    axes = _Axes(name)
    for d, value in pairs:
        axes.read(d, value)
    for d, value in pairs:
        axes.read_shifted(d, value)
    _heads(name, pairs)
    return _facts(pairs, axes.sizes(), half)


def convert(name: str, declared: Mapping[str, Any], value: Any) -> int | float | bool:
    """A run-time scalar as a number the kernel takes; ArgumentError."""
    own, dtype = declared["name"], declared["dtype"]
    if isinstance(value, torch.Tensor) and value.ndim == 0:
        value = value.item()  # of a tensor on the GPU: waits for it
    if dtype == "bool":
        if isinstance(value, bool):
            return value
        raise ArgumentError(f"{name}: {own} is True or False, found {value!r:.40}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArgumentError(f"{name}: {own} is a number ({dtype}), found {value!r:.40}")
    if dtype not in RANGES:
        if math.isnan(value):
            raise ArgumentError(f"{name}: {own} is NaN")
        return float(value)
    if not isinstance(value, int):
        raise ArgumentError(f"{name}: {own} is a whole number ({dtype}), found {value!r:.40}")
    if declared["clamp"]:
        return max(-FAR, min(FAR, value))
    if not -(1 << RANGES[dtype]) <= value < 1 << RANGES[dtype]:
        raise ArgumentError(f"{name}: {own} = {value} does not fit {dtype}")
    return value


def boundaries(
    name: str, declared: Sequence[Mapping[str, Any]], values: Sequence[Any]
) -> list[tuple[str, torch.Tensor, int]]:
    """(name, tensor, number of tokens) of each tensor of sequence boundaries."""
    names = [d["name"] for d in declared]
    found = {}
    for d, value in zip(declared, values, strict=True):
        position = _axis(d, "position")
        if d["packed"] is not None and position is not None:
            found[d["packed"]] = value.shape[position]
    return [(n, values[names.index(n)], total) for n, total in found.items()]


def require_boundaries(name: str, own: str, value: torch.Tensor, total: int) -> None:
    """ArgumentError unless they start at 0, never decrease and end at the number of tokens."""
    listed = value.tolist()
    falls = any(b < a for a, b in pairwise(listed))
    if not listed or listed[0] != 0 or falls or listed[-1] != total:
        raise ArgumentError(
            f"{name}: {own} holds the first token of each sequence and last the number of tokens: "
            f"expected 0 ... {total} without a decrease, found {listed[:4]} ... {listed[-2:]}"
        )


def found(value: Any) -> str:
    """What arrived, for a message."""
    if not isinstance(value, torch.Tensor):
        return f"{type(value).__name__} {value!r:.40}"
    dtype = str(value.dtype).removeprefix("torch.")
    strides = f", strides {list(value.stride())}" if value.layout is torch.strided else ""
    return f"{dtype}{list(value.shape)}{strides} on {value.device}"


def expected(declared: Mapping[str, Any]) -> str:
    """What was declared, as in the spec."""
    return f"{declared['dtype']}[{', '.join(axis[0] for axis in declared['axes'])}]"


def _tensor(name: str, d: Mapping[str, Any], value: Any) -> None:
    own = d["name"]
    wanted = f"expected {expected(d)}, found {found(value)}"
    if not isinstance(value, torch.Tensor):
        raise ArgumentError(f"{name}: {own} is no tensor: {wanted}")
    if value.layout is not torch.strided or value.is_complex() or value.is_quantized:
        raise ArgumentError(f"{name}: {own} is no dense tensor of real numbers: {wanted}")
    fits = value.dtype in HALVES.values() if d["dtype"] == "half" else False
    if not fits and value.dtype is not DTYPES.get(d["dtype"]):
        raise ArgumentError(f"{name}: {own} has the wrong dtype: {wanted}")
    if value.ndim != len(d["axes"]):
        raise ArgumentError(f"{name}: {own} has {value.ndim} axes: {wanted}")


def _same_device(name: str, pairs: Sequence[tuple[Mapping[str, Any], Any]]) -> None:
    first, reference = pairs[0]
    for d, value in pairs:
        if value.device.type not in DEVICES:
            raise ArgumentError(
                f"{name}: {d['name']} is on {value.device}; kernels run on GPUs: .to('cuda')"
            )
        if value.device != reference.device:
            raise ArgumentError(
                f"{name}: {d['name']} is on {value.device}, {first['name']} on {reference.device}"
            )


def _half(name: str, pairs: Sequence[tuple[Mapping[str, Any], Any]]) -> str:
    halves = [(d["name"], v.dtype) for d, v in pairs if d["dtype"] == "half"]
    for own, dtype in halves[1:]:
        if dtype is not halves[0][1]:
            first, other = halves[0][0], str(halves[0][1]).removeprefix("torch.")
            mine = str(dtype).removeprefix("torch.")
            raise ArgumentError(f"{name}: {own} is {mine}, but {first} is {other}: use one dtype")
    dtype = halves[0][1] if halves else torch.bfloat16
    return next(text for text, kind in HALVES.items() if kind is dtype)


@dataclass
class _Axes:
    """Sizes of named axes as they are met."""

    kernel: str
    seen: dict[str, tuple[Any, str, list[Any]]] = field(default_factory=dict)

    def sizes(self) -> dict[str, Any]:
        return {name: size for name, (size, _, _) in self.seen.items()}

    def read(self, d: Mapping[str, Any], value: Any) -> None:
        """Axes that are a name or a number."""
        own, shape = d["name"], list(value.shape)
        for (axis, role, fixed), size in zip(d["axes"], shape, strict=True):
            if fixed is not None and size != fixed:
                self._refuse(own, f"axis {axis} is {size} in {shape}, expected {expected(d)}")
            if fixed is None and axis.isidentifier():
                packed = d["packed"] is not None and role == "position"
                self._agree(own, f"{axis} of {d['packed']}" if packed else axis, size, shape)
            if size >= FAR or (role == "feature" and size == 0):
                self._refuse(own, f"axis {axis} is {size}, expected 1 to 2**30 - 1 in {shape}")

    def read_shifted(self, d: Mapping[str, Any], value: Any) -> None:
        """Axes such as `B + 1`, which may be the only ones that tell B."""
        for (axis, _, fixed), size in zip(d["axes"], value.shape, strict=True):
            match = SHIFTED.fullmatch(axis) if fixed is None else None
            if match:
                shift = int(match[3]) * (1 if match[2] == "+" else -1)
                self._agree(d["name"], match[1], size - shift, list(value.shape))

    def _agree(self, own: str, axis: str, size: Any, shape: list[Any]) -> None:
        known, owner, other = self.seen.setdefault(axis, (size, own, shape))
        if known != size or size < 0:
            self._refuse(own, f"{axis} is {size} in {shape}, but {known} in {owner}'s {other}")

    def _refuse(self, own: str, problem: str) -> None:
        raise ArgumentError(f"{self.kernel}: {own}: {problem}")


def _heads(name: str, pairs: Sequence[tuple[Mapping[str, Any], Any]]) -> None:
    query = _stream(pairs, "query")
    count = _extent(query, "head")
    for d, value in pairs:
        size = _extent((d, value), "head")
        if (size == 0 and count > 0) or (size > 0 and count % size):
            raise ArgumentError(
                f"{name}: {d['name']} has {size} heads {list(value.shape)}, which do not divide "
                f"the {count} of {query[0]['name']} {list(query[1].shape)}"
            )


def _facts(
    pairs: Sequence[tuple[Mapping[str, Any], Any]], sizes: dict[str, Any], half: str
) -> Facts:
    query, key = _stream(pairs, "query"), _stream(pairs, "key")
    if query[0]["packed"] is None:
        batch = _extent(query, "batch")
    else:
        batch = next(v for d, v in pairs if d["name"] == query[0]["packed"]).shape[0] - 1
    lengths = _extent(query, "position"), _extent(key, "position")
    return Facts(sizes, half, query[1].get_device(), *lengths, _extent(query, "head"), batch)


def _stream(
    pairs: Sequence[tuple[Mapping[str, Any], Any]], role: str
) -> tuple[Mapping[str, Any], Any]:
    own = next((pair for pair in pairs if pair[0]["role"] == role), None)
    return own or next(pair for pair in pairs if pair[0]["role"] != "input")


def _axis(d: Mapping[str, Any], role: str) -> int | None:
    return next((i for i, axis in enumerate(d["axes"]) if axis[1] == role), None)


def _extent(pair: tuple[Mapping[str, Any], Any], role: str) -> Any:
    at = _axis(pair[0], role)
    return 1 if at is None else pair[1].shape[at]


def rows(declared: Sequence[Mapping[str, Any]], values: Sequence[Any]) -> tuple[list[Any], Any]:
    """(sizes of the first query stream without its feature axis, that stream)."""
    place = next((i for i, d in enumerate(declared) if d["role"] == "query"), 0)
    axes: Iterator[Any] = iter(declared[place]["axes"])
    sizes = [s for axis, s in zip(axes, values[place].shape, strict=True) if axis[1] != "feature"]
    return sizes, values[place]

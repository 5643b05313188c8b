"""What a host function does, step by step: printed into a generated file, stored in a package."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from attngen.backend.triton.text import call, words
from attngen.backend.value import Value, low_bit, smallest


@dataclass(frozen=True)
class Let:
    """A variable; comment: a line of text before it, or after it on the same line."""

    name: str
    value: Value
    before: str = ""
    after: str = ""

    def lines(self) -> list[str]:
        """Python text."""
        after = f"  # {self.after}" if self.after else ""
        line = f"{self.name} = {self.value}{after}"
        return [f"# {self.before}", line] if self.before else [line]

    def plan(self) -> list[Any]:
        """Plain data."""
        return ["let", self.name, self.value.tree()]


@dataclass(frozen=True)
class Allocate:
    """A new array on the device of a tensor.

    shape: its sizes, None for those of the tensor; dtype: such as "torch.float32", None for that of
    the tensor; zero: filled with zeros.
    """

    name: str
    tensor: str
    shape: tuple[Value, ...] | None = None
    dtype: str | None = None
    zero: bool = False

    def lines(self) -> list[str]:
        """Python text."""
        dtype = self.dtype or f"{self.tensor}.dtype"
        if self.shape is None:
            shape = f"{self.tensor}.shape"
        else:
            shape = f"({', '.join(map(str, self.shape))}{',' if len(self.shape) == 1 else ''})"
        make = "zeros" if self.zero else "empty"
        return [f"{self.name} = torch.{make}({shape}, dtype={dtype}, device={self.tensor}.device)"]

    def plan(self) -> list[Any]:
        """Plain data."""
        shape = None if self.shape is None else [s.tree() for s in self.shape]
        dtype = self.dtype and self.dtype.removeprefix("torch.")
        return ["array", self.name, self.tensor, shape, dtype, self.zero]


@dataclass(frozen=True)
class Result(Allocate):
    """An array that torch makes from a tensor: half a microsecond less."""

    def lines(self) -> list[str]:
        """Python text."""
        (line,) = super().lines()
        make = "zeros" if self.zero else "empty"
        start, end = f"{self.name} = torch.{make}(", f", device={self.tensor}.device)"
        inside = line.removeprefix(start).removesuffix(end)
        return [f"{self.name} = {self.tensor}.new_{make}({inside})"]


@dataclass(frozen=True)
class Descriptor:
    """A tensor descriptor: base tensor, sizes, strides (the last is 1) and the block it moves."""

    base: str
    shape: tuple[Value, ...]
    strides: tuple[Value, ...]
    block: tuple[int, ...]

    def arguments(self) -> tuple[str, ...]:
        """As TensorDescriptor wants them."""
        texts = _axes(self.base, "shape", self.shape), _axes(self.base, "stride", self.strides)
        return self.base, *(f"[{', '.join(t)}]" for t in texts), str(list(self.block))

    def plan(self) -> list[Any]:
        """Plain data."""
        shape, strides = ([v.tree() for v in values] for values in (self.shape, self.strides))
        return ["descriptor", self.base, shape, strides, list(self.block)]


@dataclass(frozen=True)
class Launch:
    """One launch. arguments: (parameter, value or descriptor) in order; options: num_warps=..."""

    kernel: str
    grid: tuple[Value, ...]
    arguments: tuple[tuple[str, Value | Descriptor], ...]
    options: tuple[str, ...]

    def descriptors(self) -> list[tuple[str, list[str]]]:
        """(name, Python text) of each descriptor."""
        return [
            (n, call(f"{n} = TensorDescriptor", given.arguments(), "", 4).split("\n    "))
            for n, given in self.arguments
            if isinstance(given, Descriptor)
        ]

    def lines(self) -> list[str]:
        """Python text of the launch alone."""
        texts = [n if isinstance(given, Descriptor) else str(given) for n, given in self.arguments]
        grid = f"({', '.join(map(str, self.grid))}{',' if len(self.grid) == 1 else ''})"
        return call(f"{self.kernel}[{grid}]", [*texts, *self.options], "", 4).split("\n    ")

    def plan(self) -> list[Any]:
        """Plain data."""
        given = [g.plan() if isinstance(g, Descriptor) else g.tree() for _, g in self.arguments]
        return ["launch", self.kernel, [g.tree() for g in self.grid], given]


@dataclass(frozen=True)
class Zeros:
    """A gradient of zeros, for a tensor that none of the results depends on; scalar: a number."""

    tensor: str
    device: str
    scalar: bool


@dataclass(frozen=True)
class Return:
    """The results, in order."""

    values: tuple[Value | Zeros, ...]

    def lines(self) -> list[str]:
        """Python text."""
        texts = ", ".join(map(_returned, self.values))
        return [f"return ({texts},)" if len(self.values) == 1 else f"return {texts}"]

    def plan(self) -> list[Any]:
        """Plain data."""
        return ["return", [_returned_plan(v) for v in self.values]]


Step = Let | Allocate | Launch | Return


class AnyStep(Protocol):
    """What a step of any backend can do."""

    def lines(self) -> list[str]:
        """Python text."""

    def plan(self) -> list[Any]:
        """Plain data."""


def host_lines(steps: Iterable[AnyStep]) -> list[str]:
    """The body of the host function; what several launches want alike is computed once."""
    lines: list[str] = []
    known: dict[str, list[str]] = {}
    for step in steps:
        named = step.descriptors() if isinstance(step, Launch) else []
        if isinstance(step, Let):
            named = [(step.name, step.lines())]
        for name, text in named:
            if known.get(name) == text:
                continue
            known = {n: t for n, t in known.items() if name not in words(" ".join(t))}
            known[name] = text
            lines += text
        lines += [] if isinstance(step, Let) else step.lines()
    return lines


def host_plan(steps: Iterable[AnyStep]) -> tuple[Any, ...]:
    """The same as plain data."""
    return tuple(step.plan() for step in steps)


def share_of_cache(programs: Value) -> Let:
    """How many (batch, head) pairs run together when four share the cache."""
    return Let("heads_in_l2", smallest(4, low_bit(programs)))


def _returned(v: Value | Zeros) -> str:
    if isinstance(v, Value):
        return str(v)
    shape, dtype = ("()", "torch.float32") if v.scalar else _like(v.tensor)
    return f"torch.zeros({shape}, dtype={dtype}, device={v.device}.device)"


def _returned_plan(v: Value | Zeros) -> Any:
    return v.tree() if isinstance(v, Value) else ["zeros", v.tensor, v.device, v.scalar]


def _like(tensor: str) -> tuple[str, str]:
    return f"{tensor}.shape", f"{tensor}.dtype"


def _axes(base: str, what: str, values: Sequence[Value]) -> list[str]:
    """Sizes or strides; those of the leading axes in order are written as a slice."""
    lead = tuple(Value(what, (base, i)) for i in range(3))
    texts = [str(v) for v in values]
    if tuple(values[:3]) != lead or len(values) == len(lead):
        return texts
    return [f"*{base}.{'shape' if what == 'shape' else 'stride()'}[:3]", *texts[3:]]

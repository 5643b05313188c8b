"""Calls like an earlier one: what their callables reach is compared with what it was then.

A call that reaches the same code, the same numbers and tensors of the same kind takes the kernel of
that call, without a fingerprint. Anything else, and anything unusual, takes the long way.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch

from attngen.flex.capture import ABSENT, DEEPEST, ONE, PLAIN, fixed, names_of
from attngen.flex.maker import Extents, is_sorted, is_trained
from attngen.flex.traces import Found, Trace
from attngen.runtime.kernel import Kernel

MOST_KEYS, MOST_ALIKE = 1024, 8
Tensors: TypeAlias = "list[torch.Tensor]"


class Unusual(Exception):  # noqa: N818 - no error: the long way is taken
    """Something a comparison does not cover."""


class Watch(Protocol):
    """Compares a value with an earlier one; tensors on the way are appended to `out`."""

    def same(self, value: Any, out: Tensors) -> bool:
        """Whether nothing that a trace depends on has changed."""


class Number:
    """A plain value: of the same type, and equal to the last bit."""

    __slots__ = ("kind", "text", "value")

    def __init__(self, value: Any) -> None:
        self.value, self.kind, self.text = value, type(value), repr(value)

    def same(self, value: Any, out: Tensors) -> bool:
        """See Watch."""
        return value is self.value or (type(value) is self.kind and repr(value) == self.text)


class Itself:
    """A module, a type, a built-in function."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def same(self, value: Any, out: Tensors) -> bool:
        """See Watch."""
        return value is self.value


class Captured:
    """A tensor: of the same class, shape, strides and dtype, with a gradient or without."""

    __slots__ = ("dtype", "kind", "marked", "shape", "strides", "trained")

    def __init__(self, value: torch.Tensor) -> None:
        self.kind, self.dtype, self.shape = type(value), value.dtype, value.shape
        self.strides, self.trained = value.stride(), is_trained(value)
        self.marked = is_sorted(value)

    def same(self, value: Any, out: Tensors) -> bool:
        """See Watch."""
        out.append(value)
        return (
            type(value) is self.kind
            and value.dtype is self.dtype
            and value.shape == self.shape
            and value.stride() == self.strides
            and is_trained(value) == self.trained
            and is_sorted(value) == self.marked
        )


class Again:
    """A tensor that was met before."""

    __slots__ = ("place",)

    def __init__(self, place: int) -> None:
        self.place = place

    def same(self, value: Any, out: Tensors) -> bool:
        """See Watch."""
        return value is out[self.place]


class Row:
    """A tuple or list."""

    __slots__ = ("items", "kind")

    def __init__(self, kind: Any, items: tuple[Watch, ...]) -> None:
        self.kind, self.items = kind, items

    def same(self, value: Any, out: Tensors) -> bool:
        """See Watch."""
        if type(value) is not self.kind or len(value) != len(self.items):
            return False
        pairs = zip(self.items, value, strict=True)
        return all(watch.same(v, out) for watch, v in pairs)


class Function:
    """A Python function: its code, what its closure holds, what it looks up in its module."""

    __slots__ = ("absent", "cells", "code", "named")

    def __init__(
        self,
        code: types.CodeType,
        cells: tuple[Watch, ...],
        named: tuple[tuple[str, Watch], ...],
        absent: tuple[str, ...],
    ) -> None:
        self.code, self.cells, self.named, self.absent = code, cells, named, absent

    def same(self, value: Any, out: Tensors) -> bool:
        """See Watch."""
        if (
            type(value) is not types.FunctionType
            or value.__code__ is not self.code
            or value.__defaults__
            or value.__kwdefaults__
        ):
            return False
        if self.cells:
            for watch, cell in zip(self.cells, value.__closure__ or (), strict=True):
                if not watch.same(cell.cell_contents, out):
                    return False
        if self.named or self.absent:
            space = value.__globals__
            for name, watch in self.named:
                if not watch.same(space.get(name, ABSENT), out):
                    return False
            for name in self.absent:
                if name in space:
                    return False
        return True


@dataclass(frozen=True)
class Shortcut:
    """One earlier call. plain: its captured tensors are passed as they are, in this order."""

    mods: tuple[Watch, Watch]
    trace: Trace
    extents: Extents
    plain: tuple[int, ...] | None

    def arguments(self, score_mod: Any, mask_mod: Any) -> Sequence[torch.Tensor] | None:
        """The captured tensors to pass; None if this call is another one."""
        out: Tensors = []
        try:
            if not (self.mods[0].same(score_mod, out) and self.mods[1].same(mask_mod, out)):
                return None
        except ValueError:  # a variable of a closure is not bound any more
            return None
        if self.plain is not None:
            return [out[i] for i in self.plain]
        tensors = [t.reshape(1) if t.ndim == 0 else t for t in out]
        return self.trace.arguments(tensors, self.extents)


class Shortcuts:
    """Earlier calls, by their shapes and options and the code of their callables."""

    def __init__(self) -> None:
        self.made: dict[Hashable, list[Shortcut]] = {}

    def find(
        self, key: Hashable, score_mod: Any, mask_mod: Any
    ) -> tuple[Kernel, Sequence[torch.Tensor]] | None:
        """The kernel and the captured tensors of a call like an earlier one."""
        for one in self.made.get(key, ()):
            arguments = one.arguments(score_mod, mask_mod)
            if arguments is not None:
                return one.trace.kernel, arguments
        return None

    def keep(
        self, key: Hashable, score_mod: Any, mask_mod: Any, found: Found, extents: Extents
    ) -> None:
        """Remember a call that took the long way, if it is a usual one."""
        watcher, trace = _Watcher(), found.trace
        try:
            mods = watcher.watch(score_mod), watcher.watch(mask_mod)
        except (Unusual, ValueError):
            return
        reached = watcher.tensors
        if not found.lasting or len(reached) != len(found.tensors):
            return
        if not all(a is b for a, b in zip(reached, found.tensors, strict=True)):
            return
        plain = None
        if not trace.made:
            slots = trace.traced.slots
            given = zip(slots, found.arguments, strict=True)
            plain = slots if all(reached[i] is x for i, x in given) else None
        if len(self.made) >= MOST_KEYS:
            self.made.clear()
        alike = self.made.setdefault(key, [])
        del alike[: max(0, len(alike) - MOST_ALIKE + 1)]
        alike.append(Shortcut(mods, trace, extents, plain))


class _Watcher:
    """Builds what a call is compared with, in the order of a walk."""

    def __init__(self) -> None:
        self.tensors: Tensors = []
        self.inside: set[int] = set()

    def watch(self, value: Any) -> Watch:
        """Of any value; Unusual for what only the long way covers."""
        if isinstance(value, PLAIN):
            return Number(value)
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, ONE):
            if not fixed(value):
                raise Unusual  # its attributes may change
            return Itself(value)
        if id(value) in self.inside or len(self.inside) > DEEPEST:
            raise Unusual
        self.inside.add(id(value))
        made = self._compound(value)
        self.inside.discard(id(value))
        return made

    def _tensor(self, value: torch.Tensor) -> Watch:
        for i, known in enumerate(self.tensors):
            if known is value:
                return Again(i)
        self.tensors.append(value)
        return Captured(value)

    def _compound(self, value: Any) -> Watch:
        if type(value) in (tuple, list):
            return Row(type(value), tuple([self.watch(v) for v in value]))
        plain = type(value) is types.FunctionType
        if not plain or value.__defaults__ or value.__kwdefaults__:
            raise Unusual
        cells = tuple([self.watch(c.cell_contents) for c in value.__closure__ or ()])
        space, names = value.__globals__, names_of(value.__code__)[1]
        named = tuple([(n, self.watch(space[n])) for n in names if n in space])
        return Function(value.__code__, cells, named, tuple(n for n in names if n not in space))


def code_of(mod: Callable[..., Any] | None) -> int:
    """What tells callables apart at once; 0 for those without code of their own."""
    return id(getattr(mod, "__code__", None))

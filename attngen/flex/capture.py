"""What a Python callable depends on: its code, the constants and the tensors it can reach.

Two calls with equal fingerprints give equal formulas, so a trace is made once. Tensors count by
their place only; their contents and shapes may change from call to call.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

DEEPEST = 8
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


@dataclass(frozen=True, eq=False)
class Same:
    """An object that equals itself only, kept alive so that its id is not used again."""

    value: Any

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value


@dataclass
class Walk:
    """One walk over callables; tensors: (name of the variable, tensor) in the order of the walk."""

    tensors: list[tuple[str, torch.Tensor]] = field(default_factory=list)
    seen: dict[int, int] = field(default_factory=dict)

    def fingerprint(self, value: Any, name: str = "", depth: int = 0) -> Hashable:
        """A key for whatever the value is."""
        if isinstance(value, PLAIN):
            return type(value).__name__, repr(value) if isinstance(value, float) else value
        if id(value) in self.seen:
            return "again", self.seen[id(value)]
        if depth > DEEPEST:
            return Same(value)
        self.seen[id(value)] = len(self.seen)
        if isinstance(value, torch.Tensor):
            self.tensors.append((name, value))
            return "tensor", value.dtype, value.ndim
        return self._compound(value, name, depth + 1)

    def _compound(self, value: Any, name: str, depth: int) -> Hashable:
        match value:
            case types.FunctionType():
                return self._function(value, depth)
            case types.MethodType():
                return self._all((value.__func__, value.__self__), name, depth)
            case functools.partial():
                return self._all((value.func, *value.args), name, depth), self._items(
                    value.keywords, depth
                )
            case list() | tuple():
                return type(value).__name__, self._all(tuple(value), name, depth)
            case dict():
                return self._items(value, depth)
            case types.ModuleType() | type() | types.BuiltinFunctionType():
                return Same(value)
        return Same(type(value)), self._items(_attributes(value), depth)

    def _all(self, values: tuple[Any, ...], name: str, depth: int) -> Hashable:
        return tuple(self.fingerprint(v, name, depth) for v in values)

    def _items(self, values: Mapping[Any, Any], depth: int) -> Hashable:
        return tuple(
            (Same(k) if not isinstance(k, str) else k, self.fingerprint(v, str(k), depth))
            for k, v in values.items()
        )

    def _function(self, function: types.FunctionType, depth: int) -> Hashable:
        code = function.__code__
        if code.co_filename.startswith(_TORCH):
            return Same(code), self._items(_cells(function), depth)
        named = {n: function.__globals__[n] for n in _names(code) if n in function.__globals__}
        return (
            Same(code),
            self._items(_cells(function), depth),
            self._items(named, depth),
            self._all(function.__defaults__ or (), "", depth),
            self._items(function.__kwdefaults__ or {}, depth),
        )


_TORCH = str(torch.__path__[0])


def _cells(function: types.FunctionType) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if _filled(cell)}


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - raises if the variable is not bound yet
    except ValueError:
        return False
    return True


def _names(code: types.CodeType) -> Iterator[str]:
    """Names a function may look up in its module, those of inner functions too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _attributes(value: Any) -> dict[str, Any]:
    if isinstance(value, torch.nn.Module):
        return {**dict(value.named_parameters()), **dict(value.named_buffers())} | {
            k: v for k, v in vars(value).items() if isinstance(v, PLAIN)
        }
    return dict(getattr(value, "__dict__", {}))

"""What a Python callable depends on: its code, the constants and the tensors it can reach.

Two calls with equal fingerprints give equal formulas, so a trace is made once. Tensors count by
their place only; their contents and shapes may change from call to call. The walk is part of every
call, so it is written to be quick: what does not change is remembered by code object, and objects
stand in a fingerprint by their id (whoever keeps a fingerprint keeps `alive` with it).
"""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

DEEPEST = 8
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
EXACT = frozenset({bool, int, str, bytes, type(None), torch.dtype, torch.device, torch.Size})
ONE = (types.ModuleType, type, types.BuiltinFunctionType)  # equal to themselves only
MOST_CODES = 4096
_TORCH = str(torch.__path__[0])


@dataclass
class Walk:
    """One walk over callables; tensors: (name of the variable, tensor) in the order of the walk.

    alive: the objects whose ids stand in the fingerprint.
    """

    tensors: list[tuple[str, torch.Tensor]] = field(default_factory=list)
    alive: list[Any] = field(default_factory=list)
    seen: dict[int, int] = field(default_factory=dict)

    @property
    def reached(self) -> list[torch.Tensor]:
        """The tensors alone."""
        return [tensor for _, tensor in self.tensors]

    def fingerprint(self, value: Any, name: str = "", depth: int = 0) -> Hashable:
        """A key for whatever the value is."""
        kind = type(value)
        if kind in EXACT:
            return kind, value
        if isinstance(value, PLAIN):
            return kind, repr(value)  # tells -0.0 from 0.0, and NaN is itself
        known = self.seen.get(id(value))
        if known is not None:
            return "again", known
        if depth > DEEPEST:
            return self._itself(value)
        self.seen[id(value)] = len(self.seen)
        if isinstance(value, torch.Tensor):
            self.tensors.append((name, value))
            return "tensor", value.dtype, value.ndim
        return self._compound(value, name, depth + 1)

    def _itself(self, value: Any) -> Hashable:
        self.alive.append(value)
        return id(value)

    def _compound(self, value: Any, name: str, depth: int) -> Hashable:
        if type(value) is types.FunctionType:
            return self._function(value, depth)
        if isinstance(value, ONE):
            return self._itself(value)
        match value:
            case types.MethodType():
                return self._all((value.__func__, value.__self__), name, depth)
            case functools.partial():
                return self._all((value.func, *value.args), name, depth), self._items(
                    value.keywords, depth
                )
            case list() | tuple():
                return type(value), self._all(tuple(value), name, depth)
            case dict():
                return self._items(value, depth)
        return self._itself(type(value)), self._items(_attributes(value), depth)

    def _all(self, values: tuple[Any, ...], name: str, depth: int) -> Hashable:
        return tuple([self.fingerprint(v, name, depth) for v in values])

    def _items(self, values: Mapping[Any, Any], depth: int) -> Hashable:
        return tuple(
            [
                (k if type(k) is str else self._itself(k), self.fingerprint(v, str(k), depth))
                for k, v in values.items()
            ]
        )

    def _function(self, function: types.FunctionType, depth: int) -> Hashable:
        code = function.__code__
        free, named = names_of(code)
        found: list[Hashable] = [self._itself(code)]
        for variable, cell in zip(free, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:  # the variable is not bound yet
                continue
            found.append((variable, self.fingerprint(content, variable, depth)))
        space = function.__globals__
        for variable in named:
            if variable in space:
                found.append((variable, self.fingerprint(space[variable], variable, depth)))
        if function.__defaults__:
            found.append(self._all(function.__defaults__, "", depth))
        if function.__kwdefaults__:
            found.append(self._items(function.__kwdefaults__, depth))
        return tuple(found)


def names_of(code: types.CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Variables of the closure, and names a function may look up in its module.

    Functions of torch look up nothing that changes.
    """
    known = _CODES.get(id(code))
    if known is None:
        named = (
            () if code.co_filename.startswith(_TORCH) else tuple(dict.fromkeys(_looked_up(code)))
        )
        if len(_CODES) >= MOST_CODES:
            _CODES.clear()
        known = _CODES[id(code)] = (code, code.co_freevars, named)
    return known[1], known[2]


_CODES: dict[int, tuple[types.CodeType, tuple[str, ...], tuple[str, ...]]] = {}


def _looked_up(code: types.CodeType) -> Iterator[str]:
    """Names a function looks up in its module, those of inner functions too."""
    for step in dis.get_instructions(code):
        if "GLOBAL" in step.opname or step.opname == "LOAD_NAME":
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _looked_up(constant)


def _attributes(value: Any) -> dict[str, Any]:
    if isinstance(value, torch.nn.Module):
        return {**dict(value.named_parameters()), **dict(value.named_buffers())} | {
            k: v for k, v in vars(value).items() if isinstance(v, PLAIN)
        }
    return dict(getattr(value, "__dict__", {}))

"""What a Python callable depends on: its code, the constants and the tensors it can reach.

Two calls with equal fingerprints give equal formulas, so a trace is made once. Tensors count by
their place only; their contents and shapes may change from call to call. The walk is part of every
call, so it is written to be quick: what does not change is remembered by code object, and objects
stand in a fingerprint by their id (whoever keeps a fingerprint keeps `alive` with it).
"""

from __future__ import annotations

import dis
import functools
import sys
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
FIXED = sys.stdlib_module_names - {"__main__"} | {"torch", "numpy", "attngen"}
ABSENT: Any = object()
_TORCH = str(torch.__path__[0])


@dataclass
class Walk:
    """One walk over callables; tensors: (name of the variable, tensor) in the order of the walk.

    alive: the objects whose ids stand in the fingerprint; owners: modules, classes and instances of
    classes with attributes that may change; names: all that the functions met so far look up.
    """

    tensors: list[tuple[str, torch.Tensor]] = field(default_factory=list)
    alive: list[Any] = field(default_factory=list)
    seen: dict[int, int] = field(default_factory=dict)
    owners: list[Any] = field(default_factory=list)
    names: dict[str, None] = field(default_factory=dict)

    def all_of(self, values: tuple[Any, ...]) -> Hashable:
        """A key for callables and everything they reach, attributes of modules and classes too."""
        key = self._all(values, "", 0)
        if not self.owners:
            return key
        found: list[Hashable] = []
        done: set[tuple[int, str]] = set()
        while todo := [p for o in self.owners for n in self.names if (p := (id(o), n)) not in done]:
            owners = {id(o): o for o in self.owners}
            for owner, name in todo:
                done.add((owner, name))
                value = attribute(owners[owner], name)
                if value is not ABSENT:
                    found.append((owner, name, self.fingerprint(value, name, 1)))
        return key, tuple(found)

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

    def _owner(self, value: Any) -> Hashable:
        """A module or class by itself; what functions look up in it follows."""
        if not fixed(value):
            self.owners.append(value)
        return self._itself(value)

    def _compound(self, value: Any, name: str, depth: int) -> Hashable:
        if type(value) is types.FunctionType:
            return self._function(value, depth)
        if isinstance(value, ONE):
            return self._owner(value)
        match value:
            case property():
                return self._all((value.fget, value.fset), name, depth)
            case staticmethod() | classmethod():
                return self.fingerprint(value.__func__, name, depth)
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
        return self._instance(value, depth)

    def _instance(self, value: Any, depth: int) -> Hashable:
        """An object: its class, its own attributes, and what it does when it is called."""
        kind = type(value)
        called = attribute(kind, "__call__") if not fixed(kind) else ABSENT
        if not fixed(kind):
            self.owners.append(value)
        key = self._owner(kind), self._items(_attributes(value), depth)
        return key if called is ABSENT else (*key, self.fingerprint(called, "", depth))

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
        free, named, every = names_of(code)
        self.names.update(every)
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


def names_of(code: types.CodeType) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, None]]:
    """Variables of the closure, names looked up in the module, and all names, of attributes too.

    Functions of torch look up nothing that changes.
    """
    known = _CODES.get(id(code))
    if known is None:
        named: tuple[str, ...] = ()
        every: dict[str, None] = {}
        if not code.co_filename.startswith(_TORCH):
            named = tuple(dict.fromkeys(_looked_up(code)))
            every = dict.fromkeys(_all_names(code))
        if len(_CODES) >= MOST_CODES:
            _CODES.clear()
        known = _CODES[id(code)] = (code, code.co_freevars, named, every)
    return known[1:]


_CODES: dict[int, tuple[types.CodeType, tuple[str, ...], tuple[str, ...], dict[str, None]]] = {}


def _looked_up(code: types.CodeType) -> Iterator[str]:
    """Names a function looks up in its module, those of inner functions too."""
    for step in dis.get_instructions(code):
        if "GLOBAL" in step.opname or step.opname == "LOAD_NAME":
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _looked_up(constant)


def _all_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _all_names(constant)


def fixed(value: Any) -> bool:
    """Whether a module, class or built-in is of a library whose attributes nobody changes."""
    name = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
    return str(name).partition(".")[0] in FIXED or isinstance(value, types.BuiltinFunctionType)


def attribute(owner: Any, name: str) -> Any:
    """What the owner has under a name, without running anything; ABSENT for nothing.

    Of an instance only what its class keeps in slots: the rest is known.
    """
    if isinstance(owner, types.ModuleType):
        return vars(owner).get(name, ABSENT)
    if isinstance(owner, type):
        classes = (c for c in owner.__mro__ if not fixed(c))
        found = next((vars(c)[name] for c in classes if name in vars(c)), ABSENT)
        return ABSENT if isinstance(found, types.MemberDescriptorType) else found
    slot = next((vars(c)[name] for c in type(owner).__mro__ if name in vars(c)), None)
    if not isinstance(slot, types.MemberDescriptorType):
        return ABSENT
    try:
        return slot.__get__(owner)
    except AttributeError:  # an empty slot
        return ABSENT


def _attributes(value: Any) -> dict[str, Any]:
    if isinstance(value, torch.nn.Module):
        return {**dict(value.named_parameters()), **dict(value.named_buffers())} | {
            k: v for k, v in vars(value).items() if isinstance(v, PLAIN)
        }
    return dict(getattr(value, "__dict__", {}))

"""Traced values that torch functions accept: each function of torch by its name."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from attngen.core.diagnostics import SpecError
from attngen.flex.table import KINDS, SHOWN, TABLE
from attngen.frontend.mistake import Mistake, wrong
from attngen.frontend.trace import Captured, Operated, Slot, Traced, Vector
from attngen.frontend.trace_place import place
from attngen.ir.expr import Const

ACTIVE: contextvars.ContextVar[Tracing] = contextvars.ContextVar("tracing")


class Methods:
    """What tensors can do by a method, on traced values."""

    def operation(self, name: str, *args: Any) -> Any:
        """An operator; a plain tensor beside a traced value becomes a captured one."""
        mode = ACTIVE.get(None)
        if mode is not None:
            args = tuple(mode.entered(a) for a in args)
        return Operated.operation(self, name, *args)  # type: ignore[arg-type] # mixed into one

    ndim = 0
    shape = torch.Size(())
    device = torch.device("cpu")

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Every function of torch that meets a traced value."""
        return call(function, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in TABLE:
            raise unknown(f"Tensor.{name}")
        return functools.partial(TABLE[name], self)

    def dim(self) -> int:
        """A traced number has no axes."""
        return 0

    def new_ones(self, *size: Any, **options: Any) -> Any:
        """The constant 1, or true."""
        return self._constant(True, options)

    def new_zeros(self, *size: Any, **options: Any) -> Any:
        """The constant 0, or false."""
        return self._constant(False, options)

    def new_full(self, size: Any, value: Any, **options: Any) -> Any:
        """A constant."""
        return self._constant(value, options)

    def new_tensor(self, value: Any, **options: Any) -> Any:
        """A constant."""
        return self._constant(value, options)

    def _constant(self, value: Any, options: Any) -> Any:
        e = self.expression
        kind = KINDS.get(options.get("dtype"), e.kind)
        number = {"bool": bool, "int": int, "float": float}[kind](value)
        return self.like(Const(number))


class Proxy(Methods, Traced):
    """One traced number that torch functions accept."""

    __hash__ = None  # type: ignore[assignment] # as Traced


class CapturedProxy(Methods, Captured):
    """A captured tensor that torch functions accept."""

    __hash__ = None  # type: ignore[assignment] # as Captured

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override] # of what is left to index
        """Sizes of the axes that are left."""
        return Captured.shape.fget(self)  # type: ignore[attr-defined, no-any-return] # a property

    @property
    def ndim(self) -> int:  # type: ignore[override] # as shape
        """Number of the axes that are left."""
        return len(self.slot.shape) - len(self.index)

    def dim(self) -> int:
        """Number of the axes that are left."""
        return self.ndim

    def size(self, axis: int | None = None) -> Any:
        """Sizes of the axes that are left, or of one."""
        return self.shape if axis is None else self.shape[axis]

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return CapturedProxy(self.slot, self.make, found.index) if _partial(found) else found


def _partial(found: Any) -> bool:
    return isinstance(found, Captured)


class Tracing(TorchFunctionMode):
    """While active, functions of torch see captured tensors as slots.

    derived: set when a tensor was met that is no slot, so that the trace is good for one call only.
    """

    def __init__(self, slots: Sequence[tuple[torch.Tensor, Slot]]) -> None:
        super().__init__()
        self.known = {id(tensor): (tensor, slot) for tensor, slot in slots}
        self.derived: list[tuple[torch.Tensor, Slot]] = []
        self.adopt: Callable[[torch.Tensor], Slot] | None = None

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Torch functions: of traced values traced, of other tensors done as always."""
        kwargs = kwargs or {}
        index = function is torch.Tensor.__getitem__
        if index and id(args[0]) in self.known:
            return self.captured(args[0])[args[1]]
        if any(_traced(a) for a in [*args, *kwargs.values()]):
            args = [self.entered(a) for a in args]
            if index:
                return args[0][args[1]]
            return call(function, args, {k: self.entered(v) for k, v in kwargs.items()})
        return function(*args, **kwargs)

    def captured(self, tensor: torch.Tensor) -> CapturedProxy:
        """A captured tensor as the trace sees it; one made inside the callable is taken in."""
        if id(tensor) not in self.known:
            if self.adopt is None:
                raise unknown("a tensor made inside the callable")
            pair = (tensor, self.adopt(tensor))
            self.known[id(tensor)] = pair
            self.derived.append(pair)
        zero = () if tensor.ndim else (Const(0),)
        return CapturedProxy(self.known[id(tensor)][1], Proxy, zero)

    def entered(self, value: Any) -> Any:
        """An argument: tensors become captured ones."""
        return self.captured(value) if isinstance(value, torch.Tensor) else value

    def __enter__(self) -> Tracing:
        """Operators of traced values find the captured tensors here."""
        self.token = ACTIVE.set(self)
        return super().__enter__()  # type: ignore[no-untyped-call, no-any-return] # of torch

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Mistakes found while tracing become SpecError with their place in the user's file."""
        ACTIVE.reset(self.token)
        super().__exit__(kind, error, where)  # type: ignore[no-untyped-call] # of torch
        if isinstance(error, Mistake) and error.diagnostic is not None:
            raise SpecError(error.diagnostic) from None


def _traced(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_traced(v) for v in value)
    return isinstance(value, Traced | Captured | Vector)


def call(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """A function of torch on traced values."""
    name = getattr(function, "__name__", str(function)).removesuffix(".default")
    if name == "__get__":  # a property such as .shape of a plain tensor
        return function(*args, **kwargs)
    made = TABLE.get(name.strip("_")) or TABLE.get(name)
    if made is None:
        raise unknown(name)
    return made(*args, **kwargs)


def unknown(name: str) -> Mistake:
    """E131: a function that has no expression."""
    known = ", ".join(sorted(n for n in TABLE if n in SHOWN))
    return wrong(
        "E131",
        f"`{name}` cannot be traced",
        place(),
        "not a function of single numbers that attngen knows",
        f"the functions are {known}",
    )

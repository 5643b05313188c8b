"""Traced values that torch functions accept: each function of torch by its name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.frontend import trace
from attngen.frontend.mistake import Mistake, wrong
from attngen.frontend.trace import Captured, Slot, Traced, Vector
from attngen.frontend.trace_place import place
from attngen.ir.expr import Const, Expr, Kind

KINDS: dict[torch.dtype, Kind] = {
    torch.bool: "bool",
    **{t: "int" for t in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)},
    **{t: "float" for t in (torch.float16, torch.bfloat16, torch.float32, torch.float64)},
}


class Methods:
    """What tensors can do by a method, on traced values."""

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
        e = self.expression  # type: ignore[attr-defined] # of Traced
        kind = KINDS.get(options.get("dtype"), e.kind)
        number = {"bool": bool, "int": int, "float": float}[kind](value)
        return self.like(Const(number))  # type: ignore[attr-defined] # of Traced


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Mistakes found while tracing become SpecError with their place in the user's file."""
        super().__exit__(kind, error, where)
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


def _where(condition: Any, a: Any = None, b: Any = None, **named: Any) -> Any:
    return trace.apply("where", condition, named.get("input", a), named.get("other", b))


def _div(a: Any, b: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode is None:
        return trace.apply("div", a, b)
    return trace.apply("floordiv", a, b) if rounding_mode == "floor" else _trunc_div(a, b)


def _trunc_div(a: Any, b: Any) -> Any:
    whole = trace.apply("floordiv", trace.apply("abs", a), trace.apply("abs", b))
    negative = trace.apply("xor", trace.apply("lt", a, 0), trace.apply("lt", b, 0))
    return trace.apply("where", negative, trace.apply("neg", whole), whole)


def _to(x: Any, *kinds: Any, **named: Any) -> Any:
    wanted = [k for k in (*kinds, named.get("dtype")) if isinstance(k, torch.dtype)]
    return trace.cast(x, KINDS[wanted[0]]) if wanted else x


def _softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    if beta == 1.0:
        return trace.apply("softplus", x)
    return trace.apply("div", trace.apply("softplus", trace.apply("mul", x, beta)), beta)


def _clamp(x: Any, min: Any = None, max: Any = None) -> Any:  # noqa: A002 - torch's names
    return trace.clamp(x, min, max)


def _gelu(x: Any, approximate: str = "none") -> Any:
    return x.like(trace.FUNCTIONS["gelu"](trace.lift(x), approximate))


def _scaled(name: str) -> Callable[..., Any]:
    """`add` and `sub` with torch's factor `alpha` of the second argument."""

    def function(a: Any, b: Any, alpha: Any = 1) -> Any:
        return trace.apply(name, a, b if alpha == 1 else trace.apply("mul", b, alpha))

    return function


def _fold(name: str) -> Callable[..., Any]:
    def function(x: Any, *_: Any, **__: Any) -> Any:
        x = trace.read(x)
        return x.fold(name) if isinstance(x, Vector) else x

    return function


def _inplace(name: str) -> Callable[..., Any]:
    return lambda x, inplace=False: trace.apply(name, x)


def _named(name: str) -> Callable[..., Any]:
    return functools.partial(trace.apply, name)


def _constant(value: float) -> Callable[..., Any]:
    return lambda x, *_, **__: x.like(Const(type_of(x.expression)(value)))


def type_of(e: Expr) -> type:
    """The Python type of a kind."""
    return {"bool": bool, "int": int, "float": float}[e.kind]


def _same(x: Any, *_: Any, **__: Any) -> Any:
    return x


_ALIASES = {
    "add": "radd",
    "sub": "rsub subtract",
    "mul": "rmul multiply",
    "div": "true_divide truediv divide rtruediv rdiv",
    "floordiv": "floor_divide rfloordiv",
    "mod": "remainder rmod",
    "pow": "rpow float_power",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "eq": "",
    "ne": "not_equal",
    "neg": "negative",
    "abs": "absolute",
    "min": "minimum",
    "max": "maximum",
    "floor": "",
    "ceil": "",
    "trunc": "fix",
    "exp": "",
    "exp2": "",
    "log": "",
    "log2": "",
    "log1p": "",
    "expm1": "",
    "erf": "",
    "tanh": "",
    "sigmoid": "expit",
    "silu": "",
    "relu": "",
    "sqrt": "",
    "rsqrt": "",
    "recip": "reciprocal",
    "sin": "",
    "cos": "",
    "square": "",
}
SHOWN = {*_ALIASES, "where", "clamp", "gelu", "softplus", "logical_and", "logical_or"}
_REVERSED = ("rsub", "rtruediv", "rdiv", "rfloordiv", "rmod", "rpow")

TABLE: dict[str, Callable[..., Any]] = {
    **{
        alias: _named(name)
        for name, others in _ALIASES.items()
        for alias in (name, *others.split())
        if alias not in _REVERSED
    },
    **{
        alias: (lambda a, b, _name=name: trace.apply(_name, b, a))
        for name, others in _ALIASES.items()
        for alias in others.split()
        if alias in _REVERSED
    },
    "add": _scaled("add"),
    "sub": _scaled("sub"),
    "div": _div,
    "where": _where,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda x, min: trace.clamp(x, min),  # noqa: A006 - torch's name
    "clamp_max": lambda x, max: trace.clamp(x, None, max),  # noqa: A006 - torch's name
    "gelu": _gelu,
    **{n: _inplace(n) for n in ("relu", "silu")},
    "softplus": _softplus,
    "logical_and": _named("and"),
    "logical_or": _named("or"),
    "logical_xor": _named("xor"),
    "logical_not": _named("not"),
    "bitwise_and": functools.partial(trace.bitwise, "and"),
    "bitwise_or": functools.partial(trace.bitwise, "or"),
    "bitwise_xor": functools.partial(trace.bitwise, "xor"),
    "and": functools.partial(trace.bitwise, "and"),
    "or": functools.partial(trace.bitwise, "or"),
    "rand": functools.partial(trace.bitwise, "and"),
    "ror": functools.partial(trace.bitwise, "or"),
    "bitwise_not": trace.invert,
    "invert": trace.invert,
    "bitwise_left_shift": lambda a, n: trace.shift(a, n, 1),
    "bitwise_right_shift": lambda a, n: trace.shift(a, n, -1),
    "to": _to,
    "type": _to,
    "float": lambda x: trace.cast(x, "float"),
    "half": lambda x: trace.cast(x, "float"),
    "bfloat16": lambda x: trace.cast(x, "float"),
    "int": lambda x: trace.cast(x, "int"),
    "long": lambda x: trace.cast(x, "int"),
    "bool": lambda x: trace.cast(x, "bool"),
    "dot": trace.dot,
    "inner": trace.dot,
    "any": _fold("or"),
    "all": _fold("and"),
    "sum": _fold("add"),
    "amax": _fold("max"),
    "amin": _fold("min"),
    "ones_like": _constant(1),
    "zeros_like": _constant(0),
    **{
        n: _same
        for n in (
            *("unsqueeze", "squeeze", "clone", "contiguous", "detach", "expand", "reshape", "view"),
            *("relu_", "requires_grad_", "view_as", "expand_as", "flatten"),
        )
    },
}
__all__ = ["CapturedProxy", "Diagnostic", "Proxy", "Tracing"]

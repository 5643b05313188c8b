"""Functions of torch by name, on traced values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from attngen.frontend import trace
from attngen.frontend.trace import Vector
from attngen.frontend.trace_ops import gelu
from attngen.ir.expr import Const, Expr, Kind

KINDS: dict[torch.dtype, Kind] = {
    torch.bool: "bool",
    **{t: "int" for t in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)},
    **{t: "float" for t in (torch.float16, torch.bfloat16, torch.float32, torch.float64)},
}


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


def _clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    return trace.clamp(x, min, max)


def _gelu(x: Any, approximate: str = "none") -> Any:
    return x.like(gelu(trace.lift(x), approximate))


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
    "clamp_min": _clamp,
    "clamp_max": lambda x, max: trace.clamp(x, None, max),
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

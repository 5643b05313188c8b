"""Bounds of an expression that hold whatever the inputs are: `softcap(x, 20)` lies in [-20, 20].

Used to drop the running maximum of a softmax: when the score is narrow enough, exp() of its
distance to the middle stays in range. NaN inputs are outside of any claim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from attngen.ir.build import FOLD
from attngen.ir.expr import (
    Binary,
    Cast,
    Const,
    Dot,
    Expr,
    Index,
    Size,
    Softmax,
    Top,
    Unary,
    Uniform,
    Where,
)

Bounds: TypeAlias = tuple[float, float]

INF = math.inf
ANY: Bounds = (-INF, INF)
SILU_LEAST = -0.27846454276107384  # minimum of x * sigmoid(x), rounded down


def interval(e: Expr) -> Bounds:
    """Bounds (low, high), infinite where nothing is known."""
    return _Interval().of(e)


class _Interval:
    def __init__(self) -> None:
        self.memo: dict[Expr, Bounds] = {}

    def of(self, e: Expr) -> Bounds:
        if e not in self.memo:
            self.memo[e] = (0.0, 1.0) if e.kind == "bool" else self.compute(e)
        return self.memo[e]

    def compute(self, e: Expr) -> Bounds:
        match e:
            case Const(value=value):
                return (float(value), float(value))
            case Size() | Index():
                return self.index(e)
            case Uniform() | Softmax():
                return (0.0, 1.0)
            case Dot(a=a, b=b):
                return (0.0, INF) if a is b else ANY
            case Top(part="indices"):
                return (-1.0, INF)
            case Where(a=a, b=b):
                return _hull(self.of(a), self.of(b))
            case Cast(x=x, dtype=dtype):
                return _cast(self.of(x), dtype)
            case Unary(op=op, x=x):
                return _unary(op, self.of(x))
            case Binary(op=op, a=a, b=b):
                return self.binary(op, a, b)
            case _:
                return ANY

    def index(self, e: Size | Index) -> Bounds:
        if isinstance(e, Size):
            return (1.0, INF)
        return ANY if e.name == "q_pos" else (0.0, INF)  # q_pos < 0 when there are fewer keys

    def binary(self, op: str, a: Expr, b: Expr) -> Bounds:
        x, y = self.of(a), self.of(b)
        if op == "mul" and a is b:
            return _square(x)
        if op in _BINARY:
            return _BINARY[op](x, y)
        if op == "mod" and isinstance(b, Const) and b.value > 0:
            return (0.0, float(b.value))
        return ANY


def _hull(x: Bounds, y: Bounds) -> Bounds:
    return min(x[0], y[0]), max(x[1], y[1])


def _square(x: Bounds) -> Bounds:
    low, high = _unary("abs", x)
    return low * low, high * high


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b  # a bound of 0 is reached by finite values only


def _mul(x: Bounds, y: Bounds) -> Bounds:
    corners = [_times(a, b) for a in x for b in y]
    return min(corners), max(corners)


def _logaddexp(x: Bounds, y: Bounds) -> Bounds:
    return max(x[0], y[0]), max(x[1], y[1]) + math.log(2)


_BINARY: dict[str, Callable[[Bounds, Bounds], Bounds]] = {
    "add": lambda x, y: (x[0] + y[0], x[1] + y[1]),
    "mul": _mul,
    "max": lambda x, y: (max(x[0], y[0]), max(x[1], y[1])),
    "min": lambda x, y: (min(x[0], y[0]), min(x[1], y[1])),
    "logaddexp": _logaddexp,
}

# value at each end where the function itself has none
_LIMITS: dict[str, Callable[[float], float]] = {
    "exp": lambda x: 0.0 if x < 0 else INF,
    "exp2": lambda x: 0.0 if x < 0 else INF,
    "log": lambda x: -INF if x <= 0 else INF,
    "log2": lambda x: -INF if x <= 0 else INF,
    "sigmoid": lambda x: 0.0 if x < 0 else 1.0,
    "softplus": lambda x: 0.0 if x < 0 else INF,
    "relu": lambda x: 0.0 if x < 0 else INF,
    "sqrt": lambda x: 0.0 if x <= 0 else INF,
    "floor": lambda x: x,
    "tanh": lambda x: math.copysign(1.0, x),
}


def _unary(op: str, x: Bounds) -> Bounds:
    low, high = x
    if op == "abs":
        inside = low <= 0 <= high
        return 0.0 if inside else min(abs(low), abs(high)), max(abs(low), abs(high))
    if op in ("sin", "cos"):
        return (-1.0, 1.0)
    if op == "silu":
        return (SILU_LEAST if low < 0 else 0.0, max(high, 0.0))
    if op in ("recip", "rsqrt"):
        return _reciprocal(op, x)
    if op in _LIMITS:
        return _at(op, low), _at(op, high)
    return ANY


def _reciprocal(op: str, x: Bounds) -> Bounds:
    low, high = x
    if op == "rsqrt":
        low = max(low, 0.0)
    elif low <= 0:  # 0 may be -0.0, whose reciprocal is -inf
        return ANY if high >= 0 else (1 / high, 1 / low)
    root = math.sqrt if op == "rsqrt" else float
    return (0.0 if high == INF else 1 / root(high) if high > 0 else INF), (
        1 / root(low) if low > 0 else INF
    )


def _at(op: str, x: float) -> float:
    """The value of an increasing function at one end of an interval."""
    if op == "floor":
        return float(math.floor(x)) if math.isfinite(x) else x
    try:
        return FOLD[op](x) if math.isfinite(x) else _LIMITS[op](x)
    except (ValueError, OverflowError):
        return _LIMITS[op](x)


def _cast(x: Bounds, dtype: str) -> Bounds:
    low, high = x
    if dtype in ("i8", "i32", "i64"):
        return (math.floor(low), math.ceil(high)) if _fits(x, 127.0) else ANY
    if dtype in ("f16", "bf16", "half", "fp8_e4m3", "fp8_e5m2"):
        slack = max(abs(low), abs(high)) / 8  # three bits of mantissa in the shortest of them
        return (low - slack, high + slack) if _fits(x, 448.0) else ANY
    return x


def _fits(x: Bounds, most: float) -> bool:
    return -most <= x[0] and x[1] <= most

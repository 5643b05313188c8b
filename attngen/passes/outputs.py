"""What a row without keys gives: sums 0, logsumexp -inf, and what that makes of an output.

The language says an output that holds a `sum` is 0 on such a row. `sum(p * v)` is so by itself,
`1 - sum(p)` is not and needs a test in the finalizer.
"""

from __future__ import annotations

import math

from attngen.ir import build
from attngen.ir.expr import Binary, Cast, Const, Dot, Expr, Reduced, Unary, Where


def needs_guard(e: Expr) -> bool:
    """Whether `e`, an expression on rows, cannot be shown to be 0 on a row without keys."""
    return empty_value(e) != 0


def empty_value(e: Expr) -> float | None:
    """The value of a row expression on a row without keys, in every feature.

    None: some finite number (inputs are taken to be finite, so `0 * x` is 0); NaN: nothing is
    known, `inf - inf` included.
    """
    match e:
        case Const(value=value):
            return float(value)
        case Reduced(what=what):
            return {"moment": 0.0, "lse": -math.inf, "values": -math.inf, "indices": -1.0}[what]
        case Cast(x=x):
            return empty_value(x)
        case Unary(op=op, x=x):
            return _unary(op, empty_value(x))
        case Binary(op=op, a=a, b=b):
            return _binary(op, empty_value(a), empty_value(b))
        case Where(condition=condition, a=a, b=b):
            return _where(empty_value(condition), empty_value(a), empty_value(b))
        case Dot(a=a, b=b):
            return _binary("mul", empty_value(a), empty_value(b))
        case _:
            return None


def _finite(x: float | None) -> bool:
    return x is None or math.isfinite(x)


def _where(condition: float | None, a: float | None, b: float | None) -> float | None:
    if condition is None or math.isnan(condition):
        return a if a == b else None if _finite(a) and _finite(b) else math.nan
    return a if condition else b


def _unary(op: str, x: float | None) -> float | None:
    if x is None or math.isnan(x):
        return x
    if math.isinf(x):
        return _AT_INFINITY.get((op, x > 0), math.nan)
    if op == "not":
        return float(not x)
    value = build.number(build.unary(op, Const(x)))
    return math.nan if value is None else float(value)


_AT_INFINITY = {
    ("exp", False): 0.0,
    ("exp2", False): 0.0,
    ("exp", True): math.inf,
    ("exp2", True): math.inf,
    ("tanh", False): -1.0,
    ("tanh", True): 1.0,
    ("sigmoid", False): 0.0,
    ("sigmoid", True): 1.0,
    ("relu", False): 0.0,
    ("relu", True): math.inf,
    ("abs", False): math.inf,
    ("abs", True): math.inf,
}


def _binary(op: str, a: float | None, b: float | None) -> float | None:
    if op == "mul" and 0.0 in (a, b) and _finite(a) and _finite(b):
        return 0.0
    if op == "logaddexp" and -math.inf in (a, b):
        return b if a == -math.inf else a
    if a is None or b is None:
        return None if _finite(a) and _finite(b) else math.nan
    if op in ("and", "or"):
        return float((a and b) if op == "and" else (a or b))
    folded = build.binary(op, Const(a), Const(b)) if _known(op, a, b) else None
    return float(folded.value) if isinstance(folded, Const) else math.nan


def _known(op: str, a: float, b: float) -> bool:
    """Whether the operation has a value: no NaN, no inf - inf, no 0 * inf."""
    if math.isnan(a) or math.isnan(b):
        return False
    if op == "add":
        return not math.isnan(a + b)
    return op != "mul" or not math.isnan(a * b)

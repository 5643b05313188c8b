"""What a row without keys gives: sums 0, logsumexp -inf, and what that makes of an output.

The language says an output that holds a `sum` is 0 on such a row. `sum(p * v)` is so by itself,
`1 - sum(p)` is not and needs a test in the finalizer.
"""

from __future__ import annotations

import math

from attngen.ir import build
from attngen.ir.expr import Binary, Cast, Const, Dot, Expr, Reduced, Row, Unary, Where


def needs_guard(e: Expr) -> bool:
    """Whether `e`, an expression on rows, cannot be shown to be 0 on a row without keys."""
    return empty_value(e) != 0


def empty_value(e: Expr) -> float | None:
    """The value of a row expression on a row without keys, in every feature; None if not known.

    Inputs are taken to be finite numbers, so `0 * x` is 0.
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
            return 0.0 if _zero_product(empty_value(a), empty_value(b)) else None
        case Row():
            return None
        case _:
            return None


def _where(condition: float | None, a: float | None, b: float | None) -> float | None:
    if condition is None:
        return a if a == b else None
    return a if condition else b


def _zero_product(a: float | None, b: float | None) -> bool:
    return any(x == 0 and (y is None or math.isfinite(y)) for x, y in ((a, b), (b, a)))


def _unary(op: str, x: float | None) -> float | None:
    if x is None:
        return None
    if math.isinf(x):
        return _AT_INFINITY.get((op, x > 0))
    value = build.number(build.unary(op, Const(x)))
    if op == "not":
        return float(not x)
    return None if value is None else float(value)


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
    if op == "mul" and _zero_product(a, b):
        return 0.0
    if op == "logaddexp" and -math.inf in (a, b):
        return b if a == -math.inf else a
    if a is None or b is None:
        return None
    if op in ("and", "or"):
        return float((a and b) if op == "and" else (a or b))
    folded = build.binary(op, Const(a), Const(b))
    if not isinstance(folded, Const) or math.isnan(folded.value):
        return None
    return float(folded.value)

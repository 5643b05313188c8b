"""Smart constructors, the only way to make expressions: canonical forms kept, constants folded.

`x + 0 -> x`, `x * 1 -> x`, `x * 0 -> 0`, `c * (d * x) -> (c d) * x`, `a - b -> a + -1 * b`,
`a / b -> a * recip(b)`, `a > b -> b < a`, constants computed. A constant moves to the left of a
product; sums keep the order they were written in (rounding is the user's choice).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from attngen.ir.expr import Binary, Const, Expr, Unary, Where

ZERO, ONE, TRUE, FALSE = Const(0), Const(1), Const(True), Const(False)


def const(value: bool | int | float) -> Const:
    """A literal."""
    return Const(value)


def number(e: Expr) -> int | float | None:
    """The value of a numeric constant, else None."""
    return e.value if isinstance(e, Const) and not isinstance(e.value, bool) else None


def is_number(e: Expr, value: float) -> bool:
    """Whether `e` is that constant (1 and 1.0 alike)."""
    return number(e) == value


def add(a: Expr, b: Expr) -> Expr:
    """`a + b`."""
    x, y = number(a), number(b)
    if x is not None and y is not None:
        return Const(x + y)
    if x == 0:
        return b
    return a if y == 0 else Binary("add", a, b)


def mul(a: Expr, b: Expr) -> Expr:
    """`a * b`; the constant factor of a product is its left argument."""
    if number(b) is not None:
        a, b = b, a
    x, y = number(a), number(b)
    if x is not None and y is not None:
        return Const(x * y)
    if x is not None:
        if x == 0 and b.feature is None:
            return ZERO
        if x == 1:
            return b
        if isinstance(b, Binary) and b.op == "mul" and (inner := number(b.a)) is not None:
            return mul(Const(x * inner), b.b)
        return Binary("mul", a, b)
    for one, other in ((b, a), (a, b)):
        if isinstance(one, Binary) and one.op == "mul" and number(one.a) is not None:
            product = mul(other, one.b) if one is b else mul(one.b, other)
            return mul(one.a, product)
    return Binary("mul", a, b)


def neg(a: Expr) -> Expr:
    """-a."""
    return mul(Const(-1), a)


def sub(a: Expr, b: Expr) -> Expr:
    """`a - b`."""
    return add(a, neg(b))


def div(a: Expr, b: Expr) -> Expr:
    """`a / b` (true division, always a float)."""
    return mul(a, unary("recip", b))


def unary(op: str, x: Expr) -> Expr:
    """Pointwise function; constants are computed when the result is finite."""
    if isinstance(x, Const):
        if op == "not":
            return Const(not x.value)
        folded = (
            _compute(FOLD[op], float(x.value))
            if op in FOLD and op not in ("abs", "floor")
            else None
        )
        if op == "abs" and not isinstance(x.value, bool):
            return Const(abs(x.value))
        if op == "floor" and math.isfinite(x.value):
            return Const(float(math.floor(x.value)))
        if folded is not None:
            return Const(folded)
    if op == "not" and isinstance(x, Unary) and x.op == "not":
        return x.x
    return Unary(op, x)


def binary(op: str, a: Expr, b: Expr) -> Expr:
    """Any two-argument operator of the language, by IR name or by `gt`, `ge`, `sub`, `div`."""
    if op in _REWRITTEN:
        return _REWRITTEN[op](a, b)
    if op in ("and", "or"):
        return _logic(op, a, b)
    if (
        isinstance(a, Const)
        and isinstance(b, Const)
        and (value := _fold_binary(op, a, b)) is not None
    ):
        return Const(value)
    return Binary(op, a, b)


def where(condition: Expr, a: Expr, b: Expr) -> Expr:
    """`a` where the condition holds, else `b`."""
    if isinstance(condition, Const):
        return a if condition.value else b
    return a if a is b else Where(condition, a, b)


def total(terms: Iterable[Expr]) -> Expr:
    """Sum of the terms, left to right; 0 for none."""
    out: Expr = ZERO
    for term in terms:
        out = add(out, term)
    return out


def product(factors: Iterable[Expr]) -> Expr:
    """Product of the factors, left to right; 1 for none."""
    out: Expr = ONE
    for factor in factors:
        out = mul(out, factor)
    return out


def power(a: Expr, b: Expr) -> Expr:
    """`a ** b`; a small whole power becomes products, 0.5 a square root."""
    n = number(b)
    if n is not None and number(a) is not None:
        value = _compute(lambda x: float(x) ** float(n), float(number(a) or 0))
        if value is not None:
            return Const(
                int(value)
                if isinstance(n, int) and isinstance(number(a), int) and n >= 0
                else value
            )
    if isinstance(n, int) and 0 <= n <= 8:
        return product([a] * n) if n else ONE
    if n == 0.5:
        return Unary("sqrt", a)
    if isinstance(n, int) and -8 <= n < 0:
        return unary("recip", power(a, Const(-n)))
    return Binary("pow", a, b)


def terms(e: Expr) -> list[Expr]:
    """The terms of a sum, in order."""
    if isinstance(e, Binary) and e.op == "add":
        return terms(e.a) + terms(e.b)
    return [e]


def factors(e: Expr) -> list[Expr]:
    """The factors of a product, in order."""
    if isinstance(e, Binary) and e.op == "mul":
        return factors(e.a) + factors(e.b)
    return [e]


def _logic(op: str, a: Expr, b: Expr) -> Expr:
    neutral = op == "and"
    for x, other in ((a, b), (b, a)):
        if isinstance(x, Const):
            return other if bool(x.value) == neutral else Const(not neutral)
    return a if a is b else Binary(op, a, b)


def _compute(f: Callable[[float], float], x: float) -> float | None:
    try:
        value = f(x)
    except (ValueError, OverflowError, ZeroDivisionError):
        return None
    return value if isinstance(value, float) and math.isfinite(value) else None


FOLD: dict[str, Callable[[float], float]] = {
    "exp": math.exp,
    "exp2": lambda x: 2.0**x,
    "log": math.log,
    "log2": math.log2,
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "relu": lambda x: max(x, 0.0),
    "softplus": lambda x: math.log1p(math.exp(-abs(x))) + max(x, 0.0),
    "sqrt": math.sqrt,
    "rsqrt": lambda x: 1 / math.sqrt(x),
    "recip": lambda x: 1 / x,
    "sin": math.sin,
    "cos": math.cos,
}


def _fold_binary(op: str, a: Const, b: Const) -> bool | int | float | None:
    x, y = a.value, b.value
    match op:
        case "max":
            return max(x, y)
        case "min":
            return min(x, y)
        case "lt":
            return x < y
        case "le":
            return x <= y
        case "eq":
            return x == y
        case "ne":
            return x != y
        case "floordiv":
            return x // y if y else None
        case "mod":
            return x % y if y else None
    return None


_REWRITTEN: dict[str, Callable[[Expr, Expr], Expr]] = {
    "add": add,
    "sub": sub,
    "mul": mul,
    "div": div,
    "pow": power,
    "gt": lambda a, b: binary("lt", b, a),
    "ge": lambda a, b: binary("le", b, a),
}

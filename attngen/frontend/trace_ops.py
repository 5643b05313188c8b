"""Operations on traced values: torch's rules of kinds on expressions of the IR.

A bool in arithmetic counts as 0 or 1, `/` of whole numbers is real, `//` and `%` round down for
real numbers too. Every function takes and returns expressions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from attngen.ir import build
from attngen.ir.expr import COMPARE, Binary, Cast, Const, Expr, Index
from attngen.ir.walk import walk

FAR = 1 << 30  # no position reaches it
Function: TypeAlias = Callable[..., Expr]


def numeric(x: Expr) -> Expr:
    """A bool as 0 or 1; numbers as they are."""
    return build.where(x, build.ONE, build.ZERO) if x.kind == "bool" else x


def boolean(x: Expr) -> Expr:
    """A number as "is not zero"; bools as they are."""
    return x if x.kind == "bool" else build.binary("ne", x, build.ZERO)


def real(x: Expr) -> Expr:
    """A real number of the same value."""
    x = numeric(x)
    if isinstance(x, Const):
        return Const(float(x.value))
    return x if x.kind == "float" else Cast(x, "f32")


def floor_divide(a: Expr, b: Expr) -> Expr:
    """`a // b`, rounded down."""
    a, b = numeric(a), numeric(b)
    if "float" in (a.kind, b.kind):
        return build.unary("floor", build.div(real(a), real(b)))
    return build.binary("floordiv", a, b)


def remainder(a: Expr, b: Expr) -> Expr:
    """`a % b`, with the sign of b."""
    a, b = numeric(a), numeric(b)
    if "float" in (a.kind, b.kind):
        return build.sub(a, build.mul(floor_divide(a, b), b))
    return build.binary("mod", a, b)


def divide(a: Expr, b: Expr) -> Expr:
    """`a / b`."""
    return build.div(real(a), numeric(b))


def arithmetic(op: str) -> Function:
    """A two-argument operation on numbers by its name in the IR."""
    return lambda a, b: build.binary(op, numeric(a), numeric(b))


def function(op: str) -> Function:
    """A function of one real number by its name in the IR."""
    return lambda x: build.unary(op, real(x))


def compare(op: str) -> Function:
    """A comparison; two bools compare as truth values."""

    def make(a: Expr, b: Expr) -> Expr:
        if a.kind == b.kind == "bool" and op in ("eq", "ne"):
            return same(a, b) if op == "eq" else build.unary("not", same(a, b))
        return near(build.binary(op, numeric(a), numeric(b)))

    return make


def same(a: Expr, b: Expr) -> Expr:
    """Whether two truth values are equal."""
    neither = build.binary("and", build.unary("not", a), build.unary("not", b))
    return build.binary("or", build.binary("and", a, b), neither)


def logic(op: str) -> Function:
    """`and` and `or` of truth values."""
    return lambda a, b: build.binary(op, boolean(a), boolean(b))


def exclusive(a: Expr, b: Expr) -> Expr:
    """Whether two truth values differ."""
    return build.unary("not", same(boolean(a), boolean(b)))


def absolute(x: Expr) -> Expr:
    """|x| of either kind of number."""
    return build.unary("abs", numeric(x))


def floor(x: Expr) -> Expr:
    """The largest whole number not above x; whole numbers are unchanged."""
    return x if x.kind == "int" else build.unary("floor", real(x))


def ceil(x: Expr) -> Expr:
    """The smallest whole number not below x."""
    return x if x.kind == "int" else build.neg(build.unary("floor", build.neg(real(x))))


def trunc(x: Expr) -> Expr:
    """A number without its fraction."""
    if x.kind == "int":
        return x
    return build.where(build.binary("lt", x, build.ZERO), ceil(x), floor(x))


def where(condition: Expr, a: Expr, b: Expr) -> Expr:
    """`a` where the condition holds, else `b`; a bool beside a number counts as one."""
    if (a.kind == "bool") != (b.kind == "bool"):
        a, b = numeric(a), numeric(b)
    return build.where(boolean(condition), a, b)


def erf(x: Expr) -> Expr:
    """The error function, absolute error 1.5e-7: Abramowitz and Stegun (1964), 7.1.26."""
    x = real(x)
    size = build.unary("abs", x)
    t = build.unary("recip", build.add(build.ONE, build.mul(Const(0.3275911), size)))
    poly: Expr = Const(1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        poly = build.add(build.mul(poly, t), Const(coefficient))
    decay = build.unary("exp", build.neg(build.mul(size, size)))
    tail = build.mul(build.mul(poly, t), decay)
    positive = build.sub(build.ONE, tail)
    return build.where(build.binary("lt", x, build.ZERO), build.neg(positive), positive)


def gelu(x: Expr, approximate: str = "none") -> Expr:
    """The number times the normal distribution function, or its tanh form (Hendrycks, 2016)."""
    x = real(x)
    if approximate == "tanh":
        cube = build.mul(Const(0.044715), build.product([x, x, x]))
        inner = build.unary("tanh", build.mul(Const(math.sqrt(2 / math.pi)), build.add(x, cube)))
    else:
        inner = erf(build.mul(Const(math.sqrt(0.5)), x))
    return build.mul(Const(0.5), build.mul(x, build.add(build.ONE, inner)))


def masked_bits(x: Expr, bits: int) -> Expr | None:
    """`x & bits` for constant bits that are one run of ones, else None.

    Rounding division keeps this true for negative x in two's complement.
    """
    low = (bits & -bits).bit_length() - 1 if bits > 0 else 0
    run = bits >> low
    if bits <= 0 or run & (run + 1):
        return None
    shifted = build.binary("floordiv", x, Const(1 << low)) if low else x
    return build.mul(Const(1 << low), build.binary("mod", shifted, Const(run + 1)))


def near(e: Expr) -> Expr:
    """A comparison of positions whose far constant is drawn in to 2**30, where 32 bits hold it.

    `q_idx - kv_idx <= 2**31` keeps what `q_idx - kv_idx <= 2**30` keeps: positions are smaller.
    """
    if not isinstance(e, Binary) or e.op not in COMPARE or not _has_far(e):
        return e
    split = _positions(build.sub(e.a, e.b))
    if split is None:
        return e
    moving, fixed = split
    return build.binary(e.op, moving, Const(max(-FAR, min(FAR, -fixed))))


def _has_far(e: Expr) -> bool:
    consts = (x.value for x in walk(e) if isinstance(x, Const))
    return any(isinstance(v, int) and abs(v) > FAR for v in consts)


def _positions(e: Expr) -> tuple[Expr, int] | None:
    """(at most one position minus another, the constant) of a sum; None for any other."""
    fixed, signs = 0, list[int]()
    moving: list[Expr] = []
    for sign, term in _signed(e, 1):
        if isinstance(term, Const) and term.kind == "int":
            fixed += sign * int(term.value)
        elif isinstance(term, Index):
            signs.append(sign)
            moving.append(term if sign > 0 else build.neg(term))
        else:
            return None
    good = len(signs) == len(set(signs)) and bool(signs)
    return (build.total(moving), fixed) if good else None


def _signed(e: Expr, sign: int) -> list[tuple[int, Expr]]:
    match e:
        case Binary(op="add", a=a, b=b):
            return _signed(a, sign) + _signed(b, sign)
        case Binary(op="mul", a=Const(value=-1), b=b):
            return _signed(b, -sign)
        case _:
            return [(sign, e)]


FUNCTIONS: dict[str, Function] = {
    **{n: arithmetic(n) for n in ("add", "sub", "mul")},
    "pow": lambda a, b: build.power(numeric(a), numeric(b)),
    "min": arithmetic("min"),
    "max": arithmetic("max"),
    "div": divide,
    "floordiv": floor_divide,
    "mod": remainder,
    **{n: compare(n) for n in ("lt", "le", "gt", "ge", "eq", "ne")},
    "and": logic("and"),
    "or": logic("or"),
    "xor": exclusive,
    "not": lambda x: build.unary("not", boolean(x)),
    "neg": lambda x: build.neg(numeric(x)),
    "abs": absolute,
    "floor": floor,
    "ceil": ceil,
    "trunc": trunc,
    "where": where,
    "erf": erf,
    "gelu": gelu,
    "square": lambda x: build.mul(numeric(x), numeric(x)),
    "log1p": lambda x: build.unary("log", build.add(build.ONE, real(x))),
    "expm1": lambda x: build.sub(build.unary("exp", real(x)), build.ONE),
    **{
        n: function(n)
        for n in (
            *("exp", "exp2", "log", "log2", "tanh", "sigmoid", "silu", "relu", "softplus"),
            *("sqrt", "rsqrt", "recip", "sin", "cos"),
        )
    },
}

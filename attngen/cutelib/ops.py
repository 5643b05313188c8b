"""Numbers inside a kernel: what the functions of a generated file are written with.

Registers are cutlass `Float32`, `Int32` and `Boolean`. A `Position` is an index whose constant part
is kept apart, so that equal offsets of a thread's scores are one value and become immediates.
"""

from __future__ import annotations

import functools
import math
from typing import Any

LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453


@functools.cache
def _dsl() -> Any:
    """Cutlass, imported when the first kernel is traced."""
    import cutlass  # noqa: PLC0415 - a generated file can be read without it

    return cutlass


class Position:
    """base + offset: `base` is a register, the same for all of a thread's scores."""

    __slots__ = ("_real", "base", "offset")

    def __init__(self, base: Any, offset: int = 0, real: Any = None) -> None:
        self.base, self.offset, self._real = base, offset, real

    @property
    def value(self) -> Any:
        """The register."""
        return self.base + self.offset if self.offset else self.base

    @property
    def real(self) -> Any:
        """As a float: one conversion for all offsets (exact below 2**24)."""
        if isinstance(self.base, int):
            return float(self.base + self.offset)
        if self._real is None:
            self._real = _dsl().Float32(self.base)
        return self._real + float(self.offset) if self.offset else self._real

    def moved(self, offset: int) -> Position:
        """The position `offset` further on, with the same base."""
        return Position(self.base, self.offset + offset, self._real)

    def __add__(self, other: Any) -> Any:
        if isinstance(other, int):
            return self.moved(other)
        return Position(self.base + integer(other), self.offset)

    def __radd__(self, other: Any) -> Any:
        return self.__add__(other)

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, int):
            return self.moved(-other)
        if isinstance(other, Position):
            return Position(self.base - other.base, self.offset - other.offset)
        return Position(self.base - other, self.offset)

    def __rsub__(self, other: Any) -> Any:
        return other - self.value

    def __neg__(self) -> Any:
        return -self.value

    def __mul__(self, other: Any) -> Any:
        return self.value * integer(other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        return self.value // integer(other)

    def __mod__(self, other: Any) -> Any:
        return self.value % integer(other)

    def __lt__(self, other: Any) -> Any:
        return self.value < integer(other)

    def __le__(self, other: Any) -> Any:
        return self.value <= integer(other)

    def __gt__(self, other: Any) -> Any:
        return self.value > integer(other)

    def __ge__(self, other: Any) -> Any:
        return self.value >= integer(other)

    def __eq__(self, other: object) -> Any:  # a comparison inside the kernel, as of registers
        return self.value == integer(other)

    def __ne__(self, other: object) -> Any:
        return self.value != integer(other)

    __hash__ = None  # type: ignore[assignment] # equality is a value of the kernel


def integer(x: Any) -> Any:
    """A position as its register; anything else as it is."""
    return x.value if isinstance(x, Position) else x


def real(x: Any) -> Any:
    """As float32."""
    if isinstance(x, Position):
        return x.real
    return float(x) if isinstance(x, (int, float)) else _dsl().Float32(x)


def load(tensor: Any, *index: Any) -> Any:
    """One element; 16-bit floats as float32."""
    value = tensor[tuple(integer(i) for i in index)] if index else tensor
    if _plain(value):
        return value
    return value.to(_dsl().Float32) if value.dtype.width == 16 else value


def fma(a: Any, b: Any, c: Any) -> Any:
    """A * b + c, rounded once."""
    if _plain(a, b, c):
        return a * b + c
    return _asm("fma.rn.f32 {$w0}, {$r0}, {$r1}, {$r2};", a, b, c)


def exp2(x: Any) -> Any:
    """2**x (one MUFU; 2 ulp)."""
    return 2.0**x if _plain(x) else _asm("ex2.approx.ftz.f32 {$w0}, {$r0};", x)


def log2(x: Any) -> Any:
    """Log2(x); -inf at 0."""
    if _plain(x):
        return math.log2(x) if x else -math.inf
    return _asm("lg2.approx.ftz.f32 {$w0}, {$r0};", x)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent (one MUFU; 2**-11)."""
    return math.tanh(x) if _plain(x) else _asm("tanh.approx.f32 {$w0}, {$r0};", x)


def rcp(x: Any) -> Any:
    """1 / x (1 ulp)."""
    return 1.0 / x if _plain(x) else _asm("rcp.approx.ftz.f32 {$w0}, {$r0};", x)


def sqrt(x: Any) -> Any:
    """The square root."""
    return math.sqrt(x) if _plain(x) else _asm("sqrt.approx.f32 {$w0}, {$r0};", x)


def rsqrt(x: Any) -> Any:
    """1 / sqrt(x)."""
    return 1.0 / math.sqrt(x) if _plain(x) else _asm("rsqrt.approx.f32 {$w0}, {$r0};", x)


def _plain(*values: Any) -> bool:
    """Whether all are Python's numbers: functions of a file can be evaluated without a GPU."""
    return all(isinstance(v, (int, float)) for v in values)


def exp(x: Any) -> Any:
    """e**x."""
    return exp2(x * LOG2E)


def log(x: Any) -> Any:
    """The natural logarithm."""
    return log2(x) * LN2


def sigmoid(x: Any) -> Any:
    """1 / (1 + e**-x)."""
    return rcp(1.0 + exp2(x * -LOG2E))


def silu(x: Any) -> Any:
    """X * sigmoid(x)."""
    return x * sigmoid(x)


def softplus(x: Any) -> Any:
    """log(1 + e**x), without overflow."""
    return maximum(x, 0.0) + LN2 * log2(1.0 + exp2(-LOG2E * absolute(x)))


def logaddexp(a: Any, b: Any) -> Any:
    """log(e**a + e**b); -inf where both are."""
    top = maximum(a, b)
    safe = select(top == -math.inf, 0.0, top)
    return safe + LN2 * log2(exp2((a - safe) * LOG2E) + exp2((b - safe) * LOG2E))


def absolute(x: Any) -> Any:
    """|x|."""
    return maximum(x, -x)


def finite(x: Any) -> Any:
    """The number, or 0 in place of NaN and infinity."""
    return select(x * 0.0 == 0.0, x, 0.0)


def maximum(*values: Any) -> Any:
    """The greatest, of registers and constants."""
    return _extreme(max, _dsl().max, values)


def minimum(*values: Any) -> Any:
    """The least, of registers and constants."""
    return _extreme(min, _dsl().min, values)


def _extreme(plain: Any, staged: Any, values: tuple[Any, ...]) -> Any:
    values = tuple(integer(v) for v in values)
    return functools.reduce(
        lambda a, b: (
            plain(a, b)
            if isinstance(a, (int, float)) and isinstance(b, (int, float))
            else staged(a, b)
        ),
        values,
    )


def select(condition: Any, a: Any, b: Any) -> Any:
    """`a` where the condition holds, else `b`."""
    if isinstance(condition, bool):
        return a if condition else b
    from cutlass.cutlass_dsl import select_  # noqa: PLC0415 - see _dsl

    a, b = integer(a), integer(b)
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        kind = _dsl().Float32 if float in (type(a), type(b)) else _dsl().Int32
        a, b = kind(a), kind(b)
    elif isinstance(a, (int, float)):
        a = type(b)(a)
    elif isinstance(b, (int, float)):
        b = type(a)(b)
    return select_(condition, a, b)


def hull(*ranges: Any) -> tuple[Any, Any]:
    """The least range that holds every range (low, high) that is not empty."""
    far = 1 << 30
    lows = [select(low < high, low, far) for low, high in ranges]
    return minimum(*lows), maximum(*(high for _, high in ranges))


def longest(*ranges: Any) -> tuple[Any, Any]:
    """The longest of ranges (low, high)."""
    low, high = ranges[0]
    for other_low, other_high in ranges[1:]:
        wins = other_high - other_low > high - low
        low, high = select(wins, other_low, low), select(wins, other_high, high)
    return low, high


def negated(condition: Any) -> Any:
    """The opposite."""
    return not condition if isinstance(condition, bool) else condition == _dsl().Boolean(False)


def rounded(x: Any, dtype: str) -> Any:
    """A float rounded to a 16-bit dtype, as float32."""
    kind = _dsl().BFloat16 if dtype == "bf16" else _dsl().Float16
    return x.to(kind).to(_dsl().Float32)


def floor_div(a: Any, b: Any) -> Any:
    """The quotient rounded down, of registers."""
    a, b = integer(a), integer(b)
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    return (a - floor_mod(a, b)) // b


def floor_mod(a: Any, b: Any) -> Any:
    """The remainder with the sign of the divisor."""
    a, b = integer(a), integer(b)
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    rest = a % b
    return select((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)


def _asm(text: str, *values: Any) -> Any:
    dsl = _dsl()
    given = [dsl.Float32(real(v)) for v in values]
    return dsl.cute.arch.inline_ptx(text, write_only_types=[dsl.Float32], read_only_args=given)

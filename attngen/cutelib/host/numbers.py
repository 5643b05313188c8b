"""Whole numbers known only at a call: trees of plain operations, with bounds that simplify them.

Arithmetic is exact: sizes, strides and extents of memory that exists fit the machine's numbers, and
a launcher refuses what does not fit when it fills a parameter in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

Tree: TypeAlias = "int | str | tuple[Any, ...]"

ADDRESS = "address"  # (ADDRESS, argument, bytes after it)
UNIT = 16  # bytes: addresses of rows that descriptors are made over are multiples


class HostCodeError(Exception):
    """The host function does something that has no form as data."""


@dataclass(frozen=True)
class Number:
    """A value between two bounds (both included)."""

    tree: Tree
    low: int
    high: int

    @property
    def fixed(self) -> bool:
        """Whether it is a constant."""
        return isinstance(self.tree, int)


def constant(value: int) -> Number:
    """A number known now."""
    return Number(value, value, value)


def shape(argument: str, axis: int) -> Number:
    """A size of an argument; a call without rows or keys never gets to a launch."""
    return Number(("shape", argument, axis), 1, 2**31 - 1)


def stride(argument: str, axis: int, high: int) -> Number:
    """A stride of an argument, in elements."""
    return Number(("stride", argument, axis), 0, high)


def address(argument: str, offset: int) -> Number:
    """The address of an argument, or of memory after it."""
    return Number((ADDRESS, argument, offset), 0, 2**57 - 1)


def add(a: Number, b: Number) -> Number:
    """Sum."""
    if a.tree == 0 or b.tree == 0:
        return b if a.tree == 0 else a
    return _made("add", a, b, a.low + b.low, a.high + b.high)


def sub(a: Number, b: Number) -> Number:
    """Difference."""
    if b.tree == 0:
        return a
    return _made("sub", a, b, a.low - b.high, a.high - b.low)


def mul(a: Number, b: Number) -> Number:
    """Product."""
    if a.tree == 1 or b.tree == 1:
        return b if a.tree == 1 else a
    ends = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    return _made("mul", a, b, min(ends), max(ends))


def div(a: Number, b: Number) -> Number:
    """Quotient of numbers that are not negative, rounded down."""
    if b.tree == 1:
        return a
    _natural(a, "a quotient")
    if b.low < 1 and b.fixed:
        raise HostCodeError("a division by nothing")
    return _made("floordiv", a, b, a.low // max(1, b.high), a.high // max(1, b.low))


def both(a: Number, b: Number) -> Number:
    """Bits of both."""
    if a.fixed and not b.fixed:
        a, b = b, a
    _natural(a, "bits")
    _natural(b, "bits")
    mask = b.tree if isinstance(b.tree, int) else -1
    if mask >= 0 and mask & (mask + 1) == 0 and a.high <= mask:
        return a
    if mask == 0:
        return constant(0)
    return _made("and", a, b, 0, min(a.high, b.high))


def either(a: Number, b: Number) -> Number:
    """Bits of either."""
    if a.tree == 0 or b.tree == 0:
        return b if a.tree == 0 else a
    _natural(a, "bits")
    _natural(b, "bits")
    top = (1 << max(a.high.bit_length(), b.high.bit_length())) - 1
    return _made("or", a, b, max(a.low, b.low), top)


def left(a: Number, b: Number, bits: int) -> Number:
    """Shifted to the left; an address that was cut to units of 16 bytes is whole again.

    bits: of the machine's number, which loses those above.
    """
    by = _amount(b)
    _natural(a, "a shift")
    match a.tree:
        case ("floordiv", (kind, _, offset) as place, unit) if (
            kind == ADDRESS and unit == 1 << by == UNIT and offset % UNIT == 0
        ):
            return Number(place, 0, 2**57 - 1)
    made = _made("shl", a, b, a.low << by, a.high << by)
    return made if made.high < 1 << bits else both(made, constant((1 << bits) - 1))


def right(a: Number, b: Number) -> Number:
    """Shifted to the right."""
    by = _amount(b)
    _natural(a, "a shift")
    return _made("shr", a, b, a.low >> by, a.high >> by)


def less(a: Number, b: Number) -> Number:
    """Whether a < b, as 0 or 1."""
    if a.high < b.low or a.low >= b.high:
        return constant(int(a.high < b.low))
    return Number(("lt", a.tree, b.tree), 0, 1)


def equal(a: Number, b: Number) -> Number:
    """Whether a = b, as 0 or 1."""
    if a.tree == b.tree or a.high < b.low or b.high < a.low:
        return constant(int(a.tree == b.tree))
    if b.tree == 0 and (a.low, a.high) == (0, 1):
        return opposite(a)
    return Number(("eq", a.tree, b.tree), 0, 1)


def opposite(a: Number) -> Number:
    """1 for 0 and 0 for 1."""
    match a.tree:
        case int(known):
            return constant(1 - known)
        case ("sub", 1, inner):
            return Number(inner, 0, 1)
    return Number(("sub", 1, a.tree), 0, 1)


def select(condition: Number, a: Number, b: Number) -> Number:
    """One of two numbers; quotients rounded up, the smaller and the larger are told apart."""
    if condition.fixed or a.tree == b.tree:
        return a if condition.tree == 1 else b
    low, high = min(a.low, b.low), max(a.high, b.high)
    match condition.tree:
        case ("lt", x, y) if (x, y) == (a.tree, b.tree):
            return Number(("min", x, y), min(a.low, b.low), min(a.high, b.high))
        case ("lt", x, y) if (y, x) == (a.tree, b.tree):
            return Number(("max", x, y), max(a.low, b.low), max(a.high, b.high))
        case ("sub", 1, ("eq", x, ("mul", ("floordiv", y, d) as q, e))) if (
            x,
            d,
            b.tree,
            a.tree,
        ) == (y, e, q, ("add", q, 1)):
            return Number(("cdiv", x, d), low, high)
    return Number(("select", condition.tree, a.tree, b.tree), low, high)


def _amount(b: Number) -> int:
    if not isinstance(b.tree, int):
        raise HostCodeError("a shift by a number that is not known when compiling")
    return b.tree


def _natural(a: Number, what: str) -> None:
    if a.low < 0:
        raise HostCodeError(f"{what} of a number that may be negative: {a.tree}")


_NOW: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "shl": lambda a, b: a << b,
    "shr": lambda a, b: a >> b,
}


def _made(op: str, a: Number, b: Number, low: int, high: int) -> Number:
    if isinstance(a.tree, int) and isinstance(b.tree, int):
        return constant(_NOW[op](a.tree, b.tree))
    if low == high:
        return constant(low)
    return Number((op, a.tree, b.tree), low, high)

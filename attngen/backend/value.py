"""Values that a host function computes: numbers from shapes and strides, sums of arrays.

A value prints itself as Python text for a generated file, and is a tree of plain data for a package
whose launcher evaluates it without any compiler. Both come from here, so they cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

Tree: TypeAlias = "int | float | str | list[Any]"

_LOOSEST, _AND, _SUM, _PRODUCT, _MINUS, _ATOM = range(6)
_INFIX = {
    "add": ("+", _SUM),
    "sub": ("-", _SUM),
    "mul": ("*", _PRODUCT),
    "floordiv": ("//", _PRODUCT),
    "mod": ("%", _PRODUCT),
}
_COMPARE = {"lt": "<", "le": "<=", "eq": "==", "ne": "!="}
METHODS = (  # of an array
    *("exp", "exp2", "log", "log2", "tanh", "sigmoid", "sqrt", "rsqrt", "cos", "sin"),
    *("abs", "relu", "floor"),
)


@dataclass(frozen=True)
class Value:
    """One operation.

    Numbers: number, shape, stride, count (of all elements), add, sub, mul, floordiv, cdiv, min,
    max, gcd, power2, low_bit.
    Arrays: add, mul, floordiv, mod, lt, le, eq, ne, where, recip, sum, permute, unflatten, first
    (columns), column (one more axis), to (a dtype), and METHODS; arange, clamp (from 0), take (of a
    flat tensor), by_element (sums [batch, heads] by the element they belong to, in the shape of a
    tensor), place (as one element of an axis of a tensor, zeros at the others).
    name: a variable of the host function or one of its arguments.
    """

    op: str
    args: tuple[Any, ...]

    def __add__(self, other: Value | int) -> Value:
        return Value("add", (self, value(other)))

    def __sub__(self, other: Value | int) -> Value:
        return Value("sub", (self, value(other)))

    def __mul__(self, other: Value | int) -> Value:
        return Value("mul", (self, value(other)))

    def __floordiv__(self, other: Value | int) -> Value:
        return Value("floordiv", (self, value(other)))

    def __str__(self) -> str:
        return _text(self)[0]

    def tree(self) -> Tree:
        """As plain data: a number, a name, or [operation, arguments...]."""
        if self.op in ("name", "number"):
            plain: Tree = self.args[0]
            return plain
        return [self.op, *(a.tree() if isinstance(a, Value) else _plain(a) for a in self.args)]


ONE = Value("number", (1,))


def value(number: Value | int | float) -> Value:
    """A number as a value."""
    return number if isinstance(number, Value) else Value("number", (number,))


def variable(name: str) -> Value:
    """A variable of the host function, or one of its arguments."""
    return Value("name", (name,))


def shape_of(tensor: str, axis: int) -> Value:
    """The size of an axis."""
    return Value("shape", (tensor, axis))


def stride_of(tensor: str, axis: int) -> Value:
    """The stride of an axis, in elements."""
    return Value("stride", (tensor, axis))


def count_of(tensor: str) -> Value:
    """How many elements an array has."""
    return Value("count", (tensor,))


def cdiv(a: Value, b: int) -> Value:
    """Quotient, rounded up."""
    return Value("cdiv", (a, b))


def smallest(a: Value | int, b: Value | int) -> Value:
    """The smaller of two numbers."""
    return Value("min", (value(a), value(b)))


def largest(a: Value | int, b: Value | int) -> Value:
    """The larger of two numbers."""
    return Value("max", (value(a), value(b)))


def common(a: Value, b: Value) -> Value:
    """The greatest common divisor of two numbers of at least 1."""
    return a if a == b else Value("gcd", (a, b))


def power2(a: Value) -> Value:
    """The greatest power of two that is not above a number of at least 1."""
    return Value("power2", (a,))


def low_bit(a: Value) -> Value:
    """The greatest power of two that divides a number."""
    return Value("low_bit", (a,))


def product(factors: Iterable[Value]) -> Value:
    """The product of numbers, ones left out, products taken apart."""
    out = ONE
    for factor in (x for f in factors for x in _factors(f)):
        out = factor if out == ONE else out if factor == ONE else out * factor
    return out


def _factors(v: Value) -> tuple[Value, ...]:
    return tuple(x for a in v.args for x in _factors(a)) if v.op == "mul" else (v,)


def sum_over(array: Value, axes: tuple[int, ...]) -> Value:
    """The sum of an array over some axes."""
    return Value("sum", (array, axes))


def cast(array: Value, tensor: str) -> Value:
    """An array in the dtype of a tensor."""
    return Value("to", (array, tensor))


def _plain(argument: Any) -> Any:
    return list(argument) if isinstance(argument, tuple) else argument


def _text(v: Value) -> tuple[str, int]:
    """(text, how tightly it binds)."""
    if v.op in _INFIX:
        sign, rank = _INFIX[v.op]
        a, b = (_inside(x, rank + i) for i, x in enumerate(v.args))
        return f"{a} {sign} {b}", rank
    if v.op in _COMPARE:
        a, b = (_inside(x, _SUM) for x in v.args)
        return f"{a} {_COMPARE[v.op]} {b}", _LOOSEST
    if v.op in ("name", "number"):
        return str(v.args[0]), _ATOM
    return _number(v) or _array(v)


def _inside(v: Value, rank: int) -> str:
    text, own = _text(v)
    return text if own >= rank else f"({text})"


def _number(v: Value) -> tuple[str, int] | None:
    match v.op, v.args:
        case "shape", (tensor, axis):
            return f"{tensor}.shape[{axis}]", _ATOM
        case "stride", (tensor, axis):
            return f"{tensor}.stride({axis})", _ATOM
        case "count", (tensor,):
            return f"{tensor}.numel()", _ATOM
        case "cdiv", (a, b):
            return f"triton.cdiv({a}, {b})", _ATOM
        case (("min" | "max"), (a, b)):
            return f"{v.op}({a}, {b})", _ATOM
        case "gcd", (a, b):  # of heads, so few are tried; a generated file imports no `math`
            divides = " == ".join(f"{_inside(x, _PRODUCT)} % d" for x in (a, b))
            return f"max(d for d in range(1, {a} + 1) if {divides} == 0)", _ATOM
        case "power2", (a,):
            return f"1 << ({_inside(a, _ATOM)}.bit_length() - 1)", _LOOSEST
        case "low_bit", (a,):
            atom = _inside(a, _ATOM)
            return f"{atom} & -{atom}", _AND
    return None


def _array(v: Value) -> tuple[str, int]:
    array = _inside(v.args[0], _ATOM)
    text = _rearranged(v, array) or _chosen(v, array)
    if text is not None:
        return text, _ATOM
    if v.op == "recip":
        return f"1.0 / {array}", _PRODUCT
    if v.op in METHODS:
        return f"{array}.{v.op}()", _ATOM
    raise ValueError(f"no text for the host operation {v.op}")


def _rearranged(v: Value, array: str) -> str | None:
    match v.op, v.args[1:]:
        case "sum", (axes,):
            return f"{array}.sum({_one_or_tuple(axes)})"
        case "permute", (axes,):
            return f"{array}.permute({', '.join(map(str, axes))})"
        case "unflatten", (axis, count):
            return f"{array}.unflatten({axis}, ({count}, -1))"
        case "first", (count,):
            return f"{array}[..., :{count}]"
        case "column", ():
            return f"{array}[:, None]"
        case "to", (tensor,):
            return f"{array}.to({tensor}.dtype)"
    return None


def _chosen(v: Value, array: str) -> str | None:
    match v.op, v.args[1:]:
        case "arange", (tensor,):
            return _every(v.args[0], tensor)
        case "clamp", (most,):
            return f"{array}.clamp(0, {most})"
        case "take", (at,):
            return f"{array}.reshape(-1)[{at}]"
        case "where", (a, b):
            return f"torch.where({v.args[0]}, {a}, {b})"
        case "by_element", (at, tensor):
            own = f"{_inside(at, _ATOM)}[..., None] == {_every(f'{tensor}.numel()', tensor)}"
            chosen = f"torch.where({own}, {array}[..., None], 0.0)"
            return f"{chosen}.sum((0, 1)).reshape({tensor}.shape)"
        case "place", (tensor, axis, element, after):
            more = f"[{', '.join([':', *['None'] * after])}]" if after else ""
            own = f"{_every(f'{tensor}.shape[{axis}]', tensor)}{more} == {element}"
            return f"torch.where({own}, {array}.unsqueeze({axis}), 0.0)"
    return None


def _every(count: object, tensor: str) -> str:
    return f"torch.arange({count}, device={tensor}.device)"


def _one_or_tuple(axes: tuple[int, ...]) -> str:
    return str(axes[0]) if len(axes) == 1 else f"({', '.join(map(str, axes))})"

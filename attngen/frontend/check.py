"""Rules of operators and functions: kinds, rows, matrices. Each builds the node or raises."""

from __future__ import annotations

import math

from attngen.core.source import Span
from attngen.frontend.mistake import Mistake, wrong
from attngen.ir import build
from attngen.ir.expr import Axes, Binary, Const, Dot, Expr, Extent, MatMul, Outer, matrix

SPELLED = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "//": "floordiv",
    "%": "mod",
    "**": "pow",
    "<": "lt",
    "<=": "le",
    ">": "gt",
    ">=": "ge",
    "==": "eq",
    "!=": "ne",
}
_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
LARGEST = 2**63 - 1


def number(e: Expr, span: Span, where: str) -> None:
    """Requires a number or a row of numbers, not a bool."""
    if e.kind == "bool":
        raise wrong(
            "E110",
            f"found a bool, expected a number {where}",
            span,
            "is true or false",
            f"write `where({_short(span)}, 1, 0)`",
        )


def scalar(e: Expr, span: Span, where: str) -> None:
    """Requires one number, not a row."""
    number(e, span, where)
    if e.feature is not None:
        raise wrong(
            "E109",
            f"found {describe(e)}, expected a number {where}",
            span,
            "has a feature axis",
            "contract two rows with `dot(a, b)`"
            if _is_product_of_rows(e)
            else f"contract it: `dot({_short(span)}, ...)`",
        )


def _is_product_of_rows(e: Expr) -> bool:
    return isinstance(e, Binary) and e.op == "mul" and None not in (e.a.feature, e.b.feature)


def boolean(e: Expr, span: Span, where: str) -> None:
    """Requires a bool."""
    if e.kind != "bool" or e.feature is not None:
        raise wrong(
            "E110",
            f"found {describe(e)}, expected a bool {where}",
            span,
            "is not true or false",
            f"compare it: `{_short(span)} != 0`" if e.feature is None else "compare one number",
        )


def whole(e: Expr, span: Span, where: str) -> None:
    """Requires one whole number."""
    scalar(e, span, where)
    if e.kind != "int":
        raise wrong(
            "E110",
            f"found a real number, expected a whole number {where}",
            span,
            "is not a whole number",
            f"write `i32({_short(span)})`",
        )


def describe(e: Expr) -> str:
    """What an expression is, in words."""
    shape = matrix(e)
    if shape is not None:
        return f"a matrix over [{shape[0]}, {shape[1]}]"
    if e.feature is not None:
        return f"a row over {e.feature}"
    return {"bool": "a bool", "int": "a whole number", "float": "a number"}[e.kind]


def binary(op: str, a: Expr, b: Expr, spans: tuple[Span, Span], whole_span: Span) -> Expr:
    """`a op b` with the operator as spelled."""
    if op in ("and", "or"):
        boolean(a, spans[0], f"beside `{op}`")
        boolean(b, spans[1], f"beside `{op}`")
        return build.binary(op, a, b)
    if op == "@":
        return matmul(a, b, whole_span)
    for e, span in zip((a, b), spans, strict=True):
        number(e, span, f"beside `{op}`")
        if op in _COMPARISONS or (op == "**" and e is b):
            scalar(e, span, f"beside `{op}`")
        if op in ("//", "%"):
            whole(e, span, f"beside `{op}`")
    if op in ("/", "//", "%") and build.is_number(b, 0):
        raise wrong(
            "E123", "division by zero", spans[1], "is 0", f"remove `{op} {_short(spans[1])}`"
        )
    if op in ("+", "-", "*", "/"):
        agree(op, a, b, whole_span)
    return fits(build.binary(SPELLED[op], a, b), whole_span)


def fits(e: Expr, span: Span) -> Expr:
    """A folded constant must still be a number of 64 bits."""
    if isinstance(e, Const) and not isinstance(e.value, bool):
        if math.isnan(e.value):
            raise wrong(
                "E123",
                "the value is not a number",
                span,
                "is infinity minus infinity or alike",
                "use a finite constant",
            )
        if isinstance(e.value, int) and abs(e.value) > LARGEST:
            raise wrong(
                "E123",
                "the constant does not fit into 64 bits",
                span,
                "is too large",
                "write a factor as a real number, such as `2.0`",
            )
    return e


def agree(op: str, a: Expr, b: Expr, span: Span) -> None:
    """Rows must be over one feature axis; a matrix takes numbers, its like, or a scaling row."""
    left, right = matrix(a), matrix(b)
    if left is None and right is None:
        if a.feature is not None and b.feature is not None and a.feature != b.feature:
            raise _extents(f"beside `{op}`", a.feature, b.feature, span)
        return
    if left is not None and right is not None:
        if left != right:
            raise wrong(
                "E108",
                f"{describe(a)} and {describe(b)} beside `{op}`",
                span,
                "expected equal shapes",
                "transpose by swapping the arguments of `outer`",
            )
        return
    shape, other = (left, b) if left is not None else (right, a)
    if shape is None or other.feature is None:
        return
    if op in ("+", "-"):
        raise wrong(
            "E109",
            f"found {describe(a)} {op} {describe(b)}",
            span,
            "expected two matrices",
            "make a matrix of rows with `outer(a, b)`",
        )
    if op == "/" and other is a:
        raise wrong(
            "E109",
            "a row cannot be divided by a matrix",
            span,
            "expected a matrix first",
            "swap the sides",
        )
    _scales(other, shape, span)


def _scales(row: Expr, shape: tuple[Extent, Extent], span: Span) -> None:
    if row.feature not in shape:
        raise _extents("of a row times a matrix", row.feature or "", shape[0], span)
    if shape[0] == shape[1]:
        raise wrong(
            "E109",
            f"a row over {row.feature} times a square matrix has two readings",
            span,
            "rows or columns?",
            "give the two axes of the state different names",
        )


def _extents(where: str, a: Extent, b: Extent, span: Span) -> Mistake:
    return wrong(
        "E108",
        f"feature axes {a} and {b} differ {where}",
        span,
        f"expected both over {a}",
        f"declare both with the axis `{a}`, or take columns with a view",
    )


def dot(a: Expr, b: Expr, spans: tuple[Span, Span], span: Span) -> Expr:
    """Contraction of two rows."""
    for e, place in zip((a, b), spans, strict=True):
        if e.feature is None or matrix(e) is not None:
            raise wrong(
                "E109",
                f"found {describe(e)}, expected a row in `dot`",
                place,
                "has no feature axis" if e.feature is None else "has two feature axes",
                "multiply numbers with `*`" if e.feature is None else "write `row @ state`",
            )
    if a.feature != b.feature and a.feature is not None and b.feature is not None:
        raise _extents("in `dot`", a.feature, b.feature, span)
    return Dot(a, b)


def outer(a: Expr, b: Expr, spans: tuple[Span, Span]) -> Expr:
    """Outer product of two rows."""
    for e, place in zip((a, b), spans, strict=True):
        if e.feature is None or matrix(e) is not None:
            raise wrong(
                "E109",
                f"found {describe(e)}, expected a row in `outer`",
                place,
                "is not a row",
                "write `outer(k, v)` with two rows",
            )
    return Outer(a, b)


def matmul(a: Expr, b: Expr, span: Span) -> Expr:
    """Row @ matrix or matrix @ row."""
    left, right = matrix(a), matrix(b)
    if (left is None) == (right is None):
        found = f"{describe(a)} @ {describe(b)}"
        raise wrong(
            "E109",
            f"found {found}, expected a row and a state",
            span,
            "not row times state",
            "contract two rows with `dot(a, b)`"
            if left is None
            else "apply the state to a row first: `(k @ M)`",
        )
    inner = (a.feature, right[0]) if right is not None else (left[1] if left else "", b.feature)
    if inner[0] is None or inner[1] is None:
        raise wrong(
            "E109",
            f"found {describe(a)} @ {describe(b)}, expected a row and a state",
            span,
            "a number has no axis to contract",
            "multiply a number with `*`",
        )
    if inner[0] != inner[1]:
        raise _extents("beside `@`", inner[0], inner[1], span)
    return MatMul(a, b)


def over_keys(e: Expr, span: Span, function: str) -> None:
    """Requires something that varies over the keys (a constant counts them)."""
    if Axes.KEY not in e.axes and not isinstance(e, Const):
        raise wrong(
            "E116",
            f"`{function}` reduces over the keys, found a value without a key axis",
            span,
            "is the same for every key",
            "use a key, a value, `kv_idx` or `dot(q, k)` in it",
        )


def _short(span: Span) -> str:
    text = " ".join(span.text.split())
    return text if len(text) <= 40 else "..."

"""One-line text of an expression for messages and notes."""

from __future__ import annotations

from attngen.ir.build import is_number
from attngen.ir.expr import (
    Binary,
    Cast,
    Const,
    Expr,
    Index,
    Load,
    Reduced,
    Row,
    Size,
    State,
    Top,
    Unary,
    children,
)

INFIX = {
    "add": "+",
    "mul": "*",
    "floordiv": "//",
    "mod": "%",
    "pow": "**",
    "lt": "<",
    "le": "<=",
    "eq": "==",
    "ne": "!=",
    "and": "and",
    "or": "or",
}
LONGEST = 80


def text(e: Expr) -> str:
    """Text of `e`, cut with `...` when it is long."""
    full = _text(e, 12)
    return full if len(full) <= LONGEST else full[: LONGEST - 3] + "..."


def _text(e: Expr, depth: int) -> str:
    if depth == 0:
        return "..."
    args = [_text(c, depth - 1) for c in children(e)]
    return _call(e, args) if args else _leaf(e)


def _leaf(e: Expr) -> str:
    match e:
        case Const(value=value):
            return f"{value:.6g}" if isinstance(value, float) else str(value).lower()
        case Size(name=name) | Index(name=name) | State(name=name):
            return name
        case Row(tensor=tensor, width=width, start=start):
            return f"{tensor}[{start}:{start}+{width}]" if start else tensor
        case Load(tensor=tensor):
            return tensor
        case Reduced():
            return _reduced(e)
        case _:
            return type(e).__name__.lower()


def _reduced(e: Reduced) -> str:
    return f"{e.what}{e.index + 1}"


def _call(e: Expr, args: list[str]) -> str:
    match e:
        case Load(tensor=tensor):
            return f"{tensor}[{', '.join(args)}]"
        case Unary(op=op):
            return f"1 / {args[0]}" if op == "recip" else f"{op}({args[0]})"
        case Cast(dtype=dtype):
            return f"{dtype}({args[0]})"
        case Top(part=part, count=count):
            return f"top_{part}({args[0]}, {count})"
        case Reduced():
            return _reduced(e)
        case Binary(op="mul", a=a) if is_number(a, -1):
            return f"-{args[1]}"
        case Binary(op=op) if op in INFIX:
            return f"({args[0]} {INFIX[op]} {args[1]})"
        case Binary(op=op):
            return f"{op}({', '.join(args)})"
        case _:
            return f"{type(e).__name__.lower()}({', '.join(args)})"

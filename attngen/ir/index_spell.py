"""A value expression on one line, for people (`explain`); kernels have printers of their own."""

from __future__ import annotations

from attngen.ir.expr import Binary, Cast, Const, Expr, Index, Load, Unary, Where

SYMBOLS = {"add": "+", "mul": "*", "floordiv": "//", "mod": "%", "pow": "**"}
SYMBOLS |= {"lt": "<", "le": "<=", "eq": "==", "ne": "!=", "and": "and", "or": "or"}


def spell(e: Expr) -> str:
    """The expression as text; nodes without a spelling show their kind."""
    match e:
        case Const(value=value):
            return str(value)
        case Index(name=name):
            return name
        case Load(tensor=tensor, index=index):
            return f"{tensor}[{', '.join(map(spell, index))}]" if index else tensor
        case Binary(op=op, a=a, b=b) if op in SYMBOLS:
            return f"({spell(a)} {SYMBOLS[op]} {spell(b)})"
        case Binary(op=op, a=a, b=b):
            return f"{op}({spell(a)}, {spell(b)})"
        case Unary(op=op, x=x) | Cast(dtype=op, x=x):
            return f"{op}({spell(x)})"
        case Where(condition=condition, a=a, b=b):
            return f"where({spell(condition)}, {spell(a)}, {spell(b)})"
    return type(e).__name__.lower()

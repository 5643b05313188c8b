"""How expressions are spelled: the language's own syntax with the fewest parentheses.

`mul(-1, x)` prints as `-x` or a difference and `recip` as a quotient, so that the text builds the
same nodes again. Formulas and whole specs: `attngen.ir.text`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import assert_never

from attngen.ir import build
from attngen.ir.expr import (
    Binary,
    Cast,
    Const,
    Dot,
    Expr,
    Hot,
    Index,
    Known,
    Load,
    LogSumExp,
    MatMul,
    Outer,
    Recomputed,
    Reduced,
    Row,
    Size,
    Softmax,
    State,
    Sum,
    Top,
    Unary,
    Uniform,
    Where,
)

CAUSAL = build.binary("le", Index("kv_idx"), Index("q_pos"))
_SYMBOLS = {
    "lt": "<",
    "le": "<=",
    "eq": "==",
    "ne": "!=",
    "floordiv": "//",
    "mod": "%",
    "mul": "*",
    "pow": "**",
    "and": "and",
    "or": "or",
}
# Binding strength, loosest first; the levels of grammar/attn.lark.
OR, AND, NOT, COMPARE, SUM, PRODUCT, NEGATION, POWER, ATOM = range(9)
_LEVELS = {
    "or": OR,
    "and": AND,
    "lt": COMPARE,
    "le": COMPARE,
    "eq": COMPARE,
    "ne": COMPARE,
    "add": SUM,
    "mul": PRODUCT,
    "floordiv": PRODUCT,
    "mod": PRODUCT,
    "pow": POWER,
}


class Printer:
    """Prints expressions; `names` maps nodes to the words that stand for them.

    row: how a row is written (a view has its own name); by default the tensor and its columns.
    """

    def __init__(self, names: Mapping[Expr, str], row: Callable[[Row], str] | None = None) -> None:
        self.names = names
        self.row = row or _row

    def text(self, e: Expr, level: int = OR) -> str:
        """The expression, in brackets if it binds looser than `level`."""
        if e in self.names:
            return self.names[e]
        own, text = self._print(e)
        return f"({text})" if own < level else text

    def _print(self, e: Expr) -> tuple[int, str]:
        match e:
            case Const(value=value):
                return _constant(value)
            case Size(name=name) | Index(name=name) | State(name=name) | Known(name=name):
                return ATOM, name
            case Row():
                return ATOM, self.row(e)
            case Load(tensor=tensor, index=index):
                return ATOM, f"{tensor}[{self._list(*index)}]" if index else tensor
            case Unary():
                return self._unary(e)
            case Binary():
                return self._binary(e)
            case MatMul(a=a, b=b):
                return PRODUCT, f"{self.text(a, PRODUCT)} @ {self.text(b, NEGATION)}"
            case Reduced(what=what, index=index):
                return ATOM, f"{what}{index + 1}"
            case _:
                return ATOM, self.call(e)

    def call(self, e: Expr) -> str:
        """What is written as a function call, whatever name it has."""
        match e:
            case Where(condition=c, a=a, b=b):
                return f"where({self._list(c, a, b)})"
            case Cast(x=x, dtype=dtype):
                return f"{dtype}({self.text(x)})"
            case Dot(a=a, b=b):
                return f"dot({self._list(a, b)})"
            case Outer(a=a, b=b):
                return f"outer({self._list(a, b)})"
            case Uniform(seed=seed):
                return f"uniform({self.text(seed)})"
            case Softmax(score=score, sink=sink):
                return f"softmax({self._with_sink(score, sink)})"
            case LogSumExp(score=score, sink=sink):
                return f"logsumexp({self._with_sink(score, sink)})"
            case Sum(x=x):
                return f"sum({self.text(x)})"
            case Top():
                return self._top(e)
            case Recomputed(score=score, norm=norm):  # made by passes, like the next
                return f"exp({self.text(score)} - {self.text(norm, PRODUCT)})"
            case Hot(indices=indices, values=values):
                return f"hot({self._list(indices, values)})"
            case (
                Const()
                | Size()
                | Index()
                | State()
                | Row()
                | Load()
                | Unary()
                | Binary()
                | MatMul()
                | Reduced()
                | Known()
            ):
                raise TypeError(f"not printed as a call: {e!r}")
            case _:
                assert_never(e)

    def _top(self, e: Top) -> str:
        if e.count > 1:
            part = "" if e.part == "indices" else "[0]"  # values: only in a one-line formula
            return f"topk({self.text(e.score)}, {e.count}){part}"
        least = _negated(e.score)
        if e.part == "values":
            return f"max({self.text(e.score)})"
        return f"argmax({self.text(e.score)})" if least is None else f"argmin({self.text(least)})"

    def _with_sink(self, score: Expr, sink: Expr | None) -> str:
        return self.text(score) + (f", sink = {self.text(sink)}" if sink is not None else "")

    def _list(self, *items: Expr) -> str:
        return ", ".join(self.text(i) for i in items)

    def _unary(self, e: Unary) -> tuple[int, str]:
        if e.op == "not":
            return NOT, f"not {self.text(e.x, NOT)}"
        if e.op == "recip":
            return PRODUCT, f"1 / {self.text(e.x, NEGATION)}"
        return ATOM, f"{e.op}({self.text(e.x)})"

    def _binary(self, e: Binary) -> tuple[int, str]:
        if e is CAUSAL:
            return ATOM, "causal"
        match e.op:
            case "max" | "min":
                return ATOM, f"{e.op}({self._list(e.a, e.b)})"
            case "logaddexp":  # made by passes, not writable in a spec
                return ATOM, f"logaddexp({self._list(e.a, e.b)})"
            case "add":
                return SUM, self._sum(e)
            case "mul":
                return self._product(e)
        level = _LEVELS[e.op]
        left, right = level, level + 1
        if level == COMPARE:
            left = SUM
        if e.op == "pow":
            left, right = ATOM, NEGATION
        symbol = _SYMBOLS[e.op]
        return level, f"{self.text(e.a, left)} {symbol} {self.text(e.b, right)}"

    def _sum(self, e: Binary) -> str:
        left = self.text(e.a, SUM)
        if e.b not in self.names:
            positive = _negated(e.b)
            if positive is not None:
                return f"{left} - {self.text(positive, PRODUCT)}"
        return f"{left} + {self.text(e.b, PRODUCT)}"

    def _product(self, e: Binary) -> tuple[int, str]:
        if _is_minus_one(e.a):
            # `-a * b` reads as (-a) * b, which is the same node
            return PRODUCT, f"-{self._factors(e.b)}"
        divisor = _divisor(e.b) if e.b not in self.names else None
        if divisor is not None:
            return PRODUCT, f"{self.text(e.a, PRODUCT)} / {self.text(divisor, NEGATION)}"
        if build.number(e.a) is not None:
            return PRODUCT, self._scaled(e)
        return PRODUCT, f"{self.text(e.a, PRODUCT)} * {self.text(e.b, NEGATION)}"

    def _scaled(self, e: Binary) -> str:
        """`2 * a * b`: the constant of a product moves to its front when it is read."""
        return f"{self.text(e.a, NEGATION)} * {self._factors(e.b)}"

    def _factors(self, e: Expr) -> str:
        first = e
        while isinstance(first, Binary) and first.op == "mul" and first not in self.names:
            first = first.a
        # `-a // b * c` would read as (-a) // b * c
        rounds = isinstance(first, Binary) and first.op in ("floordiv", "mod")
        if isinstance(e, Binary) and first is not e and (first in self.names or not rounds):
            return self._product(e)[1]
        return self.text(e, NEGATION)


def _row(e: Row) -> str:
    if not e.start:
        return e.tensor
    stop = f"{e.start + e.width}" if isinstance(e.width, int) else ""
    return f"{e.tensor}[{e.start}:{stop}]"


def _constant(value: bool | int | float) -> tuple[int, str]:
    if isinstance(value, bool):
        return ATOM, "true" if value else "false"
    text = repr(value) if isinstance(value, int) or math.isfinite(value) else "inf"
    if isinstance(value, float) and value == -math.inf:
        text = "-inf"
    return (NEGATION if text.startswith("-") else ATOM), text


def _is_minus_one(e: Expr) -> bool:
    return isinstance(e, Const) and e.value == -1 and isinstance(e.value, int)


def _negated(e: Expr) -> Expr | None:
    """The x of -x where `a - x` builds `a + e` again, else None."""
    if isinstance(e, Const) and not isinstance(e.value, bool):
        return Const(-e.value) if math.copysign(1, e.value) < 0 and e.value != 0 else None
    if not isinstance(e, Binary) or e.op != "mul" or not isinstance(e.a, Const):
        return None
    factor = e.a.value
    if _is_minus_one(e.a):
        return e.b
    if math.copysign(1, factor) > 0 or factor in (0, -1):
        return None  # -1.0 would come back as the whole number -1
    return Binary("mul", Const(-factor), e.b)


def _divisor(e: Expr) -> Expr | None:
    return e.x if isinstance(e, Unary) and e.op == "recip" else None

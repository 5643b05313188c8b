"""Expressions of the IR as Triton text, with the fewest parentheses and explicit broadcasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

from attngen.backend.triton.shape import COLUMN, ROW, TILE, Frame
from attngen.core.diagnostics import Diagnostic, SpecError
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
from attngen.passes.interval import interval

OR, AND, COMPARE, ADD, MUL, UNARY, ATOM = range(7)
LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453
_COMPARE = {"lt": "<", "le": "<=", "eq": "==", "ne": "!="}
_CALLS = {
    "exp": "tl.exp",
    "exp2": "tl.exp2",
    "log": "tl.log",
    "log2": "tl.log2",
    "sqrt": "tl.sqrt",
    "rsqrt": "tl.rsqrt",
    "sin": "tl.sin",
    "cos": "tl.cos",
    "sigmoid": "tl.sigmoid",
    "floor": "tl.floor",
}
DTYPES = {
    "f16": "tl.float16",
    "bf16": "tl.bfloat16",
    "f32": "tl.float32",
    "f64": "tl.float64",
    "i32": "tl.int32",
    "i64": "tl.int64",
    "i8": "tl.int8",
    "bool": "tl.int1",
}


@dataclass
class Printer:
    """Prints expressions over bound names.

    frame: shape of a tile; bound: expressions that already have a name in scope; load: prints an
    element of an input; helpers: names of helper functions the text called, collected on the way.
    """

    frame: Frame
    load: Callable[[Load, Printer], str]
    bound: dict[Expr, str] = field(default_factory=dict)
    helpers: set[str] = field(default_factory=set)

    def text(self, e: Expr, at: int = OR) -> str:
        """The expression at least as tight as level `at`."""
        if e in self.bound:
            return self.bound[e]
        body, level = self._body(e)
        return f"({body})" if level < at else body

    def spread(self, e: Expr, target: str) -> str:
        """The expression, indexed so that it broadcasts against `target`."""
        shape = self.frame.shape(e)
        spread = self.frame.spread("x", shape, target) != "x"
        return self.frame.spread(self.text(e, ATOM if spread else OR), shape, target)

    def _operand(self, e: Expr, parent: Expr, at: int) -> str:
        target = self.frame.shape(parent)
        if parent.feature is not None and e.feature is None and self.frame.shape(e):
            return f"{self.text(e, ATOM)}[:, None]"  # a tile of rows is [positions, columns]
        shape = self.frame.shape(e)
        spread = target == TILE and shape not in ("", TILE)
        return self.frame.spread(self.text(e, ATOM if spread else at), shape, target)

    def _body(self, e: Expr) -> tuple[str, int]:
        match e:
            case Const():
                return self._const(e)
            case Index():
                return e.name, ATOM
            case Load():
                return self.load(e, self), ATOM
            case Unary():
                return self._unary(e)
            case Binary():
                return self._binary(e)
            case Where():
                return self._where(e)
            case Cast():
                return f"{self._tensor(e.x)}.to({DTYPES[e.dtype]})", ATOM
            case Uniform():
                return self._uniform(e)
            case (
                Row()
                | Dot()
                | Reduced()
                | Known()
                | Recomputed()
                | Hot()
                | Size()
                | Softmax()
                | Sum()
                | LogSumExp()
                | Top()
                | State()
                | Outer()
                | MatMul()
            ):
                raise unbound(e)
            case _:
                assert_never(e)

    def _where(self, e: Where) -> tuple[str, int]:
        arms = ", ".join(self._operand(x, e, OR) for x in (e.condition, e.a, e.b))
        return f"tl.where({arms})", ATOM

    def _uniform(self, e: Uniform) -> tuple[str, int]:
        self.helpers.add("uniform")
        row = self.frame.spread("q_idx", ROW, TILE)
        column = self.frame.spread("kv_idx", COLUMN, TILE)
        return f"uniform({self.text(e.seed)}, b, h, {row}, {column})", ATOM

    def _const(self, e: Const) -> tuple[str, int]:
        value = e.value
        if isinstance(value, float) and value in (float("inf"), float("-inf")):
            return f'float("{value}")', ATOM
        return repr(value), UNARY if not isinstance(value, bool) and value < 0 else ATOM

    def _tensor(self, e: Expr) -> str:
        """Text that has tensor methods: a literal needs none, everything else is one."""
        return self.text(e, ATOM)

    def _float(self, e: Expr) -> str:
        """Argument of a float function."""
        return self.text(e) if e.kind == "float" else f"{self._tensor(e)}.to(tl.float32)"

    def _unary(self, e: Unary) -> tuple[str, int]:
        if e.op in _CALLS:
            return f"{_CALLS[e.op]}({self._float(e.x)})", ATOM
        match e.op:
            case "not":
                if e.x.kind == "bool":
                    return f"~{self.text(e.x, ATOM)}", UNARY
                return f"{self.text(e.x, ADD)} == 0", UNARY
            case "abs":
                return f"tl.abs({self.text(e.x)})", ATOM
            case "recip":
                return f"1.0 / {self.text(e.x, UNARY)}", MUL
            case "relu":
                return f"tl.maximum({self.text(e.x)}, 0.0)", ATOM
            case "silu":
                x = self.text(e.x, ATOM)
                return f"{x} * tl.sigmoid({self.text(e.x)})", MUL
            case "tanh" | "softplus":
                self.helpers.add(e.op)
                return f"{e.op}({self._float(e.x)})", ATOM
        raise unbound(e)

    def _binary(self, e: Binary) -> tuple[str, int]:
        match e.op:
            case "add":
                return self._sum(e), ADD
            case "mul":
                return self._product(e), MUL
            case "max" | "min":
                a, b = self._operand(e.a, e, OR), self._operand(e.b, e, OR)
                return f"tl.{e.op}imum({a}, {b})", ATOM
            case "and" | "or":
                sign, level = ("&", AND) if e.op == "and" else ("|", OR)
                return (
                    f"{self._logical(e.a, e, level)} {sign} {self._logical(e.b, e, level + 1)}",
                    level,
                )
            case "floordiv" | "mod":
                return self._floor(e)
            case "pow":
                a, b = self._operand(e.a, e, MUL), self._operand(e.b, e, OR)
                return f"tl.exp2({b} * tl.log2({a}))", ATOM
            case "logaddexp":
                self.helpers.add("logaddexp")
                return f"logaddexp({self._operand(e.a, e, OR)}, {self._operand(e.b, e, OR)})", ATOM
        a, b = self._operand(e.a, e, ADD), self._operand(e.b, e, ADD)
        return f"{a} {_COMPARE[e.op]} {b}", COMPARE

    def _logical(self, e: Expr, parent: Expr, level: int) -> str:
        """`&` and `|` bind tighter than comparisons in Python: all but atoms are wrapped."""
        target, shape = self.frame.shape(parent), self.frame.shape(e)
        inner = (
            isinstance(e, Binary)
            and e.op in ("and", "or")
            and shape == target
            and e not in self.bound
        )
        if inner:
            return self.text(e, level)
        return self.frame.spread(self.text(_truth(e), ATOM), shape, target)

    def _sum(self, e: Binary) -> str:
        negative = build.number(e.b) if isinstance(e.b, Const) else None
        if negative is not None and negative < 0:
            return f"{self._operand(e.a, e, ADD)} - {self._operand(build.const(-negative), e, MUL)}"
        if e.b not in self.bound and (positive := _negated(e.b)) is not None:
            return f"{self._operand(e.a, e, ADD)} - {self._operand(positive, e, MUL)}"
        if e.a not in self.bound and (positive := _negated(e.a)) is not None:
            return f"{self._operand(e.b, e, ADD)} - {self._operand(positive, e, MUL)}"
        return f"{self._operand(e.a, e, ADD)} + {self._operand(e.b, e, ADD)}"

    def _product(self, e: Binary) -> str:
        if build.is_number(e.a, -1):
            return f"-{self._operand(e.b, e, UNARY)}"
        for x, y in ((e.b, e.a), (e.a, e.b)):
            if isinstance(x, Unary) and x.op == "recip" and x not in self.bound:
                return f"{self._operand(y, e, MUL)} / {self._operand(x.x, e, UNARY)}"
        # a number in front of a tile reads as in the formula: 0.125 * s
        return f"{self._operand(e.a, e, MUL)} * {self._operand(e.b, e, UNARY)}"

    def _floor(self, e: Binary) -> tuple[str, int]:
        """`//` and `%` of kernels truncate: plain only where both sides cannot be negative."""
        a, b = self._operand(e.a, e, MUL), self._operand(e.b, e, UNARY)
        if never_negative(e.a) and never_negative(e.b):
            return f"{a} {'//' if e.op == 'floordiv' else '%'} {b}", MUL
        name = "floor_div" if e.op == "floordiv" else "floor_mod"
        self.helpers.add(name)
        return f"{name}({self._operand(e.a, e, OR)}, {self._operand(e.b, e, OR)})", ATOM


def never_negative(e: Expr) -> bool:
    """Whether an integer expression is >= 0 for every input."""
    return interval(e)[0] >= 0


def scale_by(e: Expr, factor: float) -> Expr:
    """`factor * e`, folded into the constants of the terms where that costs nothing."""
    if isinstance(e, Binary) and e.op == "add":
        return build.add(scale_by(e.a, factor), scale_by(e.b, factor))
    if isinstance(e, Where):
        return build.where(e.condition, scale_by(e.a, factor), scale_by(e.b, factor))
    return build.mul(build.const(factor), e)


def unbound(e: Expr) -> SpecError:
    """Names the node the backend met without a way to print it."""
    kind = type(e).__name__.lower()
    return SpecError(
        Diagnostic(
            "E401",
            f"the triton backend cannot print this use of `{kind}` yet",
            help="simplify the score",
        )
    )


def _truth(e: Expr) -> Expr:
    return e if e.kind == "bool" else build.binary("ne", e, build.ZERO)


def _negated(e: Expr) -> Expr | None:
    """X when e is `-x` or a product with a negative constant, made positive."""
    if isinstance(e, Binary) and e.op == "mul":
        c = build.number(e.a)
        if c is not None and c < 0:
            return build.mul(build.const(-c), e.b)
    return None

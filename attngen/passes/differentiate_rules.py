"""Derivatives of single nodes: what each argument of a node gets from the node's adjoint."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import TypeAlias

from attngen.ir import build
from attngen.ir.build import ONE, ZERO, mul
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
    Recomputed,
    Reduced,
    Row,
    Size,
    Unary,
    Uniform,
    Where,
    children,
)
from attngen.ir.online import OnlinePlan
from attngen.ir.walk import walk
from attngen.passes.differentiate_rows import contract, ratio, times

Contributions: TypeAlias = list[tuple[Expr, Expr]]  # (argument, its share of the adjoint)
_FLAT = ("floor", "not")
HALF, TWO = Const(0.5), Const(2.0)
LN2 = 0.6931471805599453


class Active:
    """Whether a gradient flows through a node: a float that depends on an input that wants one.

    still: names of tensors without a gradient.
    """

    def __init__(self, plan: OnlinePlan, still: Container[str]) -> None:
        self.plan, self.still = plan, still
        self._memo: dict[Expr, bool] = {}

    def __call__(self, e: Expr) -> bool:
        """Whether a gradient flows through `e`."""
        for node in walk(e) if e not in self._memo else ():
            self._memo[node] = node.kind == "float" and self._flows(node)
        return self._memo[e]

    def _flows(self, e: Expr) -> bool:
        match e:
            case Row(tensor=tensor) | Load(tensor=tensor):
                return tensor not in self.still
            case Reduced(norms=norms):
                return any(self(x) for x in (*norms, *self._inside(e)))
            case Const() | Size() | Index() | Uniform() | Known() | Hot():
                return False
            case Recomputed(score=score):
                return self._memo[score]
            case Unary(op=op) if op in _FLAT:
                return False
            case Binary(op="floordiv"):
                return False
            case Where(a=a, b=b):
                return self._memo[a] or self._memo[b]
            case _:
                return any(self._memo[c] for c in children(e))

    def _inside(self, e: Reduced) -> list[Expr]:
        """What was reduced: tile expressions of an earlier or this stage."""
        match e.what:
            case "lse":
                return [self.plan.classes[e.index].score]
            case "moment":
                a = self.plan.accumulators[e.index]
                scores = [self.plan.classes[c].score for c, _ in a.weights]
                return [*scores, a.scalar, *([] if a.row is None else [a.row])]
            case _:
                return [self.plan.tops[e.index].score]


def shares(e: Expr, g: Expr) -> Contributions:
    """The contributions of node `e` with adjoint `g`, brought to each argument's feature axis."""
    return [(x, _shaped(share, x)) for x, share in _shares(e, g)]


def _shares(e: Expr, g: Expr) -> Contributions:
    match e:
        case Unary(op=op, x=x):
            return [(x, times(g, _SLOPES[op](x, e)))] if op in _SLOPES else []
        case Binary():
            return _binary(e, g)
        case Where(condition=condition, a=a, b=b):
            return [(a, build.where(condition, g, ZERO)), (b, build.where(condition, ZERO, g))]
        case Cast(x=x):
            return [(x, g)]
        case Dot(a=a, b=b):
            return [(a, times(g, b)), (b, times(g, a))]
        case Recomputed(score=score):
            return [(score, mul(e, g))]  # the normaliser is a constant of the tile
        case Reduced(what="moment", norms=norms):
            return [(norm, build.neg(contract(g, e))) for norm in norms]
        case _:
            return []


def _binary(e: Binary, g: Expr) -> Contributions:
    a, b = e.a, e.b
    match e.op:
        case "add":
            return [(a, g), (b, g)]
        case "mul":
            both = g.feature is not None
            return [
                (a, contract(g, b) if both and a.feature is None else times(g, b)),
                (b, contract(g, a) if both and b.feature is None else times(g, a)),
            ]
        case "max":
            first = build.binary("le", b, a)
            return [(a, build.where(first, g, ZERO)), (b, build.where(first, ZERO, g))]
        case "min":
            first = build.binary("le", a, b)
            return [(a, build.where(first, g, ZERO)), (b, build.where(first, ZERO, g))]
        case "pow":
            lower = build.power(a, build.sub(b, ONE))
            return [(a, times(g, mul(b, lower))), (b, times(g, mul(e, build.unary("log", a))))]
        case "mod":
            whole = build.unary("floor", build.div(a, b))
            return [(a, g), (b, build.neg(times(g, whole)))]
        case "logaddexp":  # log(exp(lse) + exp(sink)): the lse side is the second sum of phi
            return [(b, times(g, ratio(b, e)))]
        case _:
            return []


def _shaped(share: Expr, x: Expr) -> Expr:
    """A row summed over its features where the argument is a number."""
    if x.feature is None and share.feature is not None:
        return Dot(share, ONE)
    return share


def _sigmoid_slope(x: Expr, y: Expr) -> Expr:
    return mul(y, build.sub(ONE, y))


def _silu_slope(x: Expr, y: Expr) -> Expr:
    s = build.unary("sigmoid", x)
    return mul(s, build.add(ONE, mul(x, build.sub(ONE, s))))


def _sign(x: Expr, y: Expr) -> Expr:
    below = build.where(build.binary("lt", x, ZERO), Const(-1.0), Const(0.0))
    return build.where(build.binary("lt", ZERO, x), Const(1.0), below)


def _positive(x: Expr, y: Expr) -> Expr:
    return build.where(build.binary("lt", ZERO, x), Const(1.0), Const(0.0))


# slope of each function at x, given its value y there
_SLOPES: dict[str, Callable[[Expr, Expr], Expr]] = {
    "exp": lambda x, y: y,
    "exp2": lambda x, y: mul(Const(LN2), y),
    "log": lambda x, y: build.unary("recip", x),
    "log2": lambda x, y: mul(Const(1 / LN2), build.unary("recip", x)),
    "tanh": lambda x, y: build.sub(ONE, mul(y, y)),
    "sigmoid": _sigmoid_slope,
    "silu": _silu_slope,
    "relu": _positive,
    "softplus": lambda x, y: build.unary("sigmoid", x),
    "abs": _sign,
    "sqrt": lambda x, y: mul(HALF, build.unary("recip", y)),
    "rsqrt": lambda x, y: mul(Const(-0.5), mul(y, mul(y, y))),
    "recip": lambda x, y: build.neg(mul(y, y)),
    "sin": lambda x, y: build.unary("cos", x),
    "cos": lambda x, y: build.neg(build.unary("sin", x)),
}

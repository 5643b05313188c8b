"""Formulas for the tests of the online pass, written with operators instead of constructors."""

import math
from dataclasses import dataclass, field

import torch

from attngen.ir import build
from attngen.ir.attention import Attention
from attngen.ir.expr import (
    Dot,
    Expr,
    Index,
    Load,
    LogSumExp,
    Row,
    Side,
    Softmax,
    Sum,
    Top,
)

D = 8


@dataclass(frozen=True)
class F:
    """An expression with operators."""

    e: Expr

    def __add__(self, other):
        return F(build.add(self.e, lift(other)))

    def __radd__(self, other):
        return F(build.add(lift(other), self.e))

    def __sub__(self, other):
        return F(build.sub(self.e, lift(other)))

    def __rsub__(self, other):
        return F(build.sub(lift(other), self.e))

    def __mul__(self, other):
        return F(build.mul(self.e, lift(other)))

    def __rmul__(self, other):
        return F(build.mul(lift(other), self.e))

    def __truediv__(self, other):
        return F(build.div(self.e, lift(other)))

    def __rtruediv__(self, other):
        return F(build.div(lift(other), self.e))

    def __pow__(self, other):
        return F(build.power(self.e, lift(other)))

    def __neg__(self):
        return F(build.neg(self.e))

    def __lt__(self, other):
        return op("lt", self, other)

    def __le__(self, other):
        return op("le", self, other)

    def __gt__(self, other):
        return op("gt", self, other)

    def __and__(self, other):
        return op("and", self, other)


def lift(x):
    return x.e if isinstance(x, F) else build.const(x)


def op(name, a, b):
    return F(build.binary(name, lift(a), lift(b)))


def fn(name):
    return lambda x: F(build.unary(name, lift(x)))


exp, log, tanh, sigmoid, relu = (fn(n) for n in ["exp", "log", "tanh", "sigmoid", "relu"])


def query(name, width=D, start=0):
    return F(Row(name, Side.QUERY, width, start))


def key(name, width=D, start=0):
    return F(Row(name, Side.KEY, width, start))


def load(name, *index, kind="float"):
    return F(Load(name, tuple(lift(i) for i in index), kind))


def dot(a, b):
    return F(Dot(a.e, b.e))


def softmax(s, sink=None):
    return F(Softmax(s.e, None if sink is None else sink.e))


def logsumexp(s, sink=None):
    return F(LogSumExp(s.e, None if sink is None else sink.e))


def total(x):
    return F(Sum(lift(x)))


def top(s, count=1):
    return F(Top(s.e, count, "values")), F(Top(s.e, count, "indices"))


def where(c, a, b):
    return F(build.where(lift(c), lift(a), lift(b)))


def softcap(x, cap):
    return cap * tanh(x * (1 / cap))


B, H, QI, KI, QPOS, KVLEN = (F(Index(n)) for n in ["b", "h", "q_idx", "kv_idx", "q_pos", "kv_len"])
CAUSAL = KI <= QPOS
q, k, v, r, w = query("q"), key("k"), key("v"), query("r"), key("w")
S0 = dot(q, k) * (1 / math.sqrt(D))


@dataclass
class Data:
    """Tensors of one test case; streams are [B, H, S, D] with fewer heads for keys."""

    tensors: dict
    shape: tuple  # B, Hq, Hkv, Sq, Skv
    uniform: torch.Tensor = field(init=False)

    def __post_init__(self):
        b, h, _, nq, nk = self.shape
        self.uniform = torch.rand(b, h, nq, nk, dtype=torch.float64)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def streams(names, b=1, h=2, hk=2, nq=19, nk=19, d=D, dv=D):
    """Random streams: q* and r are query streams, k* and w are keys, v has width dv."""
    tensors = {}
    for n in names.split():
        heads, rows = (h, nq) if n[0] in "qr" else (hk, nk)
        tensors[n] = randn(b, heads, rows, dv if n == "v" else d)
    return Data(tensors, (b, h, hk, nq, nk))


def attention(outputs, mask=None, names=None, spans=None):
    """A program without declarations: all the online pass reads."""
    return Attention(
        "test",
        (),
        None if mask is None else mask.e,
        tuple((name, e.e) for name, e in outputs.items()),
        names={e.e: name for name, e in (names or {}).items()},
        spans=spans or {},
    )

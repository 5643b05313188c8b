"""Bounds of expressions: the exact ones where there are any, and soundness on random values."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attngen.ir import build
from attngen.ir.expr import Cast, Index, Load, Size, Softmax, Uniform
from attngen.passes.interval import interval
from tests.laws.online_formulas import (
    KI,
    QI,
    QPOS,
    S0,
    Data,
    F,
    dot,
    exp,
    fn,
    load,
    log,
    op,
    q,
    relu,
    sigmoid,
    softcap,
    tanh,
    where,
)
from tests.laws.online_values import Values

INF = math.inf
UNIFORM = F(Uniform(Load("seed", (), "int")))


@pytest.mark.parametrize(
    ("e", "expected"),
    [
        (softcap(S0, 20.0), (-20.0, 20.0)),
        (sigmoid(S0) * 3 - 1, (-1.0, 2.0)),
        (relu(tanh(S0)), (0.0, 1.0)),
        (fn("abs")(tanh(S0) - 3), (2.0, 4.0)),
        (op("min", relu(S0), 5), (0.0, 5.0)),
        (op("max", op("min", S0, 2), -3), (-3.0, 2.0)),
        (where(KI < QI, tanh(S0), 4), (-1.0, 4.0)),
        (tanh(S0) * tanh(S0), (0.0, 1.0)),
        (tanh(S0) * sigmoid(S0), (-1.0, 1.0)),
        (UNIFORM * 2, (0.0, 2.0)),
        (-1 * dot(q, q), (-INF, 0.0)),
        (S0, (-INF, INF)),
        (exp(S0), (0.0, INF)),
        (1 / (1 + dot(q, q)), (0.0, 1.0)),
        (1 / tanh(S0), (-INF, INF)),
        (log(sigmoid(S0)), (-INF, 0.0)),
        (where(KI < QI, tanh(S0), -INF), (-INF, 1.0)),
        (F(Softmax(S0.e, None)), (0.0, 1.0)),
        (QPOS, (-INF, INF)),
        (F(Size("D")), (1.0, INF)),
        (op("mod", KI, 8), (0.0, 8.0)),
        (S0 * 0.0, (0.0, 0.0)),
        (tanh(S0) * load("lam"), (-INF, INF)),
    ],
)
def test_bounds(e, expected):
    assert interval(e.e) == expected


def test_rounding_casts_are_given_room():
    low, high = interval(Cast(softcap(S0, 20.0).e, "bf16"))
    assert -24 < low < -20
    assert 20 < high < 24
    assert interval(Cast(exp(S0).e, "f16")) == (-INF, INF)
    assert interval(Cast(tanh(S0).e, "i32")) == (-1.0, 1.0)


LEAVES = st.sampled_from([S0, load("x"), load("y"), KI - QI, UNIFORM])
UNARY = ["exp", "tanh", "sigmoid", "silu", "relu", "softplus", "abs", "sqrt", "rsqrt", "log"]
UNARY += ["recip", "floor", "sin", "cos"]


def grown(inner):
    number = st.sampled_from([-2.0, -0.5, 0.0, 1.5, 3])
    return st.one_of(
        st.builds(lambda f, x: fn(f)(x), st.sampled_from(UNARY), inner),
        st.builds(op, st.sampled_from(["add", "mul", "max", "min", "logaddexp"]), inner, inner),
        st.builds(lambda c, x: c * x, number, inner),
        st.builds(lambda a, b: where(KI < QI, a, b), inner, inner),
        st.builds(lambda x: x * x, inner),
    )


@settings(max_examples=150, deadline=None)
@given(st.recursive(LEAVES, grown, max_leaves=8), st.integers(0, 10**6))
def test_every_value_lies_within_the_bounds(e, seed):
    torch.manual_seed(seed)
    tensors = {"q": torch.randn(1, 1, 5, 8) * 3, "k": torch.randn(1, 1, 5, 8)}
    tensors |= {"x": torch.randn(()) * 100, "y": torch.randn(()), "seed": torch.tensor(0)}
    data = Data({n: x.double() for n, x in tensors.items()}, (1, 1, 1, 5, 5))
    x = Values(data, (0, 0), (0, 5), (0, 5))(e.e)
    x = x[~x.isnan()]
    low, high = interval(e.e)
    slack = 1e-9 * max(1.0, *(abs(b) for b in (low, high) if math.isfinite(b)), 1.0)
    assert bool((x >= low - slack).all() and (x <= high + slack).all())


def test_index_bounds_are_those_of_lengths():
    assert interval(Index("kv_len")) == (0.0, INF)
    assert interval(build.const(True)) == (0.0, 1.0)

"""Traced values build the expressions that the language builds."""

import math

import pytest

from attngen.core.dtype import Dtype
from attngen.frontend.mistake import Mistake
from attngen.frontend.trace import Captured, Slot, Traced, Vector, apply, cast, dot, positions
from attngen.frontend.trace_ops import FUNCTIONS, erf, masked_bits, near
from attngen.frontend.trace_spec import split_mask
from attngen.ir import build
from attngen.ir.expr import Axes, Const, Dot, Index, Load, Unary
from attngen.ir.text import formula
from attngen.ir.walk import substitute

B, H, Q, K = positions(Traced)


def text(value):
    return formula(value.expression)


def value_of(e, **given):
    """The number an expression folds to when its positions are known."""
    folded = substitute(e, {Index(n): Const(v) for n, v in given.items()})
    assert isinstance(folded, Const), formula(folded)
    return folded.value


@pytest.mark.parametrize(
    ("traced", "expected"),
    [
        (lambda: Q - K <= 5, "q_idx - kv_idx <= 5"),
        (lambda: K < 3, "kv_idx < 3"),
        (
            lambda: (Q >= K) & ~(K == 0) | (Q != 1),
            "kv_idx <= q_idx and not kv_idx == 0 or q_idx != 1",
        ),
        (lambda: Q // 4 % 3 + 2 * K - (-Q), "q_idx // 4 % 3 + 2 * kv_idx + q_idx"),
        (lambda: abs(Q - K), "abs(q_idx - kv_idx)"),
        (lambda: Q << 3, "8 * q_idx"),
        (lambda: Q >> 2, "q_idx // 4"),
        (lambda: Q & 7, "q_idx % 8"),
        (lambda: Q / 2, "f32(q_idx) * 0.5"),
        (lambda: Q // 2.0, "floor(0.5 * f32(q_idx))"),
    ],
)
def test_operators(traced, expected):
    e = traced().expression
    assert formula(e).replace("0.5 * f32(q_idx)", "f32(q_idx) * 0.5") == expected.replace(
        "0.5 * f32(q_idx)", "f32(q_idx) * 0.5"
    )


def test_equal_truth_values():
    same = (Q < 4) == (K < 4)
    for q in (3, 4):
        for k in (3, 4):
            assert value_of(same.expression, q_idx=q, kv_idx=k) is ((q < 4) == (k < 4))


@pytest.mark.parametrize("bits", [1, 6, 0xFF, 0xF0])
def test_bits_of_one_run(bits):
    e = masked_bits(Index("q_idx"), bits)
    for number in (0, 5, 200, 1000):
        assert value_of(e, q_idx=number) == number & bits


@pytest.mark.parametrize("bits", [0, 5, -1, 0x0F0F])
def test_bits_that_are_no_run(bits):
    assert masked_bits(Index("q_idx"), bits) is None


@pytest.mark.parametrize("x", [-2.5, -0.3, 0.0, 0.4, 3.0])
def test_erf(x):
    assert value_of(erf(Const(x))) == pytest.approx(math.erf(x), abs=2e-7)


def test_casts():
    assert cast(Q < 3, "int").expression.kind == "int"
    assert cast(Q, "bool").expression.kind == "bool"
    assert cast(Q, "float").expression.kind == "float"
    assert text(cast(apply("div", Q, 2), "int")).startswith("i32(")


def test_far_constants_are_drawn_in():
    assert text(Q - K <= 2**31) == f"q_idx - kv_idx <= {2**30}"
    assert text(K >= Q - 2**40).endswith(str(2**30))
    far = build.binary("lt", build.add(Index("q_idx"), Index("kv_idx")), Const(2**31))
    assert near(far) is far  # the sum of two positions may be that large


def slot(*shape, dtype=Dtype.F32):
    return Slot("t", dtype, shape, tuple(frozenset({"B", "Hq", "Sq", "Skv"}) for _ in shape))


def test_captured_tensors_are_read_step_by_step():
    s = slot(4, 9)
    t = Captured(s, Traced)
    e = t[H][K]
    assert e.expression is t[H, K].expression is Load("t", (Index("h"), Index("kv_idx")), "float")
    assert s.reads == [(Index("h"), Index("kv_idx"))]
    assert t[-1, 0].expression is Load("t", (Const(3), Const(0)), "float")
    assert s.fixed == {0}


def test_a_tensor_indexed_by_a_tensor():
    inner = Captured(Slot("a", Dtype.I32, (9,), (frozenset(),)), Traced)
    outer = Captured(slot(5), Traced)
    assert text(outer[inner[Q]]) == "t[a[q_idx]]"


def test_short_rows_are_written_out():
    t = Captured(slot(6, 3, dtype=Dtype.I32), Traced)
    found = (t[Q // 4] == K).any(dim=-1)
    assert text(found) == (
        "t[q_idx // 4, 0] == kv_idx or t[q_idx // 4, 1] == kv_idx or t[q_idx // 4, 2] == kv_idx"
    )
    assert isinstance(t[Q].value(), Vector)


def test_rows_of_the_current_position_stay_rows():
    q, k = (Captured(Slot(n, Dtype.F32, (4, 9, 64), slot(4, 9, 64).alike), Traced) for n in "xy")
    assert isinstance(dot(q[H, Q], k[H, K]).expression, Dot)
    assert not isinstance(dot(q[H, Q // 2], k[H, K]).expression, Dot)


def test_infinite_scores_become_a_mask():
    score, c = Unary("exp", Index("kv_idx")), build.binary("le", Index("kv_idx"), Index("q_idx"))
    minus = Const(-math.inf)
    assert split_mask(build.where(c, score, minus)) == (score, [c])
    kept, (condition,) = split_mask(build.where(c, minus, score))
    assert kept is score
    assert condition is build.unary("not", c)
    added = build.add(score, build.where(c, Const(0.0), minus))
    assert split_mask(added) == (score, [c])
    assert split_mask(build.where(c, score, Const(-1e9)))[1] == []


@pytest.mark.parametrize("ask", [bool, int, float, lambda x: [1, 2][x]])
def test_values_are_not_known_while_tracing(ask):
    with pytest.raises(Mistake):
        ask(Q < 3)


def test_every_function_keeps_its_axes():
    for name, make in FUNCTIONS.items():
        count = {"where": 3}.get(name, 2 if name in TWO else 1)
        e = make(*[Index("kv_idx")] * count)
        assert e.axes in (Axes.KEY, Axes.NONE), name


TWO = {
    *("add", "sub", "mul", "pow", "min", "max", "div", "floordiv", "mod"),
    *("lt", "le", "gt", "ge", "eq", "ne", "and", "or", "xor"),
}

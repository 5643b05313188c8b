"""The prover: what it proves, and that it never proves what is false."""

from hypothesis import given
from hypothesis import strategies as st

from attngen.ir.index import Element, FirstGe, number, of, var
from attngen.ir.index_build import floor_div, le, maximum, minimum, modulo, pick
from attngen.ir.index_eval import evaluate
from attngen.passes.facts import Facts, side_facts

Q, Q0, Q1, N, S, W = (var(name) for name in ("q", "q0", "q1", "kv_len", "s", "w"))


def facts(budget=30_000):
    return Facts(side_facts("q", N), (S,), budget)


def test_positions():
    f = facts()
    assert f.nonneg(N - 1 - Q)
    assert f.nonneg(Q1 - 1)
    assert f.nonneg(N - Q0 - 1)
    assert not f.nonneg(Q - 1)
    assert not f.nonneg(Q0 - Q)
    assert not f.nonneg(W)


def test_meaning_of_terms():
    f = facts()
    doc = Element("doc", (Q,), N)
    start, end = of(FirstGe(doc, of(doc), N)), of(FirstGe(doc, of(doc) + 1, N))
    assert f.nonneg(Q - start)
    assert f.nonneg(end - Q - 1)
    assert f.nonneg(N - end)
    assert not f.nonneg(start - Q)
    assert f.nonneg(Q - 4 * floor_div(Q, number(4)))
    assert f.nonneg(4 * floor_div(Q, number(4)) + 3 - Q)
    assert f.nonneg(S - 1 - modulo(Q, S))
    assert not f.nonneg(W - 1 - modulo(Q, W))
    assert f.nonneg(1 - of(Element("flag", (), None, True)))


def test_order_through_min_max_where():
    f = facts()
    assert f.le(minimum(W, Q0), Q1)
    assert f.le(Q0, maximum(W, Q1))
    assert not f.le(maximum(W, Q0), Q1)
    assert f.le(pick(le(W, Q), Q0, number(0)), Q1)


def test_extreme_drops_what_never_wins():
    assert facts().extreme("min", N, Q1, W) is minimum(Q1, W)
    assert facts().extreme("max", number(0), Q, W) is maximum(Q, W)


def test_sign():
    f = facts()
    assert [f.sign(p) for p in (N, -N, S, W, Q, number(0))] == [1, -1, 1, 0, 0, 0]


def test_a_spent_budget_proves_nothing():
    assert not facts(budget=0).nonneg(N - 1 - Q)


coefficient = st.integers(-3, 3)


@given(st.lists(coefficient, min_size=7, max_size=7), st.integers(1, 9), st.data())
def test_what_is_proved_is_true(c, n, data):
    terms = (Q, Q0, Q1, N, floor_div(Q, number(3)), modulo(Q, S))
    p = sum((x * t for x, t in zip(c, terms, strict=False)), number(c[6]))
    q, q0 = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    q1, s = data.draw(st.integers(q0 + 1, n)), data.draw(st.integers(1, 5))
    env = {"q": q, "q0": q0, "q1": q1, "kv_len": n, "s": s}
    assert not facts().nonneg(p) or evaluate(p, env) >= 0

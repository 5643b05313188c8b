"""Solving for one variable, rule by rule, and exactness against enumeration."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngen.ir.index import Element, number, of, var
from attngen.ir.index_build import floor_div, lt, modulo
from attngen.ir.index_eval import evaluate
from attngen.passes.facts import Facts, side_facts
from attngen.passes.isolate import isolate

Q, K, B, S, W, N = (var(name) for name in ("q", "k", "b", "s", "w", "kv_len"))
FACTS = Facts((*side_facts("q", N), *side_facts("k", N)), (S,))


def doc(i, sorted_=True):
    return of(Element("doc", (B, i), N if sorted_ else None))


def solved(p):
    bound = isolate(p, "k", FACTS)
    return None if bound is None else (bound.side, str(bound.at))


@pytest.mark.parametrize(
    ("poly", "expected"),
    [
        (K - Q, ("hi", "q + 1")),
        (Q - K + 1, ("lo", "q + 1")),
        (3 * K - Q, ("hi", "(q // 3) + 1")),
        (Q - 3 * K, ("lo", "-((-q) // 3)")),
        (S * K - Q, ("hi", "(q // s) + 1")),
        (floor_div(K, number(4)) - Q, ("hi", "4 * q + 4")),
        (Q - floor_div(K, S), ("lo", "q * s")),
        (doc(K) - doc(Q), ("hi", "run_end(doc[b], q)")),
        (doc(Q) - doc(K), ("lo", "run_start(doc[b], q)")),
        (doc(K + 1) - Q, ("hi", "first_ge(doc[b], q + 1) - 1")),
        (doc(floor_div(K, number(8))) - Q, ("hi", "8 * first_ge(doc[b], q + 1)")),
        (doc(K, False) - Q, None),
        (modulo(K, number(4)) - Q, None),
        (W * K - Q, None),
        (floor_div(K, W) - Q, None),
        (K * K - Q, None),
        (Q * K - S, None),
        (doc(K) + doc(K + 1) - Q, None),
        (doc(K) + K - Q, None),
    ],
)
def test_rules(poly, expected):
    assert solved(poly) == expected


@given(st.integers(-5, 5).filter(bool), st.integers(-40, 40), st.integers(1, 5), st.booleans())
def test_bounds_are_exact(a, c, n, down):
    inner = floor_div(K + 3, number(n)) * (-1 if down else 1)
    for p in (a * K + c + Q, a * inner + Q + c):
        bound = isolate(p, "k", FACTS)
        for k in range(-30, 30):
            env = {"k": k, "q": 7}
            at = evaluate(bound.at, env)
            assert (evaluate(p, env) <= 0) == (k >= at if bound.side == "lo" else k < at)
    assert evaluate(lt(Q, 8), {"q": 7})

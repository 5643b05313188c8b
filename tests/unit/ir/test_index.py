"""Index expressions: normal forms, text, values, substitution."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngen.ir.expr import Binary, Index, Load
from attngen.ir.index import (
    FALSE,
    TRUE,
    Element,
    FirstGe,
    Opaque,
    TileExtreme,
    number,
    of,
    var,
)
from attngen.ir.index_build import (
    absolute,
    both,
    ceil_div,
    either,
    equal,
    floor_div,
    le,
    lt,
    maximum,
    minimum,
    modulo,
    negate,
    pick,
    substitute,
)
from attngen.ir.index_eval import evaluate

Q, K, W, N = (var(name) for name in ("q", "k", "w", "kv_len"))


def doc(i, length=N):
    return of(Element("doc", (var("b"), i), length))


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (Q - K - 1 + K, "q - 1"),
        (2 * Q * W - Q * W, "q * w"),
        (K * 0, "0"),
        (floor_div(4 * Q + 5, number(4)), "q + 1"),
        (floor_div(Q * W + K, W), "(k // w) + q"),
        (floor_div(maximum(Q, 4 * K), number(4)), "max((q // 4), k)"),
        (floor_div(Q, number(-4)), "((-q) // 4)"),
        (modulo(4 * Q + K, number(4)), "(k % 4)"),
        (maximum(maximum(Q, number(1)), K, number(3)), "max(3, q, k)"),
        (absolute(absolute(Q - K)), "max(q - k, k - q)"),
        (pick(le(K, Q), Q, Q), "q"),
        (le(4 * K, 2 * Q + 1), "2 * k <= q"),
        (lt(K, Q), "k < q"),
        (negate(le(K, Q)), "q < k"),
        (equal(doc(Q), doc(K)), "(doc[b, q] == doc[b, k])"),
        (both(TRUE, le(K, Q), le(K, Q)), "k <= q"),
        (either(le(K, Q), FALSE, TRUE), "True"),
        (of(FirstGe(doc(Q).term, doc(Q), N)), "run_start(doc[b], q)"),
        (of(FirstGe(doc(Q).term, doc(K) + 1, N)), "run_end(doc[b], k)"),
        (of(FirstGe(doc(Q).term, Q + 1, N)), "first_ge(doc[b], q + 1)"),
        (of(TileExtreme("min", doc(Q).term, var("q0"), var("q1") - 1)), "tile_min(doc[b], q0, q1)"),
        (le(number(1), of(Element("flag", (), None, True))), "flag"),
        (negate(le(number(1), of(Element("flag", (), None, True)))), "not flag"),
        (le(number(224), modulo(K, number(256))), "224 <= (k % 256)"),
    ],
)
def test_normal_form_and_text(node, text):
    assert str(node) == text


def test_equal_expressions_are_one_object():
    assert Q + K is K + Q
    assert le(K, Q) is lt(K, Q + 1)
    assert maximum(Q, Q) is Q
    assert len({doc(Q), doc(Q + 0)}) == 1


def test_an_opaque_condition_is_negated_whole():
    f = Opaque(Binary("lt", Load("x", (Index("q_idx"),), "float"), Load("y", (), "float")))
    assert negate(negate(f)) is f
    assert f.names == {"q"}
    assert str(negate(f)) == "not (x[q_idx] < y)"
    with pytest.raises(ValueError, match="no value"):
        evaluate(f, {})
    assert evaluate(negate(f), {}, opaque=lambda expr, env: True) is False


def test_substitute_rebuilds_normal_forms():
    assert substitute(equal(doc(Q), doc(K)), "k", Q) is TRUE
    assert str(substitute(floor_div(K, W), "k", W * Q)) == "q"
    assert str(substitute(of(FirstGe(doc(Q).term, doc(Q), N)), "q", K)) == "run_start(doc[b], k)"


def test_values():
    env = {"b": 0, "q": 3, "w": 2, "kv_len": 5, "doc": [[1, 1, 4, 4, 9]], "q0": 0, "q1": 3}
    assert evaluate(of(FirstGe(doc(Q).term, doc(Q), N)), env) == 2
    assert evaluate(of(FirstGe(doc(Q).term, doc(Q) + 1, N)), env) == 4
    assert evaluate(of(TileExtreme("max", doc(Q).term, var("q0"), var("q1"))), env) == 4
    assert evaluate(floor_div(-Q, W) + modulo(-Q, W) * 10, env) == -2 + 10
    assert evaluate(of(Element("f", (Q, W))), env | {"f": lambda i, j: 10 * i + j}) == 32
    with pytest.raises(IndexError, match="outside"):
        evaluate(doc(Q - 4), env)


small = st.integers(-30, 30)


@given(small, small, st.integers(-9, 9).filter(bool), small, small)
def test_smart_constructors_keep_values(x, y, n, c, d):
    env = {"q": x, "k": y, "w": n}
    p, v = c * Q + d * K + 7, c * x + d * y + 7
    for den, m in ((number(n), n), (W, n)):
        assert evaluate(floor_div(p, den), env) == v // m
        assert evaluate(modulo(p, den), env) == v % m
        assert evaluate(floor_div(p + den * Q, den), env) == (v + m * x) // m
    assert evaluate(ceil_div(p, number(n)), env) == -(-v // n)
    assert evaluate(floor_div(minimum(p, Q), number(n)), env) == min(v, x) // n
    assert evaluate(absolute(p), env) == abs(v)
    assert evaluate(le(6 * p, 4 * Q), env) == (6 * v <= 4 * x)
    assert evaluate(negate(both(le(p, Q), equal(Q, K))), env) == (not (v <= x and x == y))
    assert eval(str(p * Q - K), {}, env) == v * x - y

"""Each rule fires, and no rule changes a value."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attngen.core.source import Source, Span
from attngen.ir import build
from attngen.ir.expr import Cast, Load
from attngen.passes.simplify import RULES, simplify, simplify_attention
from tests.laws.online_formulas import (
    KI,
    KVLEN,
    QI,
    S0,
    Data,
    F,
    attention,
    exp,
    fn,
    load,
    log,
    op,
    relu,
    softmax,
    total,
    v,
    where,
)
from tests.laws.online_values import Values

X, Y, I = load("x"), load("y"), load("i", kind="int")
A, C = KI < QI, F(Load("c", (), "bool"))
TRUE, FALSE = F(build.TRUE), F(build.FALSE)

CASES = [
    ("max(x, x)", op("max", X, X), X),
    ("f(f(x))", relu(relu(X)), relu(X)),
    ("f(f(x))", F(Cast(Cast(X.e, "f16"), "f16")), F(Cast(X.e, "f16"))),
    ("floor(i)", fn("floor")(KI + 1), KI + 1),
    ("abs(-x)", fn("abs")(-X), fn("abs")(X)),
    ("log(exp(x))", log(exp(X)), X),
    ("where(not c", where(fn("not")(C), X, Y), where(C, Y, X)),
    ("where(c, where(c", where(C, where(C, X, Y), Y * 2), where(C, X, Y * 2)),
    ("where(c, where(c", where(C, X, where(C, Y, X * 2)), where(C, X, X * 2)),
    ("where(c, true", where(C, TRUE, FALSE), C),
    ("where(c, true", where(C, FALSE, TRUE), fn("not")(C)),
    ("a and (a or b)", op("and", A, op("or", C, A)), A),
    ("a and (a or b)", op("or", op("and", A, C), A), A),
    ("not i < j", fn("not")(A), op("ge", KI, QI)),
    ("i // 1", op("floordiv", KI, 1), KI),
    ("i // 1", op("mod", KI, 1), F(build.ZERO)),
    ("i + j - i", KI + QI - KI, QI),
    ("i + j - i", KI + KI - 1 + 2, 2 * KI + 1),
]


@pytest.mark.parametrize(("rule", "before", "after"), CASES)
def test_rule(rule, before, after):
    assert any(r.text.startswith(rule) and r.apply(before.e) is not before.e for r in RULES)
    assert simplify(before.e) is after.e


def test_every_rule_has_a_case():
    assert all(any(r.text.startswith(name) for name, _, _ in CASES) for r in RULES)


@pytest.mark.parametrize(
    "kept", [X - X, X / X, exp(log(X)), X + Y - X, fn("not")(X < Y), op("floordiv", X, 1)]
)
def test_rewrites_that_change_values_are_left_out(kept):
    assert simplify(kept.e) is kept.e


def test_constructors_do_the_rest():
    assert simplify((2 * (3 * X) * 1 + 0).e) is (6 * X).e
    assert simplify((0 - (-X)).e) is X.e


def test_rules_work_under_other_nodes():
    e = total(softmax(op("max", S0, S0)) * v)
    assert simplify(e.e) is total(softmax(S0) * v).e


def test_names_and_spans_follow():
    before = op("max", S0, S0)
    spans = {before.e: Span(Source("a", "abc"), 0, 1)}
    program = attention({"out": total(softmax(before) * v)}, names={before: "s"}, spans=spans)
    after = simplify_attention(program)
    assert after.names == {S0.e: "s"}
    assert list(after.spans) == [S0.e]


def test_a_mask_that_keeps_all_is_no_mask():
    program = attention({"out": total(softmax(S0) * v)}, mask=F(build.TRUE))
    assert simplify_attention(program).mask is None


INTS = st.sampled_from([KI, QI, I, KVLEN, F(build.const(1)), F(build.const(-2))])


def ints(inner):
    return st.builds(op, st.sampled_from(["add", "sub", "mul", "max", "min"]), inner, inner)


WHOLE = st.recursive(INTS, ints, max_leaves=5)
BOOLS = st.builds(op, st.sampled_from(["lt", "le", "eq", "ne"]), WHOLE, WHOLE)


def bools(inner):
    pair = st.builds(op, st.sampled_from(["and", "or"]), inner, inner)
    chosen = st.builds(where, inner, inner, inner)
    return st.one_of(pair, chosen, st.builds(fn("not"), inner))


CONDITIONS = st.recursive(BOOLS, bools, max_leaves=4)


def floats(inner):
    names = ["exp", "log", "relu", "abs", "floor", "tanh"]
    return st.one_of(
        st.builds(lambda f, x: fn(f)(x), st.sampled_from(names), inner),
        st.builds(op, st.sampled_from(["add", "sub", "mul", "max", "min"]), inner, inner),
        st.builds(where, CONDITIONS, inner, inner),
        st.builds(lambda x: -x, inner),
    )


FLOATS = st.recursive(st.one_of(st.sampled_from([X, Y]), WHOLE), floats, max_leaves=8)


@settings(max_examples=200, deadline=None)
@given(st.one_of(FLOATS, CONDITIONS), st.integers(0, 10**6))
def test_the_value_is_unchanged(e, seed):
    torch.manual_seed(seed)
    tensors = {"x": torch.randn(()), "y": torch.randn(()), "i": torch.randint(-5, 5, ())}
    data = Data({n: x.double() for n, x in tensors.items()}, (1, 1, 1, 4, 6))
    before, after = (
        Values(data, (0, 0), (0, 4), (0, 6))(x).double().expand(4, 6, 1)
        for x in (e.e, simplify(e.e))
    )
    finite = before.isfinite()  # log(exp(x)) no longer overflows
    torch.testing.assert_close(after[finite], before[finite], rtol=1e-9, atol=1e-12)

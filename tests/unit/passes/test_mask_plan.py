"""The mask pass end to end on small masks: the expressions a reader of `explain` sees."""

import pytest

from attngen.core.diagnostics import SpecError
from attngen.core.dtype import Dtype
from attngen.core.source import Source, Span
from attngen.ir.attention import Attention, Axis, Tensor
from attngen.ir.build import binary, const
from attngen.ir.expr import Index, Load
from attngen.ir.index import FALSE, TRUE, Element, number, of, var
from attngen.ir.index_build import both, either, equal, floor_div, le, lt, modulo
from attngen.passes.bounds import analyse_formula, analyse_mask
from attngen.passes.counts import disjoint, kept_elements, tile_classes, tile_loops
from attngen.passes.mask_words import describe, ranges_text
from attngen.passes.tile_test import worth_testing

Q, K, W, B, N = (var(name) for name in ("q", "k", "window", "b", "kv_len"))
CAUSAL = le(K, Q)
WINDOW = both(CAUSAL, lt(Q - K, W))


def doc(i):
    return of(Element("doc", (B, i), N))


def spec(mask, spans=None):
    axes = (Axis("S", "position"), Axis("D", "feature"))
    tensors = (Tensor("q", "query", Dtype.F16, axes), Tensor("k", "key", Dtype.F16, axes))
    return Attention("test", tensors, mask, (), same_length=True, spans=spans or {})


def test_documents():
    plan = analyse_formula(both(equal(doc(Q), doc(K)), CAUSAL), same_length=True)
    forward, transposed = plan.forward, plan.transposed
    assert ranges_text(forward.outer) == "[run_start(doc[b], q0), q1)"
    assert ranges_text(forward.full) == "[run_start(doc[b], q1 - 1), q0 + 1)"
    assert ranges_text(forward.row) == "[run_start(doc[b], q), q + 1)"
    assert ranges_text(transposed.outer) == "[k0, run_end(doc[b], k1 - 1))"
    assert ranges_text(transposed.full) == "[k1 - 1, run_end(doc[b], k0))"
    assert plan.never_empty is TRUE and forward.exact and transposed.exact
    assert describe(plan)[0] == "keys from the start of the query's document to the query itself"


def test_no_mask():
    plan = analyse_mask(spec(None))
    for d in (plan.forward, plan.transposed):
        assert ranges_text(d.outer) == ranges_text(d.full) == "[0, kv_len)"
    assert (plan.formula, plan.may, plan.must, plan.never_empty) == (TRUE,) * 4
    assert describe(plan) == ["every query keeps every key"]


def test_a_mask_that_always_holds_is_no_mask():
    plan = analyse_mask(spec(binary("ge", Index("kv_idx"), const(0))))
    assert plan.formula is TRUE


def test_a_mask_that_keeps_nothing_is_an_error():
    k, q = Index("kv_idx"), Index("q_idx")
    mask = binary("and", binary("lt", k, q), binary("gt", k, q))
    source = Source("never.attn", "mask = kv_idx < q_idx and kv_idx > q_idx\n")
    with pytest.raises(SpecError, match=r"E201.*keeps nothing") as error:
        analyse_mask(spec(mask, {mask: Span(source, 7, 40)}))
    assert "never.attn:1:8" in error.value.render()


def test_unequal_lengths():
    plan = analyse_formula(le(K, Q + N - var("q_len")), same_length=False)
    assert ranges_text(plan.forward.outer) == "[0, kv_len + q1 - q_len)"
    assert str(plan.never_empty) == "q_len <= kv_len"


def test_divisors_are_needed_and_windows_are_clamped():
    stride, left = var("stride"), var("left")
    f = both(WINDOW, le(floor_div(K, stride), floor_div(Q, stride)), lt(2 * left, Q + 1))
    plan = analyse_formula(f, same_length=True)
    assert plan.needs == (stride,)
    assert plan.lone_scalars == ("window",)
    assert "needs stride >= 1 at the call" in describe(plan)
    sums = (
        lt(W * Q, W + K),
        lt(Q * K, W),
        lt(99 * Q, W),
        lt(K, W + left),
        lt(K, W + of(Element("x", (Q,)))),
        lt(K, W * W),
        lt(K, modulo(W, 3 + N)),
    )
    for g in sums:
        assert analyse_formula(g, same_length=True).lone_scalars == ()


def test_a_slope_of_unknown_sign_is_left_over():
    plan = analyse_formula(le(W * K, Q), same_length=True)
    assert not plan.forward.exact and plan.needs == ()
    assert ranges_text(plan.forward.full) == "none"


def test_too_many_ranges_are_hulled():
    blocks = [both(le(10 * i + 0 * K, K), lt(K, 10 * i + number(5))) for i in range(1, 6)]
    plan = analyse_formula(either(*blocks), same_length=True)
    assert (len(plan.forward.outer), plan.forward.hulled) == (3, 5)
    assert len(plan.forward.full) == 3
    assert "5 ranges of keys, kept as 3" in plan.notes
    assert describe(plan)[-1] == "5 ranges of keys, kept as 3"


def test_opaque_conditions_bound_nothing():
    close = binary("lt", Load("x", (Index("kv_idx"),), "float"), const(0.5))
    plan = analyse_mask(spec(binary("and", close, binary("le", Index("kv_idx"), Index("q_idx")))))
    assert str(plan.may) == "k0 < q1"
    assert plan.must is FALSE and plan.never_empty is FALSE
    assert ranges_text(plan.forward.outer) == "[0, q1)" and plan.forward.full == ()
    assert "tested per element: (x[kv_idx] < 0.5) (not a comparison of integers)" in describe(plan)


def test_which_leftovers_are_worth_a_tile_test():
    fine, wide = le(modulo(K, number(32)), 3), le(modulo(K, number(512)), 3)
    assert not worth_testing([fine], 128)
    assert worth_testing([wide], 128)
    assert worth_testing([le(of(Element("x", (K,))), Q)], 128)
    assert not worth_testing([], 128)


def test_loops_visit_each_tile_once():
    assert disjoint([(5, 9), (0, 3), (3, 4), (7, 7)]) == [(0, 4), (5, 9)]
    assert tile_loops([(0, 100)], [(17, 64)], 16) == [(0, 2, True), (2, 4, False), (4, 7, True)]
    assert tile_loops([(0, 5), (6, 40)], [], 8) == [(0, 5, True)]
    assert tile_loops([(5, 3)], [], 8) == []


def test_counts():
    plan = analyse_formula(WINDOW, same_length=True)
    n, window = 20, 6
    kept = [(q, k) for q in range(n) for k in range(n) if k <= q < k + window]
    assert kept_elements(plan, {"window": window}, n, n) == len(kept)
    tiles = tile_classes(plan, {"window": window}, n, n, block_q=4, block_k=2)
    assert sorted({(q // 4, k // 2) for q, k in kept}) == [(q, k) for q, k, _ in tiles]
    every = [(i, j) for i in range(5) for j in range(10)]
    full = [t for t in every if sum((q // 4, k // 2) == t for q, k in kept) == 8]
    assert [(q, k) for q, k, kind in tiles if kind == "full"] == full


def test_counts_read_tensors():
    plan = analyse_formula(equal(doc(Q), doc(K)), same_length=True)
    for rows in ([[0, 0, 1, 1, 1]], lambda b, i: int(i >= 2)):
        assert kept_elements(plan, {"doc": rows, "b": 0}, 5, 5) == 4 + 9

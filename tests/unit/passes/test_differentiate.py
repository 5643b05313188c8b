"""Backwards of the variants: tile products, what is saved, where gradients go, how they print."""

from dataclasses import replace

import pytest

from attngen.core.dtype import Dtype
from attngen.ir import build
from attngen.ir.attention import Tensor
from attngen.ir.backward import KEEP
from attngen.ir.expr import Axes, Known, Load, Reduced, Where, children
from attngen.ir.walk import walk
from attngen.passes.differentiate import differentiate
from attngen.passes.differentiate_finish import expressions
from attngen.passes.differentiate_rows import plus
from attngen.passes.differentiate_text import describe_backward
from attngen.passes.online import online
from tests.laws import online_specs as specs
from tests.laws.backward_programs import of_example
from tests.laws.online_formulas import (
    CAUSAL,
    KI,
    QI,
    S0,
    B,
    H,
    attention,
    dot,
    k,
    load,
    q,
    r,
    sigmoid,
    softmax,
    tanh,
    top,
    total,
    v,
    where,
)

SIZES = {"B": 2, "H": 2, "Hq": 4, "Hkv": 2, "S": 19, "Sq": 13, "Skv": 19, "T": 23, "D": 8, "Dv": 6}


def backward_of(outputs, mask=None, tensors=(), names=None):
    program = replace(attention(outputs, mask, names), tensors=tuple(tensors))
    return differentiate(program, online(program))


def backward_of_spec(spec):
    outputs, mask, _ = spec()
    return backward_of(outputs, mask)


def example(name, params=None):
    program, _, _ = of_example(name, SIZES, params or {})
    return program, differentiate(program, online(program))


def scalar(name, **facts):
    return Tensor(name, "input", Dtype.F32, (), **facts)


# formula: fused, queries loop, keys loop
PRODUCTS = {
    specs.flash: (5, 3, 4), specs.gemma2: (5, 3, 4), specs.alibi: (5, 3, 4),
    specs.relative_bias: (5, 3, 4), specs.forgetting: (5, 3, 4), specs.gqa: (5, 3, 4),
    specs.distance: (5, 3, 4), specs.gaussian: (5, 3, 4), specs.sinks_gated: (5, 3, 4),
    specs.sigmoid_attention: (5, 3, 4), specs.relu_squared: (5, 3, 4), specs.mla: (5, 3, 4),
    specs.dropout: (5, 3, 4), specs.hard_and_soft: (5, 3, 4), specs.tsne: (5, 3, 4),
    specs.parallax: (8, 5, 6), specs.parallax_weights: (8, 5, 6), specs.differential: (8, 5, 6),
    specs.probe: (8, 5, 6), specs.product: (8, 5, 6), specs.branches: (5, 3, 4),
    specs.value_moments: (7, 4, 6), specs.position: (3, 2, 2), specs.lse_only: (3, 2, 2),
    specs.two_hop: (10, 6, 8), specs.threshold: (8, 5, 6), specs.knn: (2, 1, 1),
    specs.kmeans_assign: (0, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("spec", PRODUCTS, ids=lambda f: f.__name__)
def test_tile_products_are_those_of_the_table(spec):
    assert backward_of_spec(spec).products == PRODUCTS[spec]


# saved besides results: lse, moments, top values, top indices; results read back
SAVED = {
    specs.flash: ("lse", "out"), specs.sigmoid_attention: ("", ""), specs.relu_squared: ("", ""),
    specs.sinks_gated: ("lse moment", ""), specs.parallax: ("lse moment moment", "out"),
    specs.differential: ("lse lse moment", "out"), specs.branches: ("lse lse moment moment", ""),
    specs.knn: ("indices", ""), specs.lse_only: ("lse", ""), specs.tsne: ("moment", ""),
    specs.two_hop: ("lse lse moment", "out"), specs.threshold: ("lse", ""),
    specs.hard_and_soft: ("lse indices", "out"),
}  # fmt: skip


@pytest.mark.parametrize("spec", SAVED, ids=lambda f: f.__name__)
def test_saved_is_what_is_left_in_the_expressions(spec):
    back = backward_of_spec(spec)
    saved, results = SAVED[spec]
    assert " ".join(e.what for e in back.saved) == saved
    assert " ".join(name for name, _ in back.results) == results
    rows = {e for e in walk(*expressions(back)) if isinstance(e, Reduced)}
    assert rows == set(back.saved)


def test_parallax_prints_the_published_formulas():
    program, back = example("parallax")
    lines = describe_backward(back, program.names)
    assert "saved: lse, u_bar, v_bar; read back: out" in lines
    for line in (
        "d_sum_u = dot(d_out, v_bar)  # row kernel",
        "delta = dot(d_out, out) + d_sum_u * u_bar  # row kernel",
        "g_r = p * (d_sum_u - do_v)",
        "g_k = p * ((c_acc_v - u) * do_v + d_sum_u * u - delta)",
        "g_v = p * (c_acc_v - u)",
    ):
        assert f"  {line}" in lines


def test_flash_prints_as_in_the_paper():
    program, back = example("flash")
    lines = [line.strip() for line in describe_backward(back, program.names)]
    assert "delta = -d_lse + dot(d_out, out)  # row kernel" in lines
    assert "phi = p * (do_v - delta)" in lines
    assert "d_v += p^T @ d_out  # keys loop" in lines
    assert "grad q = 0.35355339059327373 * d_q  # queries" in lines


def gradient(back, tensor):
    return [g for g in back.gradients if g.tensor == tensor]


def test_a_gate_and_a_sink_need_no_tile():
    _, back = example("sinks_gated")
    (gate,) = gradient(back, "g")
    assert (gate.place, gate.map, gate.reduces) == ("rows", "row", ())
    (sink,) = gradient(back, "sink")
    assert (sink.place, sink.map, sink.reduces) == ("heads", "head", ("b",))
    (partial,) = back.sums
    assert (partial.level, partial.place) == (Axes.QUERY, "rows")
    assert back.passes[0].numbers == ()


def test_a_slope_is_one_number_of_the_tile():
    _, back = example("alibi_documents")
    (number,) = back.passes[0].numbers
    assert number.leaf.level == Axes.NONE
    assert gradient(back, "slope")[0].place == "heads"


def test_grouped_heads_are_summed_into_their_key_head():
    _, back = example("gemma2")
    assert gradient(back, "q")[0].reduces == ()
    assert gradient(back, "k")[0].reduces == ("group",)
    assert gradient(back, "v")[0].place == "keys"


def test_a_bias_is_stored_and_a_table_is_added_up():
    _, back = example("relative_bias")
    stores = {s.of.tensor: s for s in back.passes[0].stores}
    assert (stores["bias"].map, stores["bias"].reduces) == ("tile", ())
    assert (stores["table"].map, stores["table"].reduces) == ("bucket", ("b",))


def test_one_tensor_at_the_query_and_at_the_key_adds_up():
    _, back = example("forgetting")
    row, column = gradient(back, "cum")
    assert (row.map, row.place, row.adds) == ("row", "queries", False)
    assert (column.map, column.place, column.adds) == ("column", "keys", True)


def test_a_view_adds_into_the_columns_of_its_parent():
    _, back = example("mla")
    parts = gradient(back, "k")
    assert sorted((g.of.start, g.of.width) for g in parts) == [(0, 512), (0, 576)]
    assert [g.adds for g in parts] == [False, True]
    assert all(g.reduces == ("h",) for g in parts)


def test_constants_and_integers_get_no_gradient():
    a = load("a")
    outputs = {"out": total(softmax(S0 * a + load("steps", KI, kind="int")) * v)}
    assert gradient(backward_of(outputs), "a")
    still = backward_of(outputs, tensors=[scalar("a", const=True), scalar("steps")])
    assert not gradient(still, "a")
    assert not still.passes[0].numbers
    assert "a" not in still.tensors


def test_a_spec_of_indices_has_no_backward():
    back = backward_of({"i": top(S0)[1]})
    assert (back.passes, back.gradients, back.seeds, back.saved) == ((), (), (), ())


def test_top_values_go_through_the_saved_index():
    back = backward_of({"m": top(S0)[0]})
    assert [e.what for e in back.saved] == ["indices"]
    (product, _) = back.passes[0].rows
    assert isinstance(product.products[0].coefficient, Where)


def test_terms_without_weights_are_masked_by_keep():
    back = backward_of({"out": total(sigmoid(S0) * v)}, CAUSAL)
    for e in back.passes[0].coefficients(Axes.QUERY, Axes.KEY):
        assert isinstance(e, Where)
        assert e.condition is KEEP


@pytest.mark.parametrize(
    ("spec", "masked"),
    [(specs.flash, False), (specs.gemma2, False), (specs.tsne, True), (specs.threshold, True)],
)
def test_only_singular_tile_code_masks_its_coefficients(spec, masked):
    assert backward_of_spec(spec).masked_coefficients is masked


def test_nothing_flows_through_the_constants_of_a_tile():
    """The normaliser and the row kernel's numbers never become targets."""
    for spec in specs.SPECS:
        back = backward_of_spec(spec)
        for p in back.passes:
            for t in (*p.rows, *p.numbers):
                assert not isinstance(t.of, Known)
            known = {e for x in p.coefficients(*Axes, Axes.NONE, Axes.TILE) for e in walk(x)}
            leaves = {e for e in known if isinstance(e, Known)}
            defined = {d.leaf for one in back.passes for d in one.definitions}
            summed = {leaf for one in back.passes for leaf in one.leaves}
            assert leaves <= defined | summed | {KEEP} | {leaf for _, leaf in back.seeds}


def test_passes_run_latest_first_and_rows_come_before_their_tiles():
    back = backward_of_spec(specs.two_hop)
    assert [p.stage for p in back.passes] == [2, 1]
    later = set(back.passes[0].leaves)
    used = {e for d in back.passes[1].definitions for e in walk(d.value)}
    assert later & used


def test_a_guarded_result_gives_nothing_on_a_row_without_keys():
    back = backward_of({"out": total(softmax(S0) * v) * top(S0)[0]}, CAUSAL)
    assert back.forward.guarded == ("out",)
    (p,) = back.passes
    assert any(isinstance(e, Where) for d in p.definitions for e in walk(d.value))


def test_a_tensor_read_by_batch_alone_is_summed_over_heads():
    back = backward_of({"out": total(softmax(S0 + load("w", B, KI)) * v)})
    (g,) = gradient(back, "w")
    assert (g.map, g.reduces) == ("column", ("h",))
    back = backward_of({"out": total(softmax(S0 * load("w", H)) * v)})
    assert gradient(back, "w")[0].reduces == ("b",)


def test_factors_that_agree_leave_the_loop():
    (d_k,) = [t for t in example("parallax")[1].passes[0].rows if t.of.tensor == "k"]
    assert [round(x.factor, 3) for x in d_k.products] == [1.0, 0.354]
    (d_k,) = [t for t in example("flash")[1].passes[0].rows if t.of.tensor == "k"]
    assert [x.factor for x in d_k.products] == [1.0]


def test_what_a_pass_makes_is_named_once():
    for spec in specs.SPECS:
        back = backward_of_spec(spec)
        leaves = [leaf.name for _, leaf in back.seeds] + [s.leaf.name for s in back.sums]
        leaves += [d.leaf.name for p in back.passes for d in p.definitions]
        leaves += [leaf.name for p in back.passes for leaf in p.leaves]
        assert len(leaves) == len(set(leaves))


def test_scores_read_by_two_positions_keep_their_loads():
    back = backward_of({"out": total(softmax(dot(q, k) + dot(r, k) * load("x", QI, KI)) * v)})
    (store,) = back.passes[0].stores
    assert isinstance(store.of, Load)
    assert (store.map, store.reduces) == ("tile", ("b", "h"))
    assert children(store.of) == (QI.e, KI.e)


def test_a_row_that_a_later_score_reads_is_saved_though_it_is_a_result():
    y = total(softmax(S0) * v)
    back = backward_of({"out": total(softmax(dot(q + y, k)) * v), "y": y})
    assert [e.what for e in back.saved] == ["lse", "lse", "moment"]
    assert [name for name, _ in back.results] == ["out"]


def test_a_row_that_stands_twice_in_a_result_is_not_read_from_it():
    y = total(softmax(S0) * v)
    back = backward_of({"out": y + tanh(y)})
    assert [e.what for e in back.saved] == ["lse", "moment"]
    assert back.results == ()


def test_masks_join_only_where_they_are_one():
    one, other = (load("x", QI) < c for c in (0.0, 1.0))
    a, b = load("a", QI), load("b", QI)
    same = plus(where(one, a, 0).e, where(one, b, 0).e)
    assert same is where(one, a + b, 0).e
    apart = where(one, a, 0).e, where(other, b, 0).e
    assert plus(*apart) is build.add(*apart)
    sides = where(one, a, 0).e, where(one, 0, b).e
    assert plus(*sides) is build.add(*sides)

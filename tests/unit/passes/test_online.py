"""Plans of the variants: how many tile products, which accumulators, which names; and refusals."""

from dataclasses import replace

import pytest

from attngen.core.diagnostics import SpecError
from attngen.core.dtype import Dtype
from attngen.core.source import Source, Span
from attngen.ir.attention import Tensor
from attngen.ir.build import is_number
from attngen.ir.expr import Axes, Binary, Dot, Reduced, Row, Where
from attngen.ir.walk import walk
from attngen.passes.online import online
from attngen.passes.online_text import text
from tests.laws import online_specs as specs
from tests.laws.online_formulas import (
    KI,
    QI,
    S0,
    F,
    attention,
    dot,
    fn,
    k,
    q,
    r,
    relu,
    softmax,
    tanh,
    top,
    total,
    v,
    where,
)

P, U = softmax(S0), dot(r, k)


def plan_of(outputs, **more):
    return online(attention(outputs, **more))


def products(plan, stage=1):
    """Tile products of one pass: score-side dots, and one for each accumulated row."""
    roots = [c.score for c in plan.classes if c.stage == stage]
    roots += [a.scalar for a in plan.accumulators if a.stage == stage]
    roots += [t.score for t in plan.tops if t.stage == stage]
    dots = [e for e in walk(*roots) if isinstance(e, Dot) and e.level == Axes.TILE]
    rows = [a for a in plan.accumulators if a.row is not None and a.stage == stage]
    return len(dots) + len(rows)


GEMMS = {
    specs.flash: 2, specs.gemma2: 2, specs.alibi: 2, specs.relative_bias: 2, specs.forgetting: 2,
    specs.sinks_gated: 2, specs.gqa: 2, specs.distance: 2, specs.gaussian: 2, specs.mla: 2,
    specs.sigmoid_attention: 2, specs.relu_squared: 2, specs.dropout: 2, specs.parallax: 4,
    specs.parallax_weights: 4, specs.differential: 4, specs.probe: 3, specs.branches: 3,
    specs.value_moments: 3, specs.position: 1, specs.lse_only: 1, specs.tsne: 2, specs.product: 3,
    specs.knn: 1, specs.kmeans_assign: 1, specs.boruvka: 1, specs.hard_and_soft: 2,
}  # fmt: skip


@pytest.mark.parametrize("spec", GEMMS, ids=lambda f: f.__name__)
def test_tile_products_of_a_variant(spec):
    plan = plan_of(spec()[0])
    assert plan.stages == 1
    assert products(plan) == GEMMS[spec]


@pytest.mark.parametrize(
    ("spec", "first", "second"), [(specs.two_hop, 2, 2), (specs.threshold, 1, 2)]
)
def test_two_passes_say_why(spec, first, second):
    plan = plan_of(spec()[0])
    assert plan.stages == 2
    assert (products(plan, 1), products(plan, 2)) == (first, second)
    assert len(plan.notes) == 1
    assert plan.notes[0].startswith("pass 2: ")
    assert "itself reduced over these keys" in plan.notes[0]


@pytest.mark.parametrize(
    ("spec", "classes", "accumulators", "tops"),
    [
        (specs.flash, 1, 2, 0),
        (specs.gemma2, 1, 2, 0),
        (specs.alibi, 1, 2, 0),
        (specs.sinks_gated, 1, 2, 0),
        (specs.relative_bias, 1, 2, 0),
        (specs.forgetting, 1, 2, 0),
        (specs.sigmoid_attention, 0, 1, 0),
        (specs.differential, 2, 4, 0),
        (specs.parallax, 1, 4, 0),
        (specs.mla, 1, 2, 0),
        (specs.dropout, 1, 2, 0),
        (specs.kmeans_assign, 0, 0, 1),
        (specs.knn, 0, 0, 1),
        (specs.boruvka, 0, 0, 1),
    ],
)
def test_size_of_the_loop_state(spec, classes, accumulators, tops):
    plan = plan_of(spec()[0])
    found = len(plan.classes), len(plan.accumulators), len(plan.tops)
    assert found == (classes, accumulators, tops)


def test_a_payload_of_the_first_pass_stays_there():
    plan = plan_of({"out": total(P * v) + total(P * relu(P - 0.05) * v)})
    assert [a.stage for a in plan.accumulators if a.row is not None] == [1, 2]


def test_flash_is_one_class_its_sum_and_one_row():
    plan = plan_of({"out": total(P * v)})
    assert [(a.weights, a.scalar.value, a.row) for a in plan.accumulators] == [
        (((0, 1),), 1, None),
        (((0, 1),), 1, v.e),
    ]
    lse = Reduced("lse", 0, (), None)
    assert plan.outputs == (("out", Reduced("moment", 1, (lse,), 8)),)
    assert plan.moments == (plan.outputs[0][1],)


def test_a_bounded_score_carries_its_bounds():
    c = plan_of(specs.gemma2()[0]).classes[0]
    assert (c.low, c.high) == (-20.0, 20.0)


def test_a_sink_never_enters_the_loop():
    with_sink = plan_of(specs.sinks_gated()[0])
    assert with_sink.classes == plan_of({"out": total(P * v)}).classes
    norm = with_sink.moments[0].norms[0]
    assert isinstance(norm, Binary)
    assert norm.op == "logaddexp"


def test_a_view_keeps_its_row_node():
    row = plan_of(specs.mla()[0]).accumulators[1].row
    assert row == specs.key("k", 8).e
    assert isinstance(row, Row)


def test_dropout_is_one_scalar_of_an_undropped_softmax():
    plan = plan_of(specs.dropout()[0])
    bare, dropped = plan.accumulators
    assert is_number(bare.scalar, 1)
    assert isinstance(dropped.scalar, Where)
    assert is_number(dropped.scalar.a, 0)
    assert is_number(dropped.scalar.b, 1 / 0.7)
    assert len([e for e in walk(dropped.scalar) if isinstance(e, Where)]) == 1


def test_scalars_leave_dots():
    assert products(plan_of({"a": total(softmax(dot(2 * q, k)) * v + dot(k, q) * v)})) == 3


def test_a_square_cannot_become_negative():
    score = plan_of(specs.gaussian()[0]).classes[0].score
    assert text(score) == "(-0.5 * max(((dot(q, q) + (-2 * dot(q, k))) + dot(k, k)), 0))"


def test_a_sum_of_weights_needs_no_accumulator_of_its_own():
    assert len(plan_of({"out": total(P * v) * total(P)}).accumulators) == 2


def test_scores_that_differ_in_order_are_one_class():
    other = softmax(U + S0)
    assert len(plan_of({"a": total(softmax(S0 + U) * v), "b": total(other)}).classes) == 1


def test_commuted_payloads_are_one_accumulator():
    plan = plan_of({"a": total(P * U * KI), "b": total(KI * P * U)})
    assert plan.outputs[0][1] is plan.outputs[1][1]


# ---- rows without keys


@pytest.mark.parametrize(
    ("formula", "guarded"),
    [
        (lambda: total(P * v), False),
        (lambda: 1 - total(P * U), True),
        (lambda: 1 - total(P), False),
        (lambda: total(P), True),
        (lambda: total(P * v) / total(P), False),
        (lambda: total(P * v) / total(P * U), True),
        (lambda: total(P * v) * tanh(top(S0)[0]), False),
        (lambda: total(P * v) * top(S0)[0], True),
        (lambda: top(S0)[0], False),
    ],
)
def test_outputs_that_would_not_vanish_are_guarded(formula, guarded):
    plan = plan_of({"out": formula()})
    assert plan.guarded == (("out",) if guarded else ())
    assert isinstance(plan.outputs[0][1], Where) == guarded


def test_a_guard_without_a_class_counts_keys():
    plan = plan_of({"out": 1 - total(relu(S0))})
    assert plan.guarded == ("out",)
    names = [a.name for a in plan.accumulators]
    assert names == ["sum_x", "sum_count"]
    count = plan.accumulators[1]
    assert is_number(count.scalar, 1)
    assert (count.name, count.weights, count.row) == ("sum_count", (), None)


def test_a_guard_does_not_trust_a_score_that_may_be_minus_infinity():
    score = where(QI < KI, S0, float("-inf"))
    plan = plan_of({"out": 1 - total(softmax(score))})
    assert any(a.name == "sum_count" for a in plan.accumulators)


# ---- names


def test_names_are_those_of_the_spec():
    out = (1 + total(P * U)) * total(P * v) - total(P * U * v)
    plan = plan_of({"out": out}, names={P: "p", U: "u"})
    assert [c.name for c in plan.classes] == ["p"]
    assert [a.name for a in plan.accumulators] == ["sum_p", "sum_u", "acc_v", "acc_uv"]


def test_classes_without_names_are_numbered():
    plan = plan_of(specs.differential()[0])
    assert [c.name for c in plan.classes] == ["p1", "p2"]
    names = [a.name for a in plan.accumulators]
    assert names == ["sum_p1", "acc_p1_v", "sum_p2", "acc_p2_v"]


def test_names_never_clash():
    program = attention({"out": total(P * v), "sum_p": total(P * U)}, names={P: "p"})
    taken = Tensor("acc_v", "input", Dtype.F32, ())
    plan = online(replace(program, tensors=(taken,)))
    names = [*(c.name for c in plan.classes), *(a.name for a in plan.accumulators)]
    assert len({*names, "acc_v", "sum_p"}) == len(names) + 2


# ---- refusals


def refused(outputs, spans=None):
    with pytest.raises(SpecError) as caught:
        plan_of(outputs, spans=spans)
    return caught.value.diagnostics[0]


def test_a_value_with_three_axes_is_refused_at_its_place():
    source = Source("a.attn", "out = sum(tanh(q + k))")
    inner = tanh(q + k)
    spans = {inner.e: Span(source, 10, 21), total(inner).e: Span(source, 6, 22)}
    error = refused({"out": total(inner)}, spans)
    assert error.code == "E410"
    assert error.span.text == "tanh(q + k)"
    assert error.help


def test_an_error_in_made_up_parts_points_at_what_is_around():
    source = Source("a.attn", "dot(tanh(q + k), q)")
    product = dot(tanh(q + k), q)
    error = refused({"out": total(product)}, {product.e: Span(source, 0, 19)})
    assert error.code == "E410"
    assert error.span.text == source.text


def test_an_explosion_is_refused():
    factor = P * v + U * q + KI * k
    assert refused({"out": total(factor**4)}).code == "E411"


def test_weights_outside_a_sum_are_refused():
    error = refused({"out": P})
    assert error.code == "E412"
    assert "sum(" in error.help


def test_a_key_axis_left_is_refused():
    error = refused({"out": total(P * v) + k})
    assert error.code == "E413"
    assert "`out`" in error.message


def test_long_texts_are_cut():
    e = S0
    for _ in range(40):
        e = fn("tanh")(e + F(U.e))
    assert len(text(e.e)) == 80

"""How the scores of the variants come apart, and that they add up again."""

import math

import pytest
import torch

from attngen.ir.expr import Index
from attngen.passes.online import online
from attngen.passes.score import split_score
from tests.laws import online_specs as specs
from tests.laws.online_formulas import (
    KI,
    KVLEN,
    QI,
    QPOS,
    S0,
    B,
    H,
    attention,
    dot,
    k,
    load,
    log,
    q,
    r,
    softcap,
)
from tests.laws.online_random import formula
from tests.laws.online_values import Values

SCALE = 1 / math.sqrt(8)
SLOPE = load("slope", H)


def score_of(spec):
    plan = online(attention(spec()[0]))
    return (plan.classes or plan.tops)[0].score


def shown(parts):
    return parts.column, parts.row, parts.rest, parts.linear


def test_flash_is_scale_and_dot():
    parts = split_score(score_of(specs.flash))
    assert (parts.scale, parts.dot) == (SCALE, dot(q, k).e)
    assert shown(parts) == (None, None, None, ())


def test_alibi_is_linear_in_the_positions():
    parts = split_score(score_of(specs.alibi))
    assert parts.scale == SCALE
    assert shown(parts)[:3] == (None, None, None)
    (line,) = parts.linear
    assert (line.coefficient, line.key, line.query) == (SLOPE.e, 1, -1)
    assert line.position is Index("q_idx")


@pytest.mark.parametrize(
    "written",
    [
        SLOPE * (KI - QPOS) + S0,
        S0 - (QPOS - KI) * SLOPE,
        SLOPE * KI + S0 - SLOPE * QPOS,
    ],
)
def test_ways_of_writing_alibi(written):
    parts = split_score(written.e)
    (line,) = parts.linear
    assert (line.coefficient, line.key, line.query) in {(SLOPE.e, 1, -1)}
    assert line.position is Index("q_pos")
    assert parts.rest is None


def test_equal_coefficients_are_one_linear_term():
    parts = split_score((SLOPE * (KI - QI) + S0 + SLOPE * (2 * KI - 3 * QI)).e)
    assert [(x.key, x.query) for x in parts.linear] == [(3, -4)]


def test_softcap_stays_whole():
    parts = split_score(score_of(specs.gemma2))
    assert (parts.scale, parts.dot) == (None, None)
    assert shown(parts) == (None, None, softcap(S0, 20.0).e, ())


def test_softcap_beside_alibi():
    parts = split_score((softcap(S0, 20.0) + SLOPE * (KI - QI)).e)
    assert parts.rest is softcap(S0, 20.0).e
    assert len(parts.linear) == 1


def test_a_difference_of_one_tensor_stays_together_before_the_dot():
    parts = split_score(score_of(specs.forgetting))
    difference = load("cum", B, H, QI) - load("cum", B, H, KI)
    assert shown(parts) == (None, None, difference.e, ())
    assert parts.value is (difference + S0).e


def test_relative_bias_is_captured_first():
    parts = split_score(score_of(specs.relative_bias))
    assert parts.scale == SCALE
    assert parts.column is None
    assert {e.tensor for e in (parts.rest.a, parts.rest.b)} == {"table", "bias"}


def test_sigmoid_moves_its_constant_to_the_row():
    parts = split_score((S0 - log(KVLEN)).e)
    assert shown(parts) == (None, (-log(KVLEN)).e, None, ())


def test_norms_are_a_column_and_a_row():
    parts = split_score(score_of(specs.knn))
    assert parts.scale == 2.0
    assert shown(parts)[:3] == ((-load("yn", KI)).e, (-load("xn", QI)).e, None)
    kmeans = split_score(score_of(specs.kmeans_assign))
    assert (kmeans.scale, kmeans.column) == (2.0, (-load("norm", KI)).e)


def test_a_scale_may_depend_on_the_head():
    parts = split_score(score_of(specs.distance))
    assert parts.scale is (2 * load("beta", H)).e
    assert parts.rest is None


def test_two_dots_are_left_alone():
    parts = split_score((S0 + dot(r, k) + load("bias", QI, KI)).e)
    assert (parts.scale, parts.dot) == (None, None)
    assert parts.rest is (load("bias", QI, KI) + S0 + dot(r, k)).e


def test_an_offset_of_positions_goes_to_the_row():
    parts = split_score((S0 + SLOPE * (KI - QI + 3)).e)
    assert parts.row is (SLOPE * 3).e
    assert len(parts.linear) == 1


@pytest.mark.parametrize("seed", range(40))
def test_the_parts_add_up(seed):
    outputs, mask, data = formula(seed)
    plan = online(attention(outputs, mask))
    for c in plan.classes:
        if c.stage == 1:
            nq, nk = data.shape[3:]
            values = Values(data, (0, 1), (0, nq), (0, nk))
            found, expected = values(split_score(c.score).value), values(c.score)
            torch.testing.assert_close(*torch.broadcast_tensors(found, expected))

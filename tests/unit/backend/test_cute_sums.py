"""Several sums of one softmax: what a kernel is given, run on plain numbers against the formula."""

import math
import random

import pytest

from attngen.backend.cute.shape import missing
from attngen.core.dtype import Dtype
from attngen.cutelib.ops import Position
from tests.unit.backend.cute_specs import HEAD, SAME, at, emitted, plan, program, spec

SCALE = 1 / math.sqrt(128)
TWO = HEAD.replace("query q ", "query q, r ")
P = "  p = softmax(score)\n"
COVARIANCE = f"{P}  u = dot(r, k)\n  out = (1 + sum(p * u)) * sum(p * v) - sum(p * u * v)"
MOMENTS = (
    f"{P}  out = sum(p * v)\n  entropy = logsumexp(score) - sum(p * score)\n"
    "  place = sum(p * (q_pos - kv_idx))\n  return out, entropy, place"
)
ONE = f"{P}  out = sum(p * v) - 0.5 * sum(p * sigmoid(dot(r, k)) * v)"
FORM = {"covariance": (TWO, COVARIANCE), "moments": (HEAD, MOMENTS), "one": (TWO, ONE)}


def made(name, options=None, half=Dtype.BF16, size=128):
    head, out = FORM[name]
    return plan(spec("  mask = causal", head=head, out=out), options, half, size)


def kernel_row(plan_, q, pairs, values):
    """What a kernel makes of a row: pairs of products (s, one of each further row of queries)."""
    here = at(64, 64, 0, 64)
    moved = [s * plan_.scale for s, *_ in pairs]
    m = max(moved)
    weights = [2.0 ** (x - m) for x in moved]
    given = [
        (1.0, *plan_.payloads(here, s, *others, Position(q), Position(k)))
        for k, (s, *others) in enumerate(pairs)
    ]

    def total(i, x):
        return sum(w * t[i] * y for w, t, y in zip(weights, given, x, strict=True))

    ones = [1.0] * len(pairs)
    numbers = [total(i, ones) for i in plan_.totals]
    row, stored = plan_.finish(here, Position(q), m, sum(weights), *numbers)
    sums = [total(i, values) for i in plan_.sums]
    return [f(here, row, *sums) for _, f in plan_.rows], stored


@pytest.fixture
def drawn():
    draw = random.Random(4)
    pairs = [(draw.gauss(0, 11), draw.gauss(0, 2)) for _ in range(30)]
    values = [draw.gauss(0, 1) for _ in pairs]
    weights = [math.exp(s * SCALE) for s, _ in pairs]
    norm = sum(weights)
    return pairs, values, [w / norm for w in weights]


def test_sums_of_weights_and_payloads(drawn):
    pairs, values, p = drawn
    found = made("covariance")
    assert (found.sums, found.totals, len(found.products)) == ((0, 1), (1,), 1)
    assert found.payloads and not found.reads_score
    rows, _ = kernel_row(found, 40, pairs, values)
    u = [x for _, x in pairs]
    mean = sum(a * b for a, b in zip(p, u, strict=True))
    exact = sum(a * (1 + mean - b) * v for a, b, v in zip(p, u, values, strict=True))
    assert math.isclose(rows[0], exact, rel_tol=1e-9)


def test_payloads_of_the_score_and_of_places(drawn):
    pairs, values, p = drawn
    found = made("moments")
    assert (found.sums, found.totals, found.products) == ((0,), (1, 2), ())
    assert found.reads_score
    q = 40
    rows, (entropy, place) = kernel_row(found, q, [(s,) for s, _ in pairs], values)
    assert math.isclose(rows[0], sum(a * v for a, v in zip(p, values, strict=True)))
    assert math.isclose(entropy, -sum(x * math.log(x) for x in p), rel_tol=1e-9)
    exact = sum(x * (q - k) for k, x in enumerate(p))
    assert math.isclose(place, exact, rel_tol=1e-9)


def test_sums_that_can_be_one_are_one(drawn):
    pairs, values, p = drawn
    found = made("one")
    assert (found.sums, found.totals) == ((1,), ())
    rows, _ = kernel_row(found, 40, pairs, values)
    exact = sum(
        a * (1 - 0.5 / (1 + math.exp(-u))) * v
        for a, (_, u), v in zip(p, pairs, values, strict=True)
    )
    assert math.isclose(rows[0], exact, rel_tol=1e-6)


def test_a_spec_without_payloads_has_none():
    found = plan(spec("  mask = causal"))
    assert not found.several
    assert (found.payloads, found.sums, found.totals, found.products) == (None, (0,), (), ())


def test_tiles_leave_registers_for_the_sums():
    widest = {128: 64, 64: 112}
    for size, keys in widest.items():
        head, out = FORM["covariance"]
        text = spec("  mask = causal", head=head, out=out)
        assert emitted(text, size=size)[0].tile_n == keys
    assert made("moments").schedule.tile_n == 112  # the products of the score are kept


def test_numbers_of_float16_are_multiplied_with_weights_of_one_at_most():
    assert made("covariance", half=Dtype.F16).schedule.reference == "running"
    assert made("one", half=Dtype.F16).schedule.reference == "lazy"  # payloads below 128
    assert made("covariance").schedule.reference == "first"


def test_a_window_takes_the_flat_form():
    text = spec("  mask = causal and q_pos - kv_idx < 99", head=TWO, out=COVARIANCE)
    chosen, file = emitted(text)
    assert chosen.form == "flat"
    assert "products=(Stream('r'" in file.source


TWO_VALUES = SAME.replace("value v ", "value v, w ")
OTHER_KEYS = SAME.replace("query q ", "query q, r ").replace("key   k ", "key   k, x ")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (
            spec("", head=TWO_VALUES, out=f"{P}  out = sum(p * v) * sum(p * w)"),
            "several rows of values",
        ),
        (
            spec("", head=OTHER_KEYS, out=f"{P}  out = sum(p * dot(r, x) * v)"),
            "other than of the score's keys",
        ),
        (spec("", head=SAME, out=f"{P}  out = sum(p * p * v)"), "other sums"),
    ],
)
def test_what_is_missing_is_said(text, word):
    assert any(word in x for x in missing(program(text)))


def test_sums_too_wide_for_the_registers_are_left_to_triton():
    text = spec("", head=TWO, out=COVARIANCE)
    found = missing(program(text, size=256))
    assert any("sums of 512 columns" in x for x in found)

"""What leaves the loop over keys, and that it adds up to the score of the spec."""

import math
import random
from types import SimpleNamespace

import pytest
import torch

from attngen.backend.cute.functions import Functions, Library
from attngen.backend.cute.shape import missing, shape_of
from attngen.core.dtype import Dtype
from attngen.core.target import find_target
from attngen.cutelib.ops import LOG2E, Position
from attngen.runtime.backends import generate_cute
from tests.unit.backend.cute_specs import SAME, Numbers, at, emitted, plan, program, spec

SCALE = 1 / math.sqrt(128)
TABLE = [random.Random(1).gauss(0, 1) for _ in range(129)]
FORGET = [-0.3 * i for i in range(300)]
ALIBI = "dot(q, k) * rsqrt(D) + a[h] * (kv_idx - q_idx)"
CAPPED = "softcap(dot(q, k) * rsqrt(D), 30.0)"
CASES = {
    "plain": ("", "", lambda s, q, k: s * SCALE),
    "softcap": (f"  score = {CAPPED}", "", lambda s, q, k: 30 * math.tanh(s * SCALE / 30)),
    "alibi": (
        f"  score = {ALIBI}",
        "  input a : f32[H]\n",
        lambda s, q, k: s * SCALE + 0.25 * (k - q),
    ),
    "table": (
        "  o = min(max(kv_idx - q_idx, -64), 64) + 64\n  score = dot(q, k) * rsqrt(D) + t[h, o]",
        "  input t : f32[H, 129]\n",
        lambda s, q, k: s * SCALE + TABLE[min(max(k - q, -64), 64) + 64],
    ),
    "softcap and alibi": (
        f"  score = {CAPPED} + a[h] * (kv_idx - q_idx)",
        "  input a : f32[H]\n",
        lambda s, q, k: 30 * math.tanh(s * SCALE / 30) + 0.25 * (k - q),
    ),
    "forgetting": (
        "  score = dot(q, k) * rsqrt(D) + f[b, h, q_idx] - f[b, h, kv_idx]",
        "  input f : f32[B, H, S]\n",
        lambda s, q, k: s * SCALE + FORGET[q] - FORGET[k],
    ),
    "forgetting, of another key": (
        "  score = dot(q, k) * rsqrt(D) + f[b, h, q_idx] - 2 * f[b, h, kv_idx]",
        "  input f : f32[B, H, S]\n",
        lambda s, q, k: s * SCALE + FORGET[q] - 2 * FORGET[k],
    ),
    "a weight per key": (
        "  score = dot(q, k) * rsqrt(D) + f[b, h, kv_idx]",
        "  input f : f32[B, H, S]\n",
        lambda s, q, k: s * SCALE + FORGET[k],
    ),
    "bias": (
        "  score = dot(q, k) * rsqrt(D) + bias[b, h, q_idx, kv_idx]",
        "  input bias : bf16[B, H, S, S]\n",
        lambda s, q, k: s * SCALE + pair(q, k),
    ),
    "a bias that scales": (
        f"  score = {CAPPED} * bias[q_idx, kv_idx] + f[b, h, kv_idx]",
        "  input bias : f16[S, S]\n  input f : f32[B, H, S]\n",
        lambda s, q, k: 30 * math.tanh(s * SCALE / 30) * pair(q, k) + FORGET[k],
    ),
    "negative": ("  score = -0.5 * dot(q, k)", "", lambda s, q, k: -0.5 * s),
}


def pair(q: int, k: int) -> float:
    """An element of a tensor of pairs."""
    return math.sin(q + 2.5 * k)


VALUES = {
    "a": Numbers([0.5, 0.25]),
    "t": Numbers([[0.0] * 129, TABLE]),
    "f": Numbers([[[0.0] * 300, FORGET]]),
    "f_keys": SimpleNamespace(of=lambda kv_idx: FORGET[kv_idx.value]),
}


def log2_score(made, here, s, q, k):
    """The score of a pair as a kernel puts it together, in log2 units, row terms left out."""
    for hook, given in ((made.per_tile, (here,)), (made.per_row, (here, Position(q)))):
        if hook is not None:
            here.__dict__.update(hook(*given))
    query, key = Position(q), Position(k)
    here.bias_pair = pair(q, k)
    column = made.column(here, key) if made.column else None
    diagonal = made.diagonal(here, query, key) if made.diagonal else None
    x = made.score(here, s, column, diagonal, query, key) if made.score else s
    slope = made.slope(here) * (k - here.row0) if made.slope else 0.0
    return x * made.scale + slope


@pytest.mark.parametrize("name", CASES)
def test_differences_along_a_row_are_those_of_the_formula(name):
    body, declared, formula = CASES[name]
    made, draw = plan(spec(body, declared, SAME)), random.Random(2)
    assert made.scale > 0
    for q in (0, 5, 130, 299):
        rows = []
        for k in [draw.randrange(300) for _ in range(20)]:
            s = draw.gauss(0, 11)
            here = at(300, 300, q // 32 * 32, q // 32 * 32 + 32, **VALUES)
            rows.append((log2_score(made, here, s, q, k), formula(s, q, k) * LOG2E))
        first = rows[0]
        for found, expected in rows:
            assert math.isclose(found - first[0], expected - first[1], rel_tol=1e-9, abs_tol=1e-6)


def test_a_clamped_table_is_one_number_far_from_the_diagonal():
    body, declared, _ = CASES["table"]
    made = plan(spec(body, declared, SAME))
    assert made.near == (-64, 64)
    here = at(300, 300, 0, 32, **VALUES)
    far = {made.diagonal(here, Position(q), Position(k)) for q, k in ((200, 3), (90, 26), (299, 0))}
    assert len(far) == 1


@pytest.mark.parametrize(
    ("name", "hooks"),
    [
        ("plain", set()),
        ("softcap", {"score"}),
        ("alibi", {"slope", "per_tile"}),
        ("table", {"diagonal", "distance", "score"}),
        ("softcap and alibi", {"column", "score", "per_tile"}),
        ("forgetting", {"column", "score", "per_tile"}),
    ],
)
def test_what_a_kernel_is_given(name, hooks):
    body, declared, _ = CASES[name]
    made = program(spec(body, declared, SAME))
    found = Functions(made, shape_of(made), Library(frozenset())).hooks
    loop = {"slope", "column", "diagonal", "distance", "score", "per_tile", "per_row"}
    assert set(found) & loop == hooks


def test_the_reference_follows_the_bounds_and_the_request():
    capped = spec(CASES["softcap"][0])
    assert emitted(capped)[0].reference == "fixed"
    assert emitted(capped, {"numerics": "exact"})[0].reference == "running"
    assert emitted(capped, half=Dtype.F16)[0].reference == "lazy"  # 60 nats: too wide for float16
    assert emitted(spec(""))[0].reference == "first"
    assert emitted(spec(""), {"numerics": "exact"})[0].reference == "running"


@pytest.mark.parametrize("name", ["alibi", "forgetting"])
def test_the_logarithm_of_a_sum_gets_its_row_terms_back(name):
    body, declared, formula = CASES[name]
    out = "  out = sum(softmax(score) * v)\n  lse = logsumexp(score)\n  return out, lse"
    made = plan(spec(body, declared, SAME, out))
    here = at(300, 300, 64, 96, **VALUES)
    keys, q = range(40), 70
    inside = [log2_score(made, here, 0.1 * k, q, k) for k in keys]
    m = max(inside)
    total = sum(2 ** (x - m) for x in inside)
    _, (lse,) = made.finish(here, Position(q), m, total)
    expected = math.log(sum(math.exp(formula(0.1 * k, q, k)) for k in keys))
    assert math.isclose(lse, expected, rel_tol=1e-9)


def test_a_row_without_keys_is_zero():
    made = plan(spec("  mask = causal"))
    (inverse,), _ = made.finish(at(9, 4, 0, 9), Position(0), 0.0, 0.0)
    assert made.rows[0][1](None, (inverse,), 0.0) == 0.0


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (spec("  mask = kv_idx < n[b]", "  input n : i32[B]\n"), "conditions on keys alone"),
        (spec("  mask = kv_idx < 4 or q_pos - kv_idx < 9 and causal"), "several ranges"),
        (spec("").replace("half", "f32"), "16-bit float"),
        (
            spec("  mask = pairs[b, q_idx, kv_idx]", "  input pairs : bool[B, Sq, Skv]\n"),
            "bool inputs (pairs)",
        ),
        (spec("", out="  out = sum(sigmoid(score) * v)"), "without a softmax"),
    ],
)
def test_what_is_missing_is_said(text, word):
    assert any(word in x for x in missing(program(text)))


def test_several_softmaxes_share_functions_and_hand_over_rows():
    two = SAME.replace("query q ", "query q, p ")
    out = "  out = sum(softmax(dot(q, k)) * v) - 0.5 * sum(softmax(dot(p, k)) * v)"
    source = emitted(spec("  mask = causal", head=two, out=out).replace("  score", "  #"))[1].source
    assert source.count("def tiles") == source.count("def end_key") == 1
    assert source.count("Forward(Plan(") == 2
    assert "p_part_row - 0.5 * acc * inverse" in source or "_part_row - 0.5" in source


@pytest.mark.parametrize("options", [{}, {"form": "flat"}, {"numerics": "exact"}])
def test_the_host_function_passes_what_the_plan_says(options):
    out = "  out = sum(softmax(score) * v)\n  lse = logsumexp(score)\n  return out, lse"
    file, scope = emitted(spec("  mask = causal", out=out), options)[1], {}
    exec(compile(file.source, "<file>", "exec"), scope)
    passed = []
    scope["FORWARD"].use(lambda *x: passed.extend(x))
    q, k = torch.zeros(2, 3, 300, 128).bfloat16(), torch.zeros(2, 3, 77, 128).bfloat16()
    results = scope[file.entry](q, k, k)
    kinds = [kind.split() for _, kind in scope["FORWARD"].plan.arguments]
    assert [x.ndim for x in passed] == [int(rank) for _, rank, _ in kinds]
    assert [tuple(x.shape) for x in results] == [(2, 3, 300, 128), (2, 3, 300)]
    named = dict(zip((n for n, _ in scope["FORWARD"].plan.arguments), passed, strict=True))
    if "flags" in named:  # one for each warp of each tile
        assert named["flags"].numel() == 3 * 2 * 3 * 8
    if "tickets" in named:
        assert named["tickets"].tolist() == [0]


def riders(body: str, declared: str, head: str = SAME):
    made = program(spec(body, declared, head))
    return [(x.load.tensor, x.roles) for x in shape_of(made).riders]


@pytest.mark.parametrize(
    ("term", "declared", "expected"),
    [
        ("c[b, h, q_idx, kv_idx]", "c : bf16[B, H, S, S]", ("batch", "head", "query", "key")),
        ("c[q_idx, kv_idx]", "c : f16[S, S]", ("query", "key")),
        ("c[h, kv_idx]", "c : f32[H, S]", ("head", "key")),
        ("c[b, h, q_idx, kv_idx]", "c : f32[B, H, S, S]", None),  # two tiles of 64 KB: no room
        ("c[b, h, kv_idx, q_idx]", "c : bf16[B, H, S, S]", None),  # keys do not lie side by side
        ("c[b, kv_idx]", "c : i32[B, S]", None),
        ("c[h, q_idx]", "c : f32[H, S]", None),
        ("c[q_idx, h, kv_idx]", "c : bf16[S, H, S]", None),
    ],
)
def test_what_is_loaded_beside_the_keys(term, declared, expected):
    body = f"  score = dot(q, k) * rsqrt(D) + {term}"
    found = riders(body, f"  input {declared}\n")
    assert found == ([("c", expected)] if expected else [])


def test_there_is_room_for_one_tile_of_pairs_and_tiles_shrink_for_it():
    declared = "  input c : bf16[B, H, S, S]\n  input e : bf16[B, H, S, S]\n"
    two = "  score = dot(q, k) * rsqrt(D) + c[b, h, q_idx, kv_idx] + e[b, h, q_idx, kv_idx]"
    assert [x for x, _ in riders(two, declared)] == ["c"]
    one = spec("  score = dot(q, k) * rsqrt(D) + c[b, h, q_idx, kv_idx]", declared, SAME)
    assert emitted(one)[0].tile_n == 128
    assert emitted(one, size=64)[0] == emitted(one, {"stages": 2}, size=64)[0]
    assert emitted(one, size=64)[0].tile_n == 128
    window = spec(f"  mask = causal and q_idx - kv_idx < 99\n{two}", declared, SAME)
    schedule, file = emitted(window)
    assert (schedule.form, schedule.tile_n) == ("flat", 96)
    assert file.aligned == ("c",)


def test_a_bias_is_read_in_memory_on_blackwell():
    declared = "  input c : bf16[B, H, S, S]\n"
    text = spec("  score = dot(q, k) * rsqrt(D) + c[b, h, q_idx, kv_idx]", declared, SAME)
    _, file = generate_cute(program(text), find_target("sm_100"), {})
    assert "ops.load(at.c" in file.source
    assert "Rider" not in file.source


def test_what_a_row_is_measured_from_is_finite():
    body, declared, _ = CASES["forgetting"]
    made = plan(spec(body, declared, SAME))
    values = [math.nan, *FORGET[1:]]
    here = at(300, 300, 0, 32, f=Numbers([[[0.0] * 300, values]]))
    here.f_keys = SimpleNamespace(of=lambda kv_idx: values[kv_idx.value])
    assert math.isfinite(log2_score(made, here, 0.5, 4, 3))
    assert math.isnan(log2_score(made, here, 0.5, 4, 0))

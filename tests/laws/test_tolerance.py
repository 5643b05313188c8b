"""The test of the tests: the matched rule kills injected bugs and spares correct kernels."""

from __future__ import annotations

import functools

import pytest
import torch

from attngen.ir import build
from attngen.ir.expr import Dot, Index, LogSumExp, Row, Side, Size, Softmax, Sum
from attngen.reference.execute import matched, reference
from attngen.reference.tolerance import compare, compare_indices
from tests.laws.flash_model import MUTANTS, flash_model, make_case
from tests.unit.reference.programs import attention, stream

DISTRIBUTIONS = ("normal", "peaky", "integers")
BIG = (4, 1061, 1061, 2, 64)


def windowed(window: int):
    """The spec the model computes."""
    q, k, v = Row("q", Side.QUERY, "D", 0), Row("k", Side.KEY, "D", 0), Row("v", Side.KEY, "D", 0)
    score = build.mul(Dot(q, k), build.unary("rsqrt", Size("D")))
    near = build.binary("lt", build.sub(Index("q_pos"), Index("kv_idx")), build.const(window))
    mask = build.binary("and", build.binary("le", Index("kv_idx"), Index("q_pos")), near)
    return attention(
        [
            stream("q", "query", "B Hq Sq D"),
            stream("k", "key", "B Hkv Skv D"),
            stream("v", "value", "B Hkv Skv D"),
        ],
        mask=mask,
        out=Sum(build.mul(Softmax(score, None), v)),
        lse=LogSumExp(score, None),
    )


@functools.lru_cache(maxsize=4)
def truth(distribution: str, seed: int, shape, dtype, window: int):
    """Inputs, golden and baseline of a case."""
    q, k, v = make_case(distribution, seed, shape, dtype)
    tensors = {"q": q[None], "k": k[None], "v": v[None]}
    program = windowed(window)
    return (q, k, v), reference(program, tensors), matched(program, tensors, dtype)


def judge(distribution, seed, shape, dtype, window, tile=64, bug=""):
    """Verdicts on out and lse of the (broken) model."""
    inputs, golden, base = truth(distribution, seed, shape, dtype, window)
    out, lse = flash_model(*inputs, window, tile, bug)
    return (
        compare(out[None], golden[0], base[0]),
        compare(lse[None], golden[1], base[1], kind="lse", half=dtype),
    )


def test_mutants_are_killed():
    """At least 14 of 15 by the outputs alone, over three distributions and the float32 run."""
    killed = {}
    for distribution in DISTRIBUTIONS:
        for bug in MUTANTS:
            verdict, _ = judge(distribution, 0, BIG, torch.bfloat16, 700, bug=bug)
            if not verdict.ok:
                killed.setdefault(bug, []).append(distribution)
    in_half = len(killed)
    for bug in MUTANTS:
        if not judge("normal", 0, BIG, torch.float32, 700, bug=bug)[0].ok:
            killed.setdefault(bug, []).append("float32")
    assert in_half >= 13, sorted(set(MUTANTS) - set(killed))
    assert len(killed) >= 14, sorted(set(MUTANTS) - set(killed))


def correct_runs(seeds):
    """Correct kernels: seeds x shapes x tiles x distributions."""
    shapes = (((2, 257, 257, 1, 64), 200), ((2, 33, 197, 2, 32), 64))
    for seed in seeds:
        for shape, window in shapes:
            for distribution in DISTRIBUTIONS:
                for tile in (16, 64):
                    yield distribution, seed, shape, torch.bfloat16, window, tile


def test_no_false_alarm_in_sixty_runs():
    runs = list(correct_runs(range(5)))
    assert len(runs) == 60
    alarms = [(run, v.message) for run in runs for v in judge(*run) if not v.ok]
    assert not alarms


@pytest.mark.slow
def test_no_false_alarm_in_two_hundred_runs():
    runs = list(correct_runs(range(100, 117)))
    alarms = [(run, v.message) for run in runs for v in judge(*run) if not v.ok]
    assert len(runs) >= 200 and not alarms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_no_false_alarm_in_other_dtypes(dtype):
    for distribution in DISTRIBUTIONS:
        for verdict in judge(distribution, 3, (2, 130, 130, 1, 64), dtype, 50):
            assert verdict.ok, (distribution, verdict.message)


def test_message_names_the_row_and_the_element():
    _, golden, base = truth("normal", 0, BIG, torch.bfloat16, 700)
    broken = base[0].clone()
    broken[0, 1, 333, 7] += 0.5
    verdict = compare(broken, golden[0], base[0])
    assert not verdict.ok
    assert "(0, 1, 333, 7)" in verdict.message


def test_finite_where_golden_is_and_shapes():
    golden = torch.zeros(3, 4)
    poisoned = golden.clone()
    poisoned[1, 2] = torch.nan
    assert "(1, 2)" in compare(poisoned, golden, golden).message
    assert compare(poisoned, poisoned, golden).ok
    assert "shape" in compare(golden[:2], golden, golden).message
    empty_row = torch.full((3,), -torch.inf)
    assert compare(empty_row, empty_row, empty_row, kind="lse").ok
    assert not compare(torch.full((3,), -1e30), empty_row, empty_row, kind="lse").ok


def test_indices_may_differ_only_within_rounding():
    scores = torch.tensor([[3.0, 1.0, 3.0 - 1e-9, -torch.inf]], dtype=torch.float64)
    rounded = scores.float() + torch.tensor([[0.0, 2e-7, 0.0, 0.0]])
    golden = torch.tensor([[0, 2]])
    assert compare_indices(torch.tensor([[2, 0]]), golden, scores, rounded).ok
    assert not compare_indices(torch.tensor([[1, 2]]), golden, scores, rounded).ok
    assert not compare_indices(torch.tensor([[0, 0]]), golden, scores, rounded).ok
    assert not compare_indices(torch.tensor([[0, -1]]), golden, scores, rounded).ok
    assert not compare_indices(torch.tensor([[0, 9]]), golden, scores, rounded).ok


def test_exact_ties_take_the_lowest_index():
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0 - 1e-12]], dtype=torch.float64)
    rounded = scores.float() + torch.tensor([[1e-6, 0.0, 0.0, 0.0]])
    golden = torch.tensor([[1, 2]])
    assert compare_indices(torch.tensor([[3, 1]]), golden, scores, rounded).ok
    assert not compare_indices(torch.tensor([[2, 1]]), golden, scores, rounded).ok
    assert not compare_indices(torch.tensor([[2]]), torch.tensor([[1]]), scores, rounded).ok

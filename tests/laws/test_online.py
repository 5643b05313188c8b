"""The online form keeps the value of every formula, for any tiles and any split of the keys."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attngen.passes.online import online
from tests.laws.online_executor import execute
from tests.laws.online_formulas import S0, D, attention, key, softmax, total
from tests.laws.online_random import formula
from tests.laws.online_signature import ENTROPIES, SPELLINGS, WAYS, signature
from tests.laws.online_specs import SPECS, flash, parallax
from tests.laws.online_values import dense

SCHEDULES = [((16, 16), 1), ((8, 5), 3), ((19, 3), 2)]


def check(outputs, mask, data, schedules=SCHEDULES):
    program = attention(outputs, mask)
    plan = online(program)
    for a in plan.accumulators:  # weights of an earlier pass are known factors of the scalar
        assert {plan.classes[c].stage for c, _ in a.weights} <= {a.stage}
    expected = dense(program, data)
    for block, splits in schedules:
        found = execute(plan, data, block, splits)
        for name, x in expected.items():
            torch.testing.assert_close(found[name], x, rtol=1e-10, atol=1e-10, equal_nan=True)
    return plan


@pytest.mark.parametrize("spec", SPECS, ids=lambda f: f.__name__)
def test_formula_of_a_variant(spec):
    torch.manual_seed(0)
    check(*spec())


@pytest.mark.parametrize("seed", range(60))
def test_random_formula(seed):
    check(*formula(seed), schedules=SCHEDULES[1:])


def test_random_formulas_need_second_passes_too():
    stages = [online(attention(*formula(seed)[:2])).stages for seed in range(60)]
    assert min(stages) == 1
    assert sum(s > 1 for s in stages) >= 10


def test_flash_is_scaled_dot_product_attention():
    torch.manual_seed(0)
    _, _, data = flash()
    plan = online(attention({"out": total(softmax(S0) * key("v", 12))}))
    q, k, v = (data.tensors[n] for n in "qkv")
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v).flatten(0, 1)
    torch.testing.assert_close(execute(plan, data)["out"], expected, rtol=1e-12, atol=1e-12)


def test_parallax_is_its_published_moments():
    torch.manual_seed(0)
    outputs, _, data = parallax()
    q, r, k, v = (data.tensors[n] for n in "qrkv")
    k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
    p = torch.softmax(q @ k.mT / D**0.5, -1)
    u = r @ k.mT
    mean = (p * u).sum(-1, keepdim=True)
    expected = (p @ v - ((p * (u - mean)) @ v)).flatten(0, 1)
    found = execute(online(attention(outputs)), data, (5, 7), 2)["out"]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_plan_is_the_same_in_every_run_of_the_pass():
    """Every order follows from the spec: fresh interpreters with other hash seeds agree."""
    script = "import tests.laws.online_signature as s; print(s.all_signatures())"
    found = set()
    for hash_seed in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(run.stdout)
    assert len(found) == 1


@pytest.mark.parametrize(("one", "other"), WAYS, ids=[a.__name__ for a, _ in WAYS])
def test_two_ways_of_writing_give_one_plan(one, other):
    assert signature(online(attention(one()))) == signature(online(attention(other())))


def test_signatures_tell_plans_apart():
    plans = {signature(online(attention(way()))) for pair in WAYS for way in pair}
    assert len(plans) == len(WAYS)


@pytest.mark.parametrize("way", SPELLINGS, ids=lambda f: f.__name__)
def test_softmax_written_otherwise(way):
    assert signature(online(attention(way()))) == signature(online(attention(WAYS[0][0]())))


def test_entropy_needs_the_score_as_its_only_payload():
    plans = [online(attention(way())) for way in ENTROPIES]
    assert [len(plan.accumulators) for plan in plans] == [2, 2]

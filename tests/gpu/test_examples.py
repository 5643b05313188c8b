"""The examples on a GPU: default schedules, real lengths, and the ragged cases of the CPU tests."""

import itertools

import pytest
import torch

from tests.differential.example_cases import (
    GROUPED,
    LAYOUTS,
    example_cases,
    length_cases,
    short,
    width_cases,
)
from tests.differential.harness import DTYPES, FORWARD, Case, axes, inputs, kernel, problems
from tests.differential.split_cases import COUNTS, KEY_HEADS, key_heads, split_cases

pytestmark = pytest.mark.gpu


def big_cases():
    """Default schedules, lengths that leave ragged tiles; each dtype and way of loading."""
    for name, half, loads in itertools.product(FORWARD, DTYPES, ("descriptor", "pointer")):
        sizes = {"B": 2, "H": 3, "Hq": 8, "Hkv": 2, "D": 128, "Dv": 64}
        both = axes(name, 257, 385)
        yield Case(name, {**sizes, **both}, half, {"loads": loads})


@pytest.mark.parametrize("case", big_cases(), ids=short)
def test_default_schedules(case: Case):
    assert not case.problems()


@pytest.mark.parametrize("case", example_cases(1), ids=short)
def test_small_lengths(case: Case):
    options = {k: v for k, v in case.options.items() if k == "loads"}
    assert not Case(case.name, case.sizes, case.half, options).problems()


@pytest.mark.parametrize("case", length_cases(), ids=short)
def test_lengths_around_a_tile(case: Case):
    assert not Case(case.name, case.sizes, case.half).problems()


@pytest.mark.parametrize("case", width_cases(), ids=short)
def test_head_sizes(case: Case):
    lengths = {"Sq": 130, "Skv": 200}
    options = {"loads": case.options["loads"]}
    assert not Case(case.name, {**case.sizes, **lengths}, case.half, options).problems()


@pytest.mark.parametrize("case", split_cases(8192, 2048), ids=short)
def test_keys_in_parts(case: Case):
    assert not case.problems()


@pytest.mark.parametrize("name", KEY_HEADS)
def test_keys_with_heads_of_their_own_in_parts(name: str):
    for at, half in enumerate(DTYPES):
        made = kernel(key_heads(name), loads=("descriptor", "pointer")[at % 2])
        sizes = {**COUNTS, "B": 2, "Sq": 1 + 2 * at, "Skv": 4099, "D": 64, "Dv": 64}
        tensors = inputs(made, sizes, at, half=DTYPES[half])
        assert not problems(made, tensors, DTYPES[half])
        assert "_merge[" in made.source


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("permuted", [False, True])
def test_layouts(layout: str, permuted: bool):
    made = kernel(GROUPED % LAYOUTS[layout])
    for ratio in (1, 2, 3, 5, 8):
        sizes = {"B": 2, "Hq": 2 * ratio, "Hkv": 2, "Sq": 90, "Skv": 135, "D": 64, "Dv": 32}
        tensors = inputs(made, sizes, permuted=permuted, half=torch.float16)
        assert not problems(made, tensors, torch.float16)


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_float32_products(precision: str):
    """ieee is exact; tf32 cuts operands to ten bits (3.8 x float16's error): held as bfloat16."""
    from attngen.reference.execute import matched, reference
    from attngen.reference.tolerance import compare
    from tests.differential.harness import call, example

    made = kernel(example("flash"), precision=precision)
    sizes = {"B": 1, "H": 2, "Sq": 200, "Skv": 333, "D": 64, "Dv": 64}
    tensors = inputs(made, sizes, half=torch.float32)
    if precision == "ieee":
        assert not problems(made, tensors, torch.float32)
        return
    program = made.spec.attention
    base = matched(program, tensors, torch.bfloat16)[0]
    (want,) = reference(program, tensors)[:1]
    assert compare(call(made, tensors)[0].bfloat16(), want, base)


@pytest.mark.parametrize("first", range(0, 48, 6))
def test_random_specs(first: int):
    from attngen.fuzz import attempt
    from attngen.reference.generate import random_spec

    failed = {}
    for seed in range(first, first + 6):
        outcome = attempt(random_spec(seed), "cuda")
        if outcome.kind == "failed":
            failed[f"attngen fuzz --seed {seed}"] = outcome.message
    assert not failed

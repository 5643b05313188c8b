"""Every forward example through Triton's interpreter, held against the formula."""

import pytest

from tests.differential.example_cases import (
    GROUPED,
    LAYOUTS,
    RATIOS,
    example_cases,
    length_cases,
    short,
    width_cases,
)
from tests.differential.harness import DTYPES, SMALL, Case, inputs, kernel, problems

pytestmark = pytest.mark.interpreter


@pytest.mark.parametrize("case", example_cases(), ids=short)
def test_dtypes_and_loads(case: Case):
    assert not case.problems()


@pytest.mark.parametrize("case", length_cases(), ids=short)
def test_lengths_around_a_tile(case: Case):
    assert not case.problems()


@pytest.mark.parametrize("case", width_cases(), ids=short)
def test_head_sizes(case: Case):
    assert not case.problems()


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("permuted", [False, True])
def test_head_ratios_and_layouts(layout: str, ratio: int, permuted: bool):
    made = kernel(GROUPED % LAYOUTS[layout], **SMALL)
    sizes = {"B": 2, "Hq": 2 * ratio, "Hkv": 2, "Sq": 9, "Skv": 35, "D": 16, "Dv": 32}
    tensors = inputs(made, sizes, permuted=permuted, half=DTYPES["f16"])
    assert not problems(made, tensors, DTYPES["f16"])


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_float32_products(precision: str):
    """The interpreter has no tf32: both ways are held to the exact rule."""
    sizes = {"B": 1, "H": 2, "Sq": 20, "Skv": 40, "D": 32, "Dv": 16}
    assert not Case("flash", sizes, "f32", {**SMALL, "precision": precision}).problems()


@pytest.mark.parametrize("distribution", ["normal", "peaky", "integers"])
@pytest.mark.parametrize("name", ["flash", "gemma2", "parallax", "differential", "forgetting"])
def test_distributions(name: str, distribution: str):
    from tests.differential.example_cases import sizes
    from tests.differential.harness import example

    if (name, distribution) == ("parallax", "peaky"):
        pytest.skip("(1 + sum(p u)) sum(p v) - sum(p u v): terms of 1000 leave 1, no bits are left")
    made = kernel(example(name), block_q=32, block_k=16, warps=1)
    tensors = inputs(made, sizes(name, 60, 60), 3, distribution=distribution)
    assert not problems(made, tensors)

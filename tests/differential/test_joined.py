"""One loop over partial and full tiles, which masks where a test says so."""

import pytest

from tests.differential.example_cases import TWO_LENGTHS, short, sizes
from tests.differential.harness import SMALL, Case, example, kernel

pytestmark = pytest.mark.interpreter
# the others mask in more than one place, or find empty tiles at run time: their loops stay
NAMES = (
    *("flash", "gemma2", "alibi_documents", "prefix_lm", "sinks_gated", "relative_bias"),
    *("forgetting", "differential", "mla", "kmeans_assign", "knn"),
)
ONE_LOOP = {**SMALL, "loads": "descriptor", "loops": "joined"}
CASES = [
    Case(name, sizes(name, q_len, kv_len), ("f16", "bf16", "f32")[i % 3], ONE_LOOP)
    for i, name in enumerate(NAMES)
    for q_len, kv_len in (((70, 70), (33, 90)) if name in TWO_LENGTHS else ((70, 70),))
]


@pytest.mark.parametrize("case", CASES, ids=short)
def test_it_masks_what_three_loops_mask(case: Case):
    assert not case.problems()


def test_it_is_one_loop():
    for name in NAMES:
        text = kernel(example(name), **ONE_LOOP).source
        loops = text.count("in tl.range(lo, hi, ")
        assert (loops, "(n < full_lo) | (n >= full_hi)" in text) == (1, True), name


def test_loops_stay_where_more_than_the_scores_is_masked():
    """Loads by pointer are masked in partial tiles, and sums without a softmax."""
    for name, loads in (("flash", "pointer"), ("sigmoid", "descriptor")):
        options = {**SMALL, "loads": loads}
        joined, apart = (
            kernel(example(name), **options, loops=w).source for w in ("joined", "split")
        )
        assert joined.replace("loops=joined", "loops=split") == apart


def test_a_spec_may_ask_for_it():
    text = example("flash").rstrip().removesuffix("}") + "  schedule { loops = joined }\n}\n"
    assert "(n < full_lo) | (n >= full_hi)" in kernel(text, loads="descriptor").source

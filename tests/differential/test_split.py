"""The split form: keys in several parts, merged by the law of the accumulators."""

import itertools

import pytest
import torch

from tests.differential.example_cases import short
from tests.differential.gradients import gradient_problems
from tests.differential.harness import Case, example, inputs, kernel, problems
from tests.differential.split_cases import COUNTS, KEY_HEADS, key_heads, split_cases

pytestmark = pytest.mark.interpreter
SLOW = ("knn",)  # the interpreter sorts 520 rows one by one: on a GPU only


@pytest.mark.parametrize(
    "case", [c for c in split_cases(1100, 520) if c.name not in SLOW], ids=short
)
def test_parts_give_what_the_whole_gives(case: Case):
    assert not case.problems()
    assert "_merge[" in kernel(example(case.name), **case.options).source


@pytest.mark.parametrize("name", KEY_HEADS)
def test_heads_that_share_every_key_are_decoded_together(name: str):
    for at, (queries, counts) in enumerate(((1, {}), (3, {"Hkv": 4, "Hv": 2}), (5, {"Hv": 4}))):
        made = kernel(key_heads(name), loads=("descriptor", "pointer")[at % 2])
        sizes = {**COUNTS, **counts, "B": 2, "Sq": queries, "Skv": 700, "D": 16, "Dv": 16}
        tensors = inputs(made, sizes, at, half=torch.float32)
        assert not problems(made, tensors, torch.float32)
        assert "_merge[" in made.source  # chosen for these lengths, not asked for


@pytest.mark.parametrize("name", KEY_HEADS)
def test_gradients_of_keys_with_heads_of_their_own(name: str):
    made = kernel(key_heads(name))
    sizes = {**COUNTS, "B": 1, "Sq": 20, "Skv": 35, "D": 16, "Dv": 16}
    assert not gradient_problems(made, inputs(made, sizes, 3, half=torch.float32), torch.float32)


@pytest.mark.parametrize("loads", ["descriptor", "pointer"])
def test_packed_sequences_are_decoded_in_parts(loads: str):
    """One new token a sequence, two, none; keys none, one, in one part, in several."""
    text = example("varlen").replace("half[T, Hkv", "half[Skv, Hkv")
    made, heads = kernel(text, loads=loads), {"q": 4, "k": 2, "v": 2}
    lengths = {"cu_q": (1, 1, 0, 2, 1), "cu_kv": (700, 0, 300, 1, 513)}
    starts = {
        name: torch.tensor([0, *itertools.accumulate(n)], dtype=torch.int32)
        for name, n in lengths.items()
    }
    tokens = {"q": 5, "k": 1514, "v": 1514}
    torch.manual_seed(0)
    streams = {n: torch.randn(tokens[n], heads[n], 32, dtype=torch.float16) for n in heads}
    assert not problems(made, {**streams, **starts}, torch.float16)
    assert "_merge[" in made.source  # chosen for these lengths, not asked for

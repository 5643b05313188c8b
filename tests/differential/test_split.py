"""The split form: keys in several parts, merged by the law of the accumulators."""

import itertools

import pytest
import torch

from tests.differential.example_cases import short
from tests.differential.harness import Case, example, kernel, problems
from tests.differential.split_cases import split_cases

pytestmark = pytest.mark.interpreter
SLOW = ("knn",)  # the interpreter sorts 520 rows one by one: on a GPU only


@pytest.mark.parametrize(
    "case", [c for c in split_cases(1100, 520) if c.name not in SLOW], ids=short
)
def test_parts_give_what_the_whole_gives(case: Case):
    assert not case.problems()
    assert "_merge[" in kernel(example(case.name), **case.options).source


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

"""A row summed by one pass over the keys, read by the score of the next."""

import pytest
import torch

from tests.differential.gradients import gradient_problems
from tests.differential.harness import DTYPES, inputs, problems
from tests.differential.pass_cases import ROWS, SIZES, STREAMS, made

pytestmark = pytest.mark.interpreter

NARROWER = """  # values narrower than keys, of their own heads
  query q : half[B, Hq, Sq, D]
  key   k : half[B, Hkv, Skv, D]
  value v : half[B, Hv, Skv, Dv]
  y = sum(softmax(0.3 * dot(q, k)) * v)
  out = sum(softmax(0.3 * dot(q, k) + 0.3 * dot(y, v)) * v)
  return out
"""
LATENT = """  # values are columns of the keys
  query q : half[B, Hq, Sq, 40]
  key   k : half[B, 1, Skv, 40]
  value v = k[:24]
  y = sum(softmax(0.3 * dot(q, k)) * v)
  out = sum(softmax(0.3 * dot(q, k) + 0.3 * dot(y, v)) * v)
  return out
"""


@pytest.mark.parametrize("half", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_forward(name: str, half: str):
    it = made(ROWS[name], loads=("descriptor", "pointer")[len(name) % 2])
    for sizes in (SIZES, {**SIZES, "Sq": 130, "Skv": 65, "D": 80}, {**SIZES, "Skv": 1, "D": 36}):
        tensors = inputs(it, sizes, 5, half=DTYPES[half])
        assert not problems(it, tensors, DTYPES[half])


@pytest.mark.parametrize("half", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_gradients(name: str, half: str):
    it = made(ROWS[name])
    sizes = {**SIZES, "D": 24} if len(name) % 2 else SIZES
    assert not gradient_problems(it, inputs(it, sizes, 3, half=DTYPES[half]), DTYPES[half])


@pytest.mark.parametrize("text", [NARROWER, LATENT], ids=["narrower", "latent"])
def test_other_streams(text: str):
    it = made("", text)
    sizes = {**SIZES, "Hv": 1, "Dv": 24, "D": 40}
    for half in (torch.float32, torch.bfloat16):
        tensors = inputs(it, sizes, 1, half=half)
        assert not problems(it, tensors, half)
        assert not gradient_problems(it, tensors, half)


def test_short_queries_keep_the_form_of_tiles():
    it = made(ROWS["two hops"])
    tensors = inputs(it, {**SIZES, "Sq": 1, "Skv": 2100}, 1, half=torch.float32)
    assert not problems(it, tensors, torch.float32)
    assert "_merge[" not in it.source


def test_a_wide_row_in_two_chunks():
    """80 columns are held as 64 and 16, in both passes and in the backward."""
    it = made(ROWS["two hops"], STREAMS)
    tensors = inputs(it, {**SIZES, "D": 80}, 2, half=torch.float16)
    assert "_row_1 = " in it.source or not problems(it, tensors, torch.float16)
    assert not gradient_problems(it, tensors, torch.float16)

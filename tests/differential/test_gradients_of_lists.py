"""Gradients through the largest scores and through formulas with two passes over the keys."""

import pytest
import torch

from attngen.backend.cute.backward.shape import missing
from attngen.backend.triton.backward.program import backward_program
from attngen.core.dtype import Dtype
from attngen.core.source import Source
from attngen.frontend import load
from attngen.passes.differentiate import differentiate
from attngen.passes.pipeline import build_program
from tests.differential.gradients import gradient_problems, kernel_gradients, leaves, names
from tests.differential.harness import DTYPES, call, inputs, kernel, problems

pytestmark = pytest.mark.interpreter

STREAMS = """
  query q : half[B, Hq, Sq, D]
  key   k : half[B, Hkv, Skv, D]
  value v : half[B, Hkv, Skv, D]
  input tau : f32[Hq]
  s = dot(q, k) * tau[h]
"""
LISTS = {
    "max": "peak = max(s)  return peak",
    "argmin": "at, low = argmin(s)  return at, low",
    "topk": "best, at = topk(s, 3)  return best, at",
    "topk beside a sum": """mask = kv_idx <= q_idx + 2
        best, at = topk(s, 4)
        out = sum(softmax(s) * v)
        return out, best, at""",
    "a sum times the largest": "out = sum(softmax(s) * v) * max(s)",
}
LONG = {
    "a list": "best, at = topk(s, 33)  return best, at",
    "a list longer than some rows": """mask = kv_idx <= q_idx + 37
        best, at = topk(s, 40)
        return best, at""",
}
TWO_PASSES = {
    "a mean of scores as a temperature": """z = sum(softmax(s) * s)
        out = sum(softmax(s * (1.0 + 0.1 * z)) * v)
        lse = logsumexp(s)
        return out, lse""",
    "scores below the largest": "out = sum(sigmoid(s - max(s)) * v)",
    "a threshold": "m = max(s)  out = sum(where(s > 0.5 * m, s, 0.0) * v)",
    "a mean and the largest": """m = sum(softmax(s) * s)
        out = sum(sigmoid(s - m - 0.1 * max(s)) * v)
        return out, m""",
    "times a number of the first pass": """z = sum(softmax(s) * s)
        out = sum(softmax(s * (1.0 + 0.1 * z)) * v) * max(s)""",
}
SIZES = {"B": 2, "Hq": 4, "Hkv": 2, "Sq": 20, "Skv": 70, "D": 16}


def made(body: str):
    return kernel(f"attention made_up {{ {STREAMS} {body} \n}}")


@pytest.mark.parametrize("half", ["f16", "f32"])
@pytest.mark.parametrize("name", [*LISTS, *TWO_PASSES])
def test_gradients(name, half):
    it = made({**LISTS, **TWO_PASSES}[name])
    fewer = {"B": 1, "Hq": 2, "Hkv": 1} if "topk" in name else {}  # sorted one by one: slow
    tensors = inputs(it, {**SIZES, **fewer}, 3, half=DTYPES[half])
    assert not gradient_problems(it, tensors, DTYPES[half])


@pytest.mark.parametrize("name", TWO_PASSES)
def test_forward_of_two_passes(name):
    """Numbers of the first pass reach the second, whatever it makes of them."""
    it = made(TWO_PASSES[name])
    for sizes in (SIZES, {**SIZES, "Sq": 130, "Skv": 65}, {**SIZES, "Skv": 1}):
        tensors = inputs(it, sizes, 5, half=torch.float32)
        assert not problems(it, tensors, torch.float32)


def test_a_tie_goes_to_the_lowest_index():
    it = made(LISTS["max"])
    tensors = inputs(it, {**SIZES, "Skv": 5}, 3, half=torch.float32)
    tensors["k"][:, :, 3] = tensors["k"][:, :, 1]
    tensors["q"] = tensors["k"][:, :, 1:2].repeat_interleave(2, 1).repeat(1, 1, 20, 1) * 9
    tensors["tau"] = torch.ones(4)
    found, _ = kernel_gradients(it, tensors)
    d_k = dict(zip(names(it), found, strict=True))["k"]
    assert bool((d_k[:, :, 3] == 0).all()) and bool((d_k[:, :, 1] != 0).any())


def test_slots_without_a_key_pass_nothing_on():
    """A list longer than its row: what is sent to the empty slots is lost."""
    it = made(LISTS["topk"])
    tensors = inputs(it, {**SIZES, "B": 1, "Skv": 2}, 3, half=torch.float32)
    given = leaves(it, tensors)
    best, _ = call(it, given)
    weights = torch.randn_like(best)
    torch.where(best.isfinite(), best * weights, 0.0).sum().backward()
    scores = torch.einsum(
        "bhqd,bhkd->bhqk",
        tensors["q"].double(),
        tensors["k"].double().repeat_interleave(2, 1),
    )
    scores = scores * tensors["tau"].double()[None, :, None, None]
    order = torch.argsort(scores, dim=-1, descending=True, stable=True)
    by_key = torch.zeros_like(scores).scatter(-1, order, weights[..., :2].double())
    want = torch.einsum("bhqk,bhkd->bhqd", by_key, tensors["k"].double().repeat_interleave(2, 1))
    want = want * tensors["tau"].double()[None, :, None, None]
    assert torch.allclose(given["q"].grad.double(), want, atol=1e-5)


def test_indices_alone_have_no_gradient():
    it = made("at = argmax(s)  return at")
    (at,) = call(it, leaves(it, inputs(it, SIZES, 3, half=torch.float32)))
    assert at.dtype == torch.int64 and not at.requires_grad


@pytest.mark.parametrize("half", ["f16", "f32"])
@pytest.mark.parametrize("name", LONG)
def test_a_long_list_is_walked_over(name: str, half: str):
    it = made(LONG[name])
    small = {**SIZES, "B": 1, "Hq": 1, "Hkv": 1, "Sq": 3}  # sorted one by one: slow
    tensors = inputs(it, small, 3, half=DTYPES[half])
    assert not gradient_problems(it, tensors, DTYPES[half])


@pytest.mark.parametrize("name", [*LISTS, *TWO_PASSES])
def test_cute_leaves_them_to_triton(name):
    text = f"attention made_up {{ {STREAMS} {({**LISTS, **TWO_PASSES})[name]} \n}}"
    program = build_program(load(Source("<test>", text), {}), {"D": 128}, Dtype.BF16)
    plan = differentiate(program.attention, program.online)
    assert missing(backward_program(program, plan))

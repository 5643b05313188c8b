"""Queries past the end in the loop over queries: nothing masks them, and nothing comes of them."""

import pytest
import torch

from attngen.backend.triton.backward.padding import finite_at_zero
from attngen.core.source import Source
from attngen.frontend import load
from attngen.runtime.kernel import Kernel
from attngen.runtime.specialise import Spec
from tests.differential.gradients import gradient_problems
from tests.differential.harness import DTYPES, inputs

pytestmark = pytest.mark.interpreter

TEXT = """attention padded {{
  query q : half[B, H, S, D]
  key k : half[B, H, S, D]
  value v : half[B, H, S, D]
  input c : f32[B, H, S]
  {}
  return out
}}
"""
SIZES = {"B": 1, "H": 2, "S": 70, "D": 16}  # 58 queries of the last tile do not exist
OUT = "out = sum(softmax(s) * v)"
SCORES = {  # score, whether it is surely finite where rows and numbers are zeros
    "a bias that grows to overflow": ("0.3 * dot(q, k) + 3.0 * q_idx + c[b, h, q_idx]", True),
    "a soft-cap": ("softcap(dot(q, k), 5.0) + c[b, h, q_idx]", True),
    "divided by a number": ("0.3 * dot(q, k) / (0.5 + abs(c[b, h, q_idx]))", False),
    "a logarithm": ("0.3 * dot(q, k) + log(abs(c[b, h, q_idx]) + kv_idx + 1)", False),
    "a power": ("0.3 * dot(q, k) + 0.1 * (abs(c[b, h, q_idx]) + 1) ** -2.0", False),
}
MASKS = {
    "none": "",
    "causal": "mask = kv_idx <= q_idx",
    "window": "mask = kv_idx <= q_idx and q_idx - kv_idx < 20",
    "every other": "mask = (q_idx - kv_idx) % 2 == 0 and kv_idx <= q_idx",
}


def made_of(score: str, mask: str) -> Kernel:
    source = Source("<test>", TEXT.format("\n  ".join(x for x in (f"s = {score}", mask, OUT) if x)))
    return Kernel(Spec(source, {}, load(source, {}), {}))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("score", SCORES)
def test_gradients(score: str, mask: str):
    made = made_of(SCORES[score][0], MASKS[mask])
    half = DTYPES["f32" if len(score + mask) % 2 else "bf16"]
    assert not gradient_problems(made, inputs(made, SIZES, 1, half=half), half)


@pytest.mark.parametrize("score", SCORES)
def test_what_is_surely_finite(score: str):
    text, finite = SCORES[score]
    made = made_of(text, "")
    program = made.spec.program(made.request(**inputs(made, SIZES)))
    assert finite_at_zero(*(c.score for c in program.online.classes)) is finite


def test_a_causal_loop_tests_no_length():
    """Two loops, the second without a mask; a score that may be infinite keeps the test."""
    from attngen.runtime.specialise import Request
    from attngen.runtime.training import generate_training

    sources = []
    for score in ("a soft-cap", "a logarithm"):
        made = made_of(SCORES[score][0], MASKS["causal"])
        tensors = inputs(made, SIZES, 1, half=torch.bfloat16)
        request: Request = made.request(**tensors)
        sources.append(generate_training(made.spec, request).backward.source)
    assert "q_idx[None, :] < kv_len" not in sources[0]
    assert "q_idx[None, :] < kv_len" in sources[1]

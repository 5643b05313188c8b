"""Gradients of CuTe backward kernels: against float64, run to run, and beside poisoned memory."""

import pytest
import torch

import attngen
from tests.differential.gradients import gradient_problems
from tests.differential.harness import axes, example, inputs

pytest.importorskip("cutlass")
pytestmark = pytest.mark.sm90

LENGTHS = ((200, 333), (130, 70), (1, 65), (640, 640))
SAME = ("alibi_documents", "prefix_lm")


@pytest.mark.parametrize("name", ["flash", "gemma2", "sinks_gated", *SAME])
@pytest.mark.parametrize(("q_len", "kv_len"), LENGTHS)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_examples(name, q_len, kv_len, half):
    kv_len = q_len if name in SAME else kv_len
    made = attngen.compile(example(name), backend="cute")
    sizes = {"B": 2, "H": 2, "Hq": 4, "Hkv": 2, "D": 128, "Dv": 128, **axes(name, q_len, kv_len)}
    tensors = inputs(made, sizes, half=half)
    torch.full((1 << 24,), float("nan"), device="cuda")  # what `empty` hands out next
    assert not gradient_problems(made, tensors, half)
    (trained,) = made._trained.values()
    assert trained.backward.backend == "cute"


@pytest.mark.parametrize("width", [64, 128])
def test_two_runs_give_the_same_bits(width):
    """More blocks of threads than multiprocessors, several per head."""
    made = attngen.compile(example("flash"), backend="cute")
    sizes = {"B": 2, "H": 8, "Sq": 2048, "Skv": 2048, "D": width, "Dv": width}
    tensors = inputs(made, sizes, half=torch.bfloat16)
    given = {n: x.clone().requires_grad_() for n, x in tensors.items()}
    out = made(**given)[0]
    seed = torch.randn_like(out)
    runs = [torch.autograd.grad(out, list(given.values()), seed, retain_graph=True) for _ in "abc"]
    for again in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], again, strict=True))

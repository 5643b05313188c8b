"""The test of the gradient tests: the rule notices bugs and spares correct kernels."""

import functools

import pytest
import torch

from tests.differential import gradients as module
from tests.differential.backward_model import MUTANTS, gradients
from tests.differential.gradients import exceeded, expected, names, seeds, units
from tests.differential.harness import call, inputs, kernel

pytestmark = pytest.mark.interpreter

SPEC = """attention grouped {
  query q : half[B, Hq, S, D]
  key   k : half[B, Hkv, S, D]
  value v : half[B, Hkv, S, D]
  mask = causal
  out  = sum(softmax(0.25 * dot(q, k)) * v)
}
"""
HALVES = (torch.bfloat16, torch.float16)
SHAPES = ((1, 4, 2, 40, 16), (2, 2, 1, 97, 32), (1, 3, 3, 1, 16), (1, 2, 1, 2, 16))


@functools.lru_cache(maxsize=8)
def truth(shape, half, seed, peaky=False):
    """(inputs in the order of the model, golden, units) of a case."""
    made = kernel(SPEC)
    sizes = dict(zip(("B", "Hq", "Hkv", "S", "D"), shape, strict=True))
    tensors = inputs(made, sizes, seed, half=half)
    if peaky:  # a key that takes nearly all of many rows: delta cancels there
        tensors["k"][:, :, 0] *= 8
    incoming = seeds((torch.empty(tensors["q"].shape, dtype=half),), seed)
    golden = expected(made.spec.attention, made, tensors, incoming)
    allowed = units(made, tensors, incoming, half, golden)
    given = (*(tensors[n].cpu() for n in "qkv"), incoming[0].cpu())
    return given, golden, allowed


def problems(case, bug=""):
    given, golden, allowed = case
    return [w for w in map(exceeded, gradients(*given, 0.25, bug), golden, allowed) if w]


@pytest.mark.parametrize("half", HALVES)
def test_every_mutant_is_killed(half):
    """All by plain inputs; all but the two of precision by peaky ones too."""
    plain, peaky = (truth((2, 4, 2, 97, 32), half, 0, p) for p in (False, True))
    assert not [bug for bug in MUTANTS if not problems(plain, bug)]
    alive = {bug for bug in MUTANTS if not problems(peaky, bug)}
    assert alive <= {"half sum", "few bits"}, alive


@pytest.mark.parametrize("half", HALVES)
def test_no_false_alarm(half):
    alarms = []
    for seed in range(6):
        for shape in SHAPES:
            for peaky in (False, True):
                alarms += problems(truth(shape, half, seed, peaky))
    assert not alarms


@pytest.mark.slow
@pytest.mark.parametrize("half", HALVES)
def test_no_false_alarm_in_hundreds_of_draws(half):
    alarms = []
    for seed in range(100, 140):
        for shape in SHAPES:
            for peaky in (False, True):
                alarms += problems(truth(shape, half, seed, peaky))
    assert not alarms


def test_float32_notices_what_half_hides():
    """A loss of precision to that of bf16 operands, and a mistake of one in a thousand."""
    made = kernel(SPEC)
    sizes = {"B": 1, "Hq": 2, "Hkv": 1, "S": 40, "D": 16}
    tensors = inputs(made, sizes, 0, half=torch.float32)
    incoming = seeds((torch.empty(tensors["q"].shape),), 0)
    golden = expected(made.spec.attention, made, tensors, incoming)
    allowed = units(made, tensors, incoming, torch.float32, golden)
    given = (*(tensors[n].cpu() for n in "qkv"), incoming[0].cpu())
    right = gradients(*given, 0.25)
    assert not any(map(exceeded, right, golden, allowed))
    for wrong in ([x * 1.001 for x in right], [x.bfloat16().float() for x in right]):
        assert all(map(exceeded, wrong, golden, allowed))


def test_poison_and_shapes():
    golden, unit = torch.ones(3, 4), torch.full((3, 4), 0.1)
    assert not exceeded(golden, golden, unit)
    assert "finite" in exceeded(golden * torch.nan, golden, unit)
    assert "shape" in exceeded(golden[:2], golden, unit)
    one = golden.clone()
    one[1, 2] = 5
    assert "(1, 2)" in exceeded(one, golden, unit)
    nothing = torch.zeros(3, 4)
    assert not exceeded(nothing, nothing, nothing) and exceeded(golden, nothing, nothing)


def test_a_kernel_is_judged_by_it(monkeypatch):
    """One per cent too much, or one row left out, of what a kernel returned."""
    made = kernel(SPEC)
    sizes = {"B": 1, "Hq": 2, "Hkv": 1, "S": 40, "D": 16}
    tensors = inputs(made, sizes, 1, half=torch.float16)
    found, incoming = module.kernel_gradients(made, tensors)
    assert call(made, tensors)[0].shape == incoming[0].shape and names(made) == ["q", "k", "v"]
    for wrong in (found[1] * 1.01, found[1].index_fill(2, torch.tensor([7]), 0)):
        changed = [found[0], wrong, found[2]]
        monkeypatch.setattr(module, "kernel_gradients", lambda *_, c=changed: (c, incoming))
        assert [p[:4] for p in module.gradient_problems(made, tensors, torch.float16)] == ["d_k:"]

"""Gradients of every differentiable example against float64 autograd of the formula."""

import pytest
import torch

from attngen.core.diagnostics import SpecError
from attngen.core.source import Source
from attngen.frontend import load
from attngen.reference.generate import random_spec
from attngen.runtime.kernel import Kernel
from attngen.runtime.specialise import Spec
from tests.differential.gradients import (
    DIFFERENTIABLE,
    gradient_problems,
    kernel_gradients,
    leaves,
    names,
)
from tests.differential.harness import DTYPES, axes, call, example, inputs, kernel

pytestmark = pytest.mark.interpreter

PAIRS = {  # lengths that are free on both sides; tiles of the backward are 64 long
    "flash": ((65, 63), (17, 80), (1, 70)),
    "gemma2": ((70, 40), (33, 65), (1, 1)),
    "sinks_gated": ((20, 66), (65, 1), (64, 64)),
    "parallax": ((33, 70), (2, 64), (65, 65)),
    "mla": ((9, 66), (33, 20), (1, 1)),
}
SAME = ((65, 65), (1, 1), (37, 37))


def cases():
    """Each example in float16 and float32 on one or two lengths."""
    for name in DIFFERENTIABLE:
        for i, half in enumerate(("f16", "f32")):
            for q_len, kv_len in PAIRS.get(name, SAME)[i : i + 2]:
                yield name, half, q_len, kv_len


def small(name: str, q_len: int, kv_len: int, **more: int) -> dict[str, int]:
    """Two key heads for four query heads where a spec has groups."""
    sizes = {"B": 2, "H": 2, "Hq": 4, "Hkv": 2, "D": 24, "Dv": 16}
    return {**sizes, **axes(name, q_len, kv_len), **more}


def hold(name: str, half: str, sizes: dict[str, int], seed: int = 3) -> None:
    made = kernel(example(name))
    tensors = inputs(made, sizes, seed, half=DTYPES[half])
    assert not gradient_problems(made, tensors, DTYPES[half])


@pytest.mark.parametrize(("name", "half", "q_len", "kv_len"), cases())
def test_examples(name, half, q_len, kv_len):
    hold(name, half, small(name, q_len, kv_len))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_nothing_to_attend_to(name):
    """Zero queries, keys or batches: gradients of the right shapes, by the formula."""
    hold(name, "f32", small(name, 0, 0))
    if name in PAIRS:
        hold(name, "f16", small(name, 3, 0))
    if name not in ("varlen", "mla"):
        hold(name, "f32", small(name, 5, 5, B=0))


@pytest.mark.parametrize("ratio", [1, 2, 3, 5])
def test_head_groups(ratio):
    hold("gemma2", "f16", small("gemma2", 20, 30, Hq=2 * ratio, Hkv=2))
    hold("varlen", "f32", small("varlen", 40, 40, Hq=ratio, Hkv=1, B=3))


@pytest.mark.parametrize("seed", range(3000, 3025))
def test_random_specs(seed):
    made_up = random_spec(seed)
    half = getattr(torch, made_up.half)
    source = Source(f"<seed {seed}>", made_up.text)
    try:
        attention = load(source, {})
        made = Kernel(Spec(source, {}, attention, dict(attention.schedule)))
        tensors = inputs(made, made_up.sizes, seed, half=half)
        problems = gradient_problems(made, tensors, half)
    except SpecError as error:
        if all(d.code.startswith(("E4", "E201")) for d in error.diagnostics):
            pytest.skip(error.diagnostics[0].message)
        raise
    assert not problems, made_up.text


LENGTH = """attention counted {
  query q : half[B, H, Sq, D]
  key   k : half[B, H, Skv, D]
  value v : half[B, H, Skv, D]
  input n : i32
  input temperature : f32
  score = dot(q, k) * temperature
  mask  = kv_idx < n
  out   = sum(softmax(score) * v)
  lse   = logsumexp(score)
  return out, lse
}
"""


def test_keys_behind_the_mask_have_no_gradient():
    made = kernel(LENGTH)
    tensors = inputs(made, {"B": 1, "H": 2, "Sq": 9, "Skv": 80, "D": 16}, half=torch.float32)
    tensors |= {"n": 33, "temperature": 0.3}
    assert not gradient_problems(made, tensors, torch.float32)
    found, _ = kernel_gradients(made, tensors)
    by_name = dict(zip(names(made), found, strict=True))
    for name in ("k", "v"):
        assert bool((by_name[name][:, :, 33:] == 0).all())
        assert bool((by_name[name][:, :, :33] != 0).any())


def test_a_scalar_given_as_a_tensor_has_a_gradient():
    made = kernel(LENGTH)
    tensors = inputs(made, {"B": 1, "H": 2, "Sq": 9, "Skv": 20, "D": 16}, half=torch.float32)
    given = {**tensors, "n": 12, "temperature": torch.tensor(0.3, requires_grad=True)}
    sum(r.square().sum() for r in call(made, given)).backward()
    gradient = given["temperature"].grad
    assert gradient.shape == () and gradient.dtype == torch.float32 and gradient != 0


@pytest.mark.parametrize("output", [0, 1])
def test_one_result_alone(output):
    """Of lse alone, and without lse: gradients that nobody sends are zero."""
    from attngen.reference.execute import reference

    made = kernel(example("flash"))
    tensors = inputs(made, small("flash", 33, 40), half=torch.float32)
    given, exact = leaves(made, tensors), leaves(made, tensors, torch.float64)
    call(made, given)[output].sum().backward()
    reference(made.spec.attention, exact)[output].sum().backward()
    for name in names(made):
        want = exact[name].grad
        want = torch.zeros_like(exact[name]) if want is None else want
        assert torch.allclose(given[name].grad.double(), want, atol=2e-5), name


def test_expanded_and_transposed_gradients():
    made = kernel(example("flash"))
    tensors = inputs(made, small("flash", 33, 40), half=torch.float32)
    one, two = leaves(made, tensors), leaves(made, tensors)
    out, _ = call(made, one)
    incoming = torch.randn(out.shape[-1:]).expand(out.shape)
    out.backward(incoming)
    out, _ = call(made, two)
    out.backward(incoming.clone().mT.contiguous().mT)
    for name in names(made):
        assert torch.equal(one[name].grad, two[name].grad)


def test_permuted_arguments():
    made = kernel(example("sinks_gated"))
    tensors = inputs(made, small("sinks_gated", 20, 30), half=torch.float16, permuted=True)
    assert not gradient_problems(made, tensors, torch.float16)

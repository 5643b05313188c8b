"""A kernel among torch's own things: autocast, torch.func, checkpoints that choose, hooks."""

import subprocess
import sys

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import attngen
from attngen.core.diagnostics import CallError
from attngen.runtime.settings import prepare_interpreter

pytestmark = pytest.mark.interpreter

TEXT = """attention %s {
  query q : half[B, H, S, D]
  key   k : half[B, H, S, D]
  value v : half[B, H, S, D]
  input slope : f32[H]
  score = dot(q, k) * rsqrt(D) + slope[h] * (kv_idx - q_idx)
  mask  = causal
  out   = sum(softmax(score) * v)
}
"""


@pytest.fixture(autouse=True)
def interpreter():
    prepare_interpreter()


def arguments(dtype=torch.float32, gradient=True):
    torch.manual_seed(0)
    streams = [torch.randn(1, 2, 12, 16, dtype=dtype) for _ in range(3)]
    return [x.requires_grad_(gradient) for x in (*streams, torch.tensor([0.5, 0.25]))]


@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_does_what_it_does_to_torch_s_attention(compiled):
    kernel, given = attngen.compile(TEXT % "cast"), arguments()
    call = torch.compile(kernel, fullgraph=True, backend="aot_eager") if compiled else kernel
    with torch.autocast("cpu", torch.bfloat16):
        out = call(*given)
        assert out.dtype is sdpa(*given[:3]).dtype is torch.bfloat16
    out.float().sum().backward()
    assert [x.grad.dtype for x in given] == [torch.float32] * 4
    halves = [x.detach().bfloat16() for x in given[:3]]
    assert torch.equal(out.detach(), kernel(*halves, given[3].detach()))


def test_autocast_takes_what_would_not_fit_and_leaves_other_devices_alone():
    kernel, given = attngen.compile(TEXT % "mixed"), arguments(gradient=False)
    given[1] = given[1].bfloat16()
    with pytest.raises(CallError, match="E509"):
        kernel(*given)
    with torch.autocast("cpu", torch.bfloat16):
        assert kernel(*given).dtype is torch.bfloat16
    given[1] = given[1].float()
    with torch.autocast("cuda", torch.bfloat16):
        assert kernel(*given).dtype is torch.float32


@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp"])
def test_transforms_of_torch_func_are_refused_by_name(transform):
    kernel, given = attngen.compile(TEXT % "transformed"), arguments(gradient=False)
    calls = {
        "vmap": lambda: torch.vmap(kernel)(*(x[None] for x in given)),
        "grad": lambda: torch.func.grad(lambda *x: kernel(*x).sum())(*given),
        "jvp": lambda: torch.func.jvp(kernel, tuple(given), tuple(given)),
    }
    with pytest.raises(CallError, match=r"E523[\s\S]*axis B"):
        calls[transform]()


def test_a_selective_checkpoint_sees_the_operator():
    kernel, given = attngen.compile(TEXT % "selective"), arguments()
    seen = []

    def policy(context, op, *rest, **more):
        ours = "attngen" in str(op)
        seen.extend([str(op)] if ours else [])
        return CheckpointPolicy.MUST_SAVE if ours else CheckpointPolicy.PREFER_RECOMPUTE

    def contexts():
        return create_selective_checkpoint_contexts(policy)

    want = torch.autograd.grad(kernel(*given).square().sum(), given)
    out = checkpoint(
        lambda *x: kernel(*x).square().sum(), *given, use_reentrant=False, context_fn=contexts
    )
    found = torch.autograd.grad(out, given)
    assert seen
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


def test_saved_tensors_may_be_kept_elsewhere():
    kernel, given = attngen.compile(TEXT % "offloaded"), arguments()
    want = torch.autograd.grad(kernel(*given).sum(), given)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.double(), lambda x: x.float()):
        out = kernel(*given)
    assert all(
        torch.equal(a, b) for a, b in zip(torch.autograd.grad(out.sum(), given), want, strict=True)
    )


def test_an_unused_result_and_a_frozen_argument():
    text = (TEXT % "two").replace("v)\n}", "v)\n  lse = logsumexp(score)\n  return out, lse\n}")
    kernel, given = attngen.compile(text), arguments()
    given[1].requires_grad_(False)
    for i in (0, 1):
        found = torch.autograd.grad(kernel(*given)[i].sum(), [given[0], given[3]])
        assert all(x.abs().sum() > 0 for x in found)
    kernel(*given)[0].sum().backward()
    assert given[1].grad is None


def test_importing_attngen_imports_nothing_heavy():
    code = (
        "import sys, attngen\n"
        "heavy = {'torch', 'triton', 'numpy', 'lark', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "attngen.compile, attngen.flex_attention, attngen.attention, attngen.nn\n"
        "slow = {'triton', 'torch._dynamo', 'torch._inductor', 'transformers'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

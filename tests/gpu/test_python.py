"""What users build around kernels, on a GPU: modules, graphs, autocast, models of transformers."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention as sdpa
from torch.utils.checkpoint import checkpoint

import attngen
from attngen.nn import Attention

pytestmark = pytest.mark.gpu

TEXT = """attention learned_%s {
  query q : half[B, S, H, D]
  key   k : half[B, S, H, D]
  value v : half[B, S, H, D]
  input slope : f32[H]
  input sink  : f32[H]
  score = dot(q, k) * rsqrt(D) + slope[h] * (kv_idx - q_idx)
  mask  = causal and q_idx - kv_idx < 100
  out   = sum(softmax(score, sink = sink[h]) * v)
}
"""


class Layer(nn.Module):
    """A block with a learned slope and sink for each of four heads."""

    def __init__(self, name):
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.back = nn.Linear(256, 768), nn.Linear(256, 256)
        own = {"slope": nn.Parameter(torch.rand(4)), "sink": nn.Parameter(torch.randn(4))}
        self.attention = Attention(TEXT % name, **own)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 64)).unbind(2)
        return x + self.back(self.attention(q, k, v).flatten(-2))


def batch(length=300, dtype=torch.bfloat16):
    make = torch.Generator("cuda").manual_seed(1)
    return torch.randn(2, length, 256, generator=make, device="cuda", dtype=dtype)


def gradients(model, x, run=None):
    model.zero_grad()
    (model if run is None else run)(x).float().square().mean().backward()
    return [p.grad.clone() for p in model.parameters()]


def test_copies_share_kernels_and_follow_moves():
    model = Layer("moves")
    on_gpu = copy.deepcopy(model).to("cuda", torch.bfloat16)
    assert on_gpu.attention.slope.is_cuda
    out = on_gpu(batch())
    assert out.dtype is torch.bfloat16
    assert on_gpu.attention.kernel is model.attention.kernel


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_give_the_same_bits(reentrant):
    model, x = Layer("checkpoints").to("cuda", torch.bfloat16), batch().requires_grad_()
    want = gradients(model, x)
    found = gradients(model, x, lambda y: checkpoint(model, y, use_reentrant=reentrant))
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


def test_inductor_makes_one_graph_for_all_lengths():
    model = Layer("inductor").to("cuda", torch.bfloat16)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for length in (300, 170):
        found = gradients(model, batch(length), compiled)
        for a, b in zip(found, gradients(model, batch(length)), strict=True):
            torch.testing.assert_close(a, b, atol=2e-3, rtol=5e-2)


def test_a_step_of_training_in_a_cuda_graph():
    model, x = Layer("captured").to("cuda", torch.bfloat16), batch()
    want = gradients(model, x)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            gradients(model, x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = torch.autograd.grad(model(x).float().square().mean(), list(model.parameters()))
    for tensor in found:
        tensor.fill_(float("nan"))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


def test_autocast_as_torch_s_attention():
    model, x = Layer("autocast").cuda(), batch(dtype=torch.float32)
    with torch.autocast("cuda", torch.bfloat16):
        q, k, v = model.qkv(x).unflatten(-1, (3, 4, 64)).unbind(2)
        wide = [t.float().transpose(1, 2) for t in (q, k, v)]
        own = (model.attention.slope, model.attention.sink)
        out = model.attention.kernel(q.float(), k.float(), v.float(), *own)
        assert out.dtype is sdpa(*wide).dtype is torch.bfloat16
        assert torch.equal(out, model.attention(q, k, v))
    assert all(g.dtype is torch.float32 for g in gradients(model, x))


def test_opcheck():
    model = Layer("opcheck").to("cuda", torch.bfloat16)
    q, k, v = model.qkv(batch(70)).unflatten(-1, (3, 4, 64)).unbind(2)
    own = (model.attention.slope.float(), model.attention.sink.float())
    leaves = tuple(x.detach().requires_grad_() for x in (q, k, v, *own))
    operators = model.attention.kernel.operators
    torch.library.opcheck(operators.operator("_training"), leaves)
    torch.library.opcheck(operators.operator(""), tuple(x.detach() for x in leaves))


def test_a_thread_that_has_done_nothing_on_the_gpu():
    """A plan that is there needs no module loaded, and memory may come from torch's cache."""
    kernel = attngen.compile("examples/flash.attn")
    given = [torch.randn(1, 2, 128, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    leaves = [x.clone().requires_grad_() for x in given]
    seed = torch.ones_like(given[0])

    def both():
        with torch.no_grad():
            plain = kernel(*given)[0]
        with torch.autograd.set_multithreading_enabled(False):  # backward in this thread
            return plain, *torch.autograd.grad(kernel(*leaves)[0], leaves, seed)

    want, found = both(), []
    for _ in range(2):
        thread = threading.Thread(target=lambda: found.append(both()))
        thread.start()
        thread.join()
    assert len(found) == 2
    assert all(torch.equal(a, b) for one in found for a, b in zip(one, want, strict=True))


# --- transformers ---------------------------------------------------------------------------------
def llamas(dtype):
    tf = pytest.importorskip("transformers")
    attngen.transformers.register()
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512}
    made = []
    for name in ("attngen", "sdpa"):
        torch.manual_seed(0)
        config = tf.LlamaConfig(**sizes, **heads)
        model = tf.LlamaForCausalLM._from_config(config, attn_implementation=name)
        made.append(model.to("cuda", dtype))
    return made


def tokens(batch, length, seed):
    make = torch.Generator().manual_seed(seed)
    steps = torch.randint(1, 4, (batch, length), generator=make)
    return (steps.cumsum(-1) % 97).cuda()  # something that can be learned


def curve(model, steps=40):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for step in range(steps):
        ids = tokens(8, 120 + step % 5, step)
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).float().cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_llama_trains_as_with_sdpa(dtype):
    ours, theirs = (curve(m) for m in llamas(dtype))
    print(f"loss {dtype}: {ours[0]:.4f} -> {ours[-1]:.4f}, sdpa {theirs[-1]:.4f}")
    assert ours[-1] < ours[0] - 2
    near = 2e-3 if dtype is torch.float32 else 5e-2
    torch.testing.assert_close(ours, theirs, atol=near, rtol=0)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generation_gives_the_same_tokens(cache):
    ids = tokens(3, 20, 0)
    keep = torch.ones_like(ids)
    keep[0, :7] = 0
    options = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": 0}
    if cache == "static":
        options |= {"cache_implementation": "static", "disable_compile": True}
    ours, theirs = (
        m.eval().generate(ids, attention_mask=keep, **options) for m in llamas(torch.float32)
    )
    assert torch.equal(ours, theirs)

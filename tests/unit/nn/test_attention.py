"""`attngen.nn.Attention`: what a module owns, how it is called, copied, stored and moved."""

import copy
import io
import pickle

import pytest
import torch

import attngen
from attngen import attention
from attngen.core.diagnostics import CallError, SpecError
from attngen.nn import Attention
from attngen.runtime.settings import prepare_interpreter

pytestmark = pytest.mark.interpreter

TEXT = """attention sinks {
  param cap = 5.0
  query q : half[B, Hq, S, D]
  key   k : half[B, Hkv, S, D]
  value v : half[B, Hkv, S, D]
  input sink : f32[Hq]
  input doc : i32[B, S]
  input window : i32
  score = softcap(dot(q, k) * rsqrt(D), cap)
  mask  = causal and q_pos - kv_idx < window and doc[b, q_idx] == doc[b, kv_idx]
  out   = sum(softmax(score, sink = sink[h]) * v)
}
"""


@attention
def windowed(
    q: "query half[B, H, S, D]",
    k: "key half[B, H, S, D]",
    v: "value half[B, H, S, D]",
    slope: "f32[H]",
    width=4,
):
    score = dot(q, k) * rsqrt(D) + slope[h] * (kv_idx - q_pos)
    mask = causal and q_pos - kv_idx < width
    return sum(softmax(score) * v)


@pytest.fixture(autouse=True)
def interpreter():
    prepare_interpreter()
    torch.manual_seed(0)


def streams(dtype=torch.float32):
    shapes = ((1, 2, 12, 16), (1, 1, 12, 16), (1, 1, 12, 16))
    return [torch.randn(s).to(dtype) for s in shapes]


def module(**more):
    owned = {"sink": torch.nn.Parameter(torch.tensor([0.5, -1.0])), "window": 6, **more}
    return Attention(TEXT, **owned)


DOC = torch.tensor([[0] * 5 + [1] * 7], dtype=torch.int32)


def test_what_is_owned_and_what_is_passed():
    made = module(doc=DOC, cap=7.0)
    assert [n for n, _ in made.named_parameters()] == ["sink"]
    assert [n for n, _ in made.named_buffers()] == ["doc"]
    q, k, v = streams()
    want = attngen.compile(TEXT, cap=7.0)(q, k, v, made.sink, DOC, 6)
    assert torch.equal(made(q, k, v), want)
    assert torch.equal(made(q, v=v, k=k), want)
    other = torch.zeros(1, 12, dtype=torch.int32)
    assert torch.equal(
        made(q, k, v, doc=other, window=3), made.kernel(q, k, v, made.sink, other, 3)
    )
    want.sum().backward()
    assert made.sink.grad.abs().sum() > 0


def test_representation():
    made = module(doc=DOC, cap=7.0)
    shown = "sinks(q, k, v) -> out, sink: f32[Hq], doc: i32[B, S], cap=7.0, window=6"
    assert repr(made) == f"Attention({shown})"
    assert made.spec == TEXT


@pytest.mark.parametrize("how", ["copy", "pickle", "torch"])
def test_copies(how):
    made, given = module(doc=DOC), streams()
    want = made(*given)
    if how == "copy":
        again = copy.deepcopy(made)
    elif how == "pickle":
        stored = pickle.dumps(made)
        assert b"attngen.runtime" not in stored  # the text of the spec, not a kernel
        again = pickle.loads(stored)
    else:
        store = io.BytesIO()
        torch.save(made, store)
        store.seek(0)
        again = torch.load(store, weights_only=False)
    assert torch.equal(again(*given), want)
    assert again.kernel is made.kernel  # layers of one spec share what is compiled
    again.sink.data.zero_()
    assert not torch.equal(again(*given), want)


def test_copies_of_models_that_hold_kernels_or_functions():
    holder = torch.nn.Module()
    holder.kernel, holder.function = attngen.compile("examples/flash.attn"), windowed
    again = copy.deepcopy(holder)
    assert again.kernel is holder.kernel
    assert again.function is windowed


def test_state_goes_from_one_to_another():
    one, two = module(doc=DOC), module(sink=torch.nn.Parameter(torch.zeros(2)), doc=DOC * 0)
    two.load_state_dict(one.state_dict())
    given = streams()
    assert torch.equal(one(*given), two(*given))


def test_a_module_in_another_dtype_reads_what_is_declared():
    made = module(doc=DOC).to(torch.bfloat16)
    assert made.sink.dtype is torch.bfloat16
    out = made(*streams(torch.bfloat16))
    assert out.dtype is torch.bfloat16
    out.float().sum().backward()
    assert made.sink.grad.dtype is torch.bfloat16


def test_a_function_and_its_parameters():
    made = Attention(windowed, slope=torch.nn.Parameter(torch.rand(2)), width=3)
    q = torch.randn(1, 2, 12, 16)
    assert torch.equal(made(q, q, q), windowed(q, q, q, made.slope, width=3))
    again = pickle.loads(pickle.dumps(made))
    assert torch.equal(again(q, q, q), made(q, q, q))
    assert repr(made) == "Attention(windowed(q, k, v) -> out, slope: f32[H], width=3)"


def test_a_file():
    made = Attention("examples/flash.attn")
    assert made.kernel.name == "flash"


def test_compile_makes_one_graph():
    made, given = module(doc=DOC), streams()
    want = made(*given)
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    out = compiled(*given)
    assert torch.equal(out, want)
    (found,) = torch.autograd.grad(out.square().sum(), made.sink)
    (expected,) = torch.autograd.grad(want.square().sum(), made.sink)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("owned", "words"),
    [
        ({"snk": torch.rand(2)}, "did you mean sink"),
        ({"other": torch.rand(2)}, "the inputs are sink, doc, window"),
        ({"sink": 3.0}, "torch.nn.Parameter"),
        ({"sink": torch.rand(2, 2)}, r"reshape sink to \[Hq\]"),
        ({"q": torch.rand(1, 2, 12, 16)}, "pass q with each call"),
    ],
)
def test_what_does_not_fit_is_refused(owned, words):
    with pytest.raises(CallError, match=rf"E524[\s\S]*{words}"):
        Attention(TEXT, **owned)


def test_other_mistakes():
    with pytest.raises(CallError, match="E524"):
        Attention(3)
    with pytest.raises(SpecError, match="E118"):
        Attention(TEXT, nonsense=1)
    taken = TEXT.replace("sink : f32", "forward : f32").replace("sink[h]", "forward[h]")
    with pytest.raises(CallError, match=r"E524[\s\S]*with each call"):
        Attention(taken, forward=torch.rand(2))
    made, (q, k, v) = module(doc=DOC), streams()
    with pytest.raises(CallError, match=r"E502[\s\S]*owned by the module: doc, sink, window"):
        made(q, k, v, v)
    with pytest.raises(CallError, match="E502"):
        made(q, k, v, q=q)
    with pytest.raises(CallError, match="E501"):
        made(q, k)

"""CuTe kernels on a Hopper GPU: examples, widths, layouts, and inputs made to break a reference."""

import math
from pathlib import Path

import pytest
import torch

import attngen
from attngen.backend.cute import shape
from attngen.judge import judge
from attngen.reference.inputs import make_inputs
from tests.unit.backend.cute_specs import HEAD, SAME, spec

pytest.importorskip("cutlass")
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.sm90

EXAMPLES = (
    "flash",
    "gemma2",
    "alibi_documents",
    "sinks_gated",
    "differential",
    "relative_bias",
    "prefix_lm",
    "forgetting",
)
LSE = "  out = sum(softmax(score) * v)\n  lse = logsumexp(score)\n  return out, lse"
SHAPES = ((331, 331), (1024, 1024), (77, 77), (300, 700), (700, 300), (1, 513))


def wrong(kernel, tensors, half=torch.bfloat16):
    """What is wrong with the results, in words; NaN in what a kernel did not write is found."""
    torch.cuda.empty_cache()
    trash = [torch.full((1 << 24,), math.nan, device="cuda") for _ in range(4)]
    del trash
    results = kernel(**tensors)
    results = results if isinstance(results, tuple) else (results,)
    judged = judge(kernel.spec.attention, tensors, results, half)
    return [f"{j.name}: {j.verdict.message}" for j in judged if not j.verdict.ok]


def inputs(kernel, sizes, half=torch.bfloat16, **options):
    return make_inputs(kernel.spec.attention, sizes, 3, "cuda", half=half, **options)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name, half):
    kernel = attngen.compile(ROOT / "examples" / f"{name}.attn", backend="cute")
    for i, (n, m) in enumerate(SHAPES):
        sizes = {"B": 2, "H": 3, "Hq": 4, "Hkv": 2, "Sq": n, "Skv": m, "S": n, "D": 128, "Dv": 128}
        assert not wrong(kernel, inputs(kernel, sizes, half, permuted=bool(i % 2)), half)


@pytest.mark.parametrize("form", ["tile", "flat"])
@pytest.mark.parametrize("reference", ["running", "lazy", "first"])
def test_every_form_and_reference(form, reference):
    schedule = f"\n  schedule {{\n    form = {form}\n    reference = {reference}\n  }}"
    text = spec("  mask = causal", out=LSE + schedule)
    kernel = attngen.compile(text, backend="cute")
    for n, m in SHAPES:
        assert not wrong(kernel, inputs(kernel, {"B": 2, "H": 3, "Sq": n, "Skv": m, "D": 128}))


# Widths a kernel could have; `shape.SEEN` lists those that were held against the reference.
@pytest.mark.parametrize("mask", ["causal", "causal and q_pos - kv_idx < 100"])
@pytest.mark.parametrize(
    ("width", "values"),
    [*sorted(shape.SEEN), (32, 16), (16, 64), (64, 32), (96, 80), (80, 80), (112, 128), (128, 64),
     (256, 64), (64, 256)],
)  # fmt: skip
def test_widths(width, values, mask, monkeypatch):
    monkeypatch.setattr(shape, "SEEN", shape.SEEN | {(width, values)})
    head = HEAD.replace("value v : half[B, H, Skv, D]", "value v : half[B, H, Skv, Dv]")
    kernel = attngen.compile(spec(f"  mask = {mask}", head=head, out=LSE), backend="cute")
    for n, m in ((331, 331), (300, 700)):
        sizes = {"B": 2, "H": 3, "Sq": n, "Skv": m, "D": width, "Dv": values}
        assert not wrong(kernel, inputs(kernel, sizes))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask", ["causal", "causal and q_pos - kv_idx < 300"])
@pytest.mark.parametrize("rise", [20, 80, 100, 1000, -100, -1000])
def test_scores_that_leave_the_first_reference(rise, mask, half):
    """The first half of the keys scores `rise` nats above what a late row sees first."""
    text = spec(f"  mask = {mask}", head=SAME, out=LSE)
    options = "  schedule {\n    reference = first\n  }\n}"
    kernel = attngen.compile(text.rstrip()[:-1] + options, backend="cute")
    tensors = inputs(kernel, {"B": 1, "H": 2, "S": 700, "D": 128}, half)
    tensors["q"][..., 0], tensors["k"][..., 0] = 4.0, 0.0
    tensors["k"][:, :, :350, 0] = rise / 4 * math.sqrt(128)
    assert not wrong(kernel, tensors, half)
    if half is torch.bfloat16:
        tensors["v"] *= 1e30  # sums of large values leave float32 before the weights do
        assert not wrong(kernel, tensors, half)


BIAS = "  input bias : half[B, H, S, S]\n  input cum : f32[B, H, S]\n"
FORGET = "cum[b, h, q_idx] - cum[b, h, kv_idx]"
BIASED = f"  score = dot(q, k) * rsqrt(D) + bias[b, h, q_idx, kv_idx] + {FORGET}"


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "mask", ["", "  mask = causal", "  mask = causal and q_pos - kv_idx < 100"]
)
def test_what_rides_with_the_keys(mask, half, size):
    """Lengths whose rows are copied (331) or not, a bias that heads share by a stride of 0."""
    kernel = attngen.compile(spec(f"{mask}\n{BIASED}", BIAS, SAME, LSE), backend="cute")
    for n in (331, 1024, 77, 1):
        tensors = inputs(kernel, {"B": 2, "H": 3, "S": n, "D": size}, half)
        assert not wrong(kernel, tensors, half)
        tensors["bias"] = tensors["bias"][:, :1].expand(-1, 3, -1, -1)
        assert not wrong(kernel, tensors, half)


def test_tiles_with_riders_and_with_documents_are_redone():
    rising = torch.linspace(0, 400, 700, device="cuda").flip(0)
    text = spec(f"  mask = causal\n{BIASED}", BIAS, SAME, LSE)
    kernel = attngen.compile(text, backend="cute")
    tensors = inputs(kernel, {"B": 1, "H": 2, "S": 700, "D": 128})
    tensors["cum"] = -rising[None, None].repeat(1, 2, 1)
    assert not wrong(kernel, tensors)
    declared = "  input doc : i32[B, S] sorted\n  input w : f32[B, H, S]\n"
    mask = "  mask = doc[b, q_idx] == doc[b, kv_idx] and kv_idx <= q_idx\n"
    score = "  score = dot(q, k) * rsqrt(D) + w[b, h, kv_idx]"
    kernel = attngen.compile(spec(mask + score, declared, SAME, LSE), backend="cute")
    tensors = inputs(kernel, {"B": 1, "H": 2, "S": 700, "D": 128})
    tensors["doc"] = (torch.arange(700, device="cuda") // 300).to(torch.int32)[None]
    tensors["w"] = rising[None, None].repeat(1, 2, 1)
    assert not wrong(kernel, tensors)


def test_rows_of_nan_and_infinity_stay_by_themselves():
    kernel = attngen.compile(spec("  mask = causal", head=SAME, out=LSE), backend="cute")
    tensors = inputs(kernel, {"B": 1, "H": 2, "S": 700, "D": 128})
    tensors["q"][:, :, 5], tensors["q"][:, :, 400] = math.inf, math.nan
    tensors["k"][:, :, 300] = -math.inf
    assert not wrong(kernel, tensors)


def test_gradients_through_a_cute_forward():
    kernel = attngen.compile(spec("  mask = causal", head=SAME, out=LSE))
    made = inputs(kernel, {"B": 2, "H": 3, "S": 300, "D": 128})
    own = [x.clone().requires_grad_() for x in made.values()]
    kernel(*own)[0].float().square().sum().backward()
    exact = [x.float().requires_grad_() for x in made.values()]
    out = torch.nn.functional.scaled_dot_product_attention(*exact, is_causal=True)
    out.square().sum().backward()
    for x, y in zip(own, exact, strict=True):
        assert (x.grad.float() - y.grad).norm() < 1e-2 * y.grad.norm()


def test_graphs_streams_and_other_lengths():
    kernel = attngen.compile(spec("  mask = causal and q_pos - kv_idx < 99", head=SAME))
    tensors = [*inputs(kernel, {"B": 2, "H": 3, "S": 300, "D": 128}).values()]
    expected, graph = kernel(*tensors).clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = kernel(*tensors)
    for _ in range(2):
        captured.fill_(math.nan)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(captured, expected)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        again = kernel(*tensors)
    stream.synchronize()
    assert torch.equal(again, expected)
    count = kernel.compilations
    kernel(*(x[:, :, :123].contiguous() for x in tensors))
    assert kernel.compilations == count

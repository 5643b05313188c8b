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
    "parallax",
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


COVARIANCE = (
    "  p = softmax(score)\n  u = dot(r, k)\n  out = (1 + sum(p * u)) * sum(p * v) - sum(p * u * v)"
)
MOMENTS = (
    "  p = softmax(score)\n  out = sum(p * v)\n  entropy = logsumexp(score) - sum(p * score)\n"
    "  place = sum(p * (q_pos - kv_idx))\n  return out, entropy, place"
)
TWO = HEAD.replace("query q ", "query q, r ")


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask", ["causal", "causal and q_pos - kv_idx < 100"])
@pytest.mark.parametrize("out", [COVARIANCE, MOMENTS])
@pytest.mark.parametrize(("width", "values"), sorted(shape.SEEN_SEVERAL))
def test_several_sums(width, values, out, mask, half):
    head = TWO.replace("value v : half[B, H, Skv, D]", "value v : half[B, H, Skv, Dv]")
    head = head if "dot(r" in out else head.replace("q, r", "q")
    kernel = attngen.compile(spec(f"  mask = {mask}", head=head, out=out), backend="cute")
    for i, (n, m) in enumerate(SHAPES):
        sizes = {"B": 2, "H": 3, "Sq": n, "Skv": m, "D": width, "Dv": values}
        assert not wrong(kernel, inputs(kernel, sizes, half, permuted=bool(i % 2)), half)


@pytest.mark.parametrize("form", ["tile", "flat"])
@pytest.mark.parametrize("reference", ["running", "lazy", "first"])
def test_several_sums_in_every_form_and_reference(form, reference):
    schedule = f"\n  schedule {{\n    form = {form}\n    reference = {reference}\n  }}"
    kernel = attngen.compile(
        spec("  mask = causal", head=TWO, out=COVARIANCE + schedule), backend="cute"
    )
    for n, m in SHAPES:
        assert not wrong(kernel, inputs(kernel, {"B": 2, "H": 3, "Sq": n, "Skv": m, "D": 128}))


@pytest.mark.parametrize("rise", [20, 80, 100, 1000, -100, -1000])
def test_several_sums_that_leave_the_first_reference(rise):
    kernel = attngen.compile(
        spec("  mask = causal", head=TWO.replace("Skv", "S").replace("Sq", "S"), out=COVARIANCE),
        backend="cute",
    )
    tensors = inputs(kernel, {"B": 1, "H": 2, "S": 700, "D": 128})
    tensors["q"][..., 0], tensors["k"][..., 0], tensors["r"][..., 0] = 4.0, 0.0, 0.0
    tensors["k"][:, :, :350, 0] = rise / 4 * math.sqrt(128)
    assert not wrong(kernel, tensors)


def test_payloads_of_dropped_pairs_may_be_anything():
    kernel = attngen.compile(
        spec("  mask = causal", head=TWO.replace("Skv", "S").replace("Sq", "S"), out=COVARIANCE),
        backend="cute",
    )
    tensors = inputs(kernel, {"B": 1, "H": 2, "S": 700, "D": 128})
    tensors["q"][:, :, 5], tensors["r"][:, :, 400] = math.inf, math.nan
    tensors["k"][:, :, 300] = -math.inf
    assert not wrong(kernel, tensors)


PACKED = """attention spec {
  query q, r : half[T, Hq, D] packed(cu_q)
  key   k : half[T, Hkv, D] packed(cu_kv)
  value v : half[T, Hkv, D] packed(cu_kv)
  input cu_q  : i32[B + 1]
  input cu_kv : i32[B + 1]
"""
PACKED_CASES = {
    "causal": ("  mask = causal", LSE),
    "full": ("", LSE),
    "window": ("  mask = causal and q_pos - kv_idx < 100", LSE),
    "gate": ("  mask = causal", "  out = sum(softmax(score) * v) * sigmoid(r)"),
    "two": (
        "  mask = causal",
        "  out = sum(softmax(score) * v) - 0.5 * sum(softmax(dot(r, k) * rsqrt(D)) * v)",
    ),
    "sums": ("  mask = causal", COVARIANCE),
}
LENGTHS = (  # of queries, of keys
    ((331, 0, 1, 128, 129, 700), (331, 0, 1, 128, 129, 700)),
    ((5, 300, 64, 1), (300, 77, 64, 900)),
    ((130,) * 40, (130,) * 40),
    ((0, 0, 17), (0, 40, 17)),
)


def boundaries(lengths):
    ends = torch.tensor(lengths, device="cuda").cumsum(0, dtype=torch.int32)
    return torch.cat([ends.new_zeros(1), ends])


def packed_inputs(kernel, lengths, half, width):
    queries, keys = lengths
    made = {}
    for t in kernel.spec.attention.tensors:
        if t.name in ("cu_q", "cu_kv"):
            made[t.name] = boundaries(queries if t.name == "cu_q" else keys)
            continue
        rows, heads = (sum(queries), 4) if t.role == "query" else (sum(keys), 2)
        made[t.name] = torch.randn(rows, heads, width, device="cuda").to(half)
    return made


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("case", PACKED_CASES)
def test_packed_sequences(case, width, half):
    body, out = PACKED_CASES[case]
    head = PACKED if case in ("gate", "two", "sums") else PACKED.replace("q, r", "q")
    kernel = attngen.compile(spec(body, head=head, out=out), backend="cute")
    for lengths in LENGTHS:
        assert not wrong(kernel, packed_inputs(kernel, lengths, half, width), half)


def test_packed_sequences_do_not_read_each_other():
    head = PACKED.replace("q, r", "q")
    kernel = attngen.compile(spec("  mask = causal", head=head, out=LSE), backend="cute")
    lengths = ((331, 100, 129), (331, 100, 129))
    tensors = packed_inputs(kernel, lengths, torch.bfloat16, 128)
    expected = [x.clone() for x in kernel(**tensors)]
    for name in ("q", "k", "v"):
        tensors[name][331:431] = math.nan
    for found, before in zip(kernel(**tensors), expected, strict=True):
        assert torch.equal(found[:331], before[:331])
        assert torch.equal(found[431:], before[431:])


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

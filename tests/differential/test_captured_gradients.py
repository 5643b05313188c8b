"""Gradients of tensors that batches, heads or positions share, and of all a formula captures.

Each is added up in a fixed order: `gradient_problems` calls twice and wants the same bits.
"""

import pytest
import torch

from attngen.core.source import Source
from attngen.frontend import load
from attngen.runtime.kernel import Kernel
from attngen.runtime.specialise import Spec
from tests.differential.gradients import gradient_problems
from tests.differential.harness import DTYPES, inputs

pytestmark = pytest.mark.interpreter

HEADS = {
    "plain": ("[B, H, Sq, D]", "[B, H, Skv, D]", "[B, H, Skv, Dv]"),
    "groups": ("[B, Hq, Sq, D]", "[B, Hkv, Skv, D]", "[B, Hkv, Skv, Dv]"),
    "no batch": ("[B, H, Sq, D]", "[H, Skv, D]", "[H, Skv, Dv]"),
    "no head": ("[B, H, Sq, D]", "[Skv, D]", "[Skv, Dv]"),
    "one head": ("[B, H, Sq, D]", "[B, 1, Skv, D]", "[B, H, Skv, Dv]"),
    "groups, no batch": ("[B, Hq, Sq, D]", "[Hkv, Skv, D]", "[Hkv, Skv, Dv]"),
}
SIZES = {"B": 2, "H": 2, "Hq": 4, "Hkv": 2, "Sq": 33, "Skv": 70, "Long": 90, "D": 16, "Dv": 16}
PLAIN = "out = sum(softmax(0.3 * dot(q, k)) * v)"

# streams, captured inputs, statements
SHARED = {
    "keys without a batch": ("no batch", "", PLAIN),
    "keys without a head": ("no head", "", PLAIN),
    "keys of one head, values of all": ("one head", "", PLAIN),
    "groups without a batch": ("groups, no batch", "", PLAIN),
    "a row of queries": ("plain", "input w : half[Sq, Dv]", PLAIN + " * w"),
    "a second query": (
        "plain",
        "query r : half[H, Sq, D]",
        "out = sum(softmax(0.3 * dot(q + r, k)) * v)",
    ),
    "rows of a product": (
        "plain",
        "input u : half[H, Skv, Dv]",
        "out = sum(softmax(0.3 * dot(q, k)) * v * u)",
    ),
    "rows per query head beside groups": (
        "groups",
        "input u : half[B, Hq, Skv, Dv]",
        "out = sum(softmax(0.3 * dot(q, k)) * u)",
    ),
    "a column per key head": (
        "groups",
        "input c : f32[B, Hkv, Skv]",
        "out = sum(softmax(0.3 * dot(q, k) + c[b, h_kv, kv_idx]) * v)",
    ),
    "a column per query head beside groups": (
        "groups",
        "input c : f32[B, Hq, Skv]",
        "out = sum(softmax(0.3 * dot(q, k) + c[b, h, kv_idx]) * v)",
    ),
    "a row number per key head": (
        "groups",
        "input c : f32[B, Hkv, Sq]",
        PLAIN + " * c[b, h_kv, q_idx]",
    ),
    "a column of all heads and batches": (
        "plain",
        "input c : f32[Skv]",
        "out = sum(softmax(0.3 * dot(q, k) + c[kv_idx]) * v)",
    ),
    "a column longer than the keys": (
        "plain",
        "input c : f32[Long]",
        "out = sum(softmax(0.3 * dot(q, k) + c[kv_idx]) * v)",
    ),
    "a slope beside groups": (
        "groups",
        "input c : f32[Hq]",
        "out = sum(softmax(0.3 * dot(q, k) + 0.1 * c[h] * kv_idx) * v)",
    ),
    "a table per key head": (
        "groups",
        "input c : f32[Hkv, 8]",
        "out = sum(softmax(0.3 * dot(q, k) + c[h_kv, (q_idx - kv_idx) % 7]) * v)",
    ),
    "a whole bias": (
        "plain",
        "input c : f32[B, H, Sq, Skv]",
        "out = sum(softmax(0.3 * dot(q, k) + c[b, h, q_idx, kv_idx]) * v)",
    ),
    "a bias of all batches": (
        "plain",
        "input c : f32[H, Sq, Skv]",
        "out = sum(softmax(0.3 * dot(q, k) + c[h, q_idx, kv_idx]) * v)",
    ),
    "a bias per key head": (
        "groups",
        "input c : f32[B, Hkv, Sq, Skv]",
        "out = sum(softmax(0.3 * dot(q, k) + c[b, h_kv, q_idx, kv_idx]) * v)",
    ),
    "a sink, a gate and a scale": (
        "groups",
        "input a : f32[Hq]\n  input g : f32[B, Hq, Sq]\n  input t : f32",
        "mask = kv_idx <= q_pos\n"
        "  out = sum(softmax(t * dot(q, k), sink = a[h]) * v) * sigmoid(g[b, h, q_idx])",
    ),
    "a factor read three times": (
        "plain",
        "input c : f32[H]",
        "out = sum(softmax(dot(q, k) * c[h] + 0.01 * c[h] * kv_idx) * v) * c[h]",
    ),
}
# groups of heads; which element of a captured input is read
ELEMENTS = {
    "one element": ("input c : f32[Dv]", "s * c[0]", "v"),
    "elements of a head": ("input c : f32[Hq, 3]", "s * c[h, 0] + 0.01 * c[h, 1] * kv_idx", "v"),
    "an element of a key head": ("input c : f32[2, Hkv]", "s * c[1, h_kv]", "v"),
    "an element by the head": (
        "input c : f32[Dv]",
        "s * c[h // 2] + c[(h + b) % 5] * kv_idx * 0.01",
        "v",
    ),
    "a table longer than the heads": ("input c : f32[Long]", "s * c[h]", "v"),
    "a fixed row of columns": ("input c : f32[3, Skv]", "s + c[1, kv_idx]", "v"),
    "a bias of one batch": ("input c : f32[1, Hq, Sq, Skv]", "s + c[0, h, q_idx, kv_idx]", "v"),
    "a column by its remainder": ("input c : f32[Dv]", "s + c[kv_idx % 7]", "v"),
    "a column of each head by its remainder": (
        "input c : f32[Hq, Dv]",
        "s + c[h, kv_idx % 7]",
        "v",
    ),
    "a column of each key head": ("input c : f32[B, Hkv, 8]", "s + c[b, h_kv, kv_idx % 8]", "v"),
    "a column by another input": (
        "input at : i32[B, Skv]\n  input c : f32[40, Hq]",
        "s + c[at[b, kv_idx], h]",
        "v",
    ),
    "two computed indices": ("input c : f32[5, 3, B]", "s + c[kv_idx % 5, h % 3, b]", "v"),
    "a row by its position": ("input c : f32[Hq, Long]", "s", "v * sigmoid(c[h, q_pos])"),
    "a row of a block": ("input c : half[Long]", "s * c[q_idx // 4]", "v"),
    "functions of a number": (
        "input c : f32[Hq]",
        "s * relu(c[h]) + 0.1 * s * max(c[h], 0.5)",
        "v * abs(c[h])",
    ),
}
MORE = {  # results beside the sum of rows
    "logsumexp": ("s = 0.3 * dot(q, k)", "sum(softmax(s) * v)", "logsumexp(s)"),
    "a maximum": ("s = 0.3 * dot(q, k)", "sum(softmax(s) * v)", "max(s)"),
    "a minimum and where it is": ("s = 0.3 * dot(q, k)", "3 * min(s)", "argmin(s)"),
}


def made_of(streams: str, inputs_: str, body: str) -> Kernel:
    q, k, v = HEADS[streams]
    lines = [f"query q : half{q}", f"key k : half{k}", f"value v : half{v}", inputs_, body]
    text = "attention shared {\n  " + "\n  ".join(x for x in lines if x) + "\n}\n"
    source = Source("<test>", text)
    return Kernel(Spec(source, {}, load(source, {}), {}))


@pytest.mark.parametrize("name", SHARED)
def test_shared_and_captured(name: str):
    streams, captured, body = SHARED[name]
    made = made_of(streams, captured, body + "\n  return out")
    half = DTYPES["f32" if len(name) % 2 else "bf16"]
    assert not gradient_problems(made, inputs(made, SIZES, 1, half=half), half)


@pytest.mark.parametrize("name", ELEMENTS)
def test_elements(name: str):
    captured, score, rows = ELEMENTS[name]
    body = f"s = 0.25 * dot(q, k)\n  out = sum(softmax({score}) * {rows})\n  return out"
    made = made_of("groups", captured, body)
    half = DTYPES["f32" if len(name) % 2 else "f16"]
    assert not gradient_problems(made, inputs(made, SIZES, 1, half=half), half)


PACKED = """attention sequences {
  query q : half[T, Hq, D] packed(cu_q)
  key   k : half[T, Hkv, D] packed(cu_kv)
  value v : half[T, Hkv, D] packed(cu_kv)
  input cu_q  : i32[B + 1]
  input cu_kv : i32[B + 1]
  input slope : f32[Hq]
  input table : f32[Hq, 4]
  input c     : f32[Long]
  input e     : f32[Hkv, 5]
  input t     : f32
  mask = causal
  out  = sum(softmax(t * dot(q, k) + 0.1 * slope[h] * kv_idx + table[h, (q_idx - kv_idx) % 4]
      + c[kv_idx] + e[h_kv, kv_idx % 5]) * v) * e[0, q_idx % 3]
}
"""


def test_sums_over_tiles_of_packed_sequences():
    source = Source("<test>", PACKED)
    made = Kernel(Spec(source, {}, load(source, {}), {}))
    for hq, hkv, batch in ((4, 2, 3), (1, 1, 2)):
        sizes = {"B": batch, "T": 150, "Long": 160, "Hq": hq, "Hkv": hkv, "D": 16}
        tensors = inputs(made, sizes, 2, half=torch.bfloat16)
        assert not gradient_problems(made, tensors, torch.bfloat16)


@pytest.mark.parametrize("name", MORE)
def test_further_results(name: str):
    score, first, second = MORE[name]
    made = made_of("groups", "", f"{score}\n  a = {first}\n  b_ = {second}\n  return a, b_")
    for half in (torch.float32, torch.bfloat16):
        assert not gradient_problems(made, inputs(made, SIZES, 1, half=half), half)

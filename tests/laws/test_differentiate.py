"""The backward of a plan, run tile by tile from the saved rows, is autograd of the reference."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attngen.core.source import Source
from attngen.passes.differentiate import differentiate
from attngen.passes.online import online
from attngen.reference.execute import reference
from attngen.reference.generate import random_spec
from tests.laws.backward_executor import backward, forward_rows
from tests.laws.backward_programs import of_example, of_formula, of_source
from tests.laws.online_random import formula
from tests.laws.online_specs import SPECS

BLOCKS = [(19, 3), (5, 8)]


def check(program, leaves, pieces, blocks=BLOCKS):
    plan = online(program)
    back = differentiate(program, plan)
    results = dict(zip([n for n, _ in program.outputs], reference(program, leaves), strict=True))
    results = {name: results[name] for name, _ in back.seeds}
    seeds = {n: torch.where(x.isfinite(), torch.randn_like(x), 0.0) for n, x in results.items()}
    loss = sum((seeds[n] * torch.where(x.isfinite(), x, 0.0)).sum() for n, x in results.items())
    wanted = {n: x for n, x in leaves.items() if x.requires_grad}
    expected = dict.fromkeys(wanted)
    if results:
        found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        expected = dict(zip(wanted, found, strict=True))
    for block in blocks:
        found = gradients(program, plan, back, leaves, pieces, seeds, block)
        for name, x in wanted.items():
            want = torch.zeros_like(x) if expected[name] is None else expected[name]
            torch.testing.assert_close(
                found[name], want, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
            )
    return back


def gradients(program, plan, back, leaves, pieces, seeds, block):
    """Gradients of the leaves, summed over the sequences of a packed call."""
    query = next(t for t in program.tensors if t.role == "query")
    found = {n: torch.zeros_like(x) for n, x in leaves.items() if x.requires_grad}
    for data, laid in pieces:
        if not data.shape[3]:
            continue
        own = {}
        for name, x in seeds.items():
            rows = x if x.dim() == len(query.axes) else x.unsqueeze(-1)
            own[name] = laid(query.name, rows)
        grads = backward(plan, back, data, forward_rows(plan, data), own, block)
        for name in found:  # the transpose of laying out
            x = laid(name, leaves[name])
            found[name] += torch.autograd.grad(x, leaves[name], grads[name])[0]
    return found


@pytest.mark.parametrize("spec", SPECS, ids=lambda f: f.__name__)
def test_formula_of_a_variant(spec):
    torch.manual_seed(0)
    check(*of_formula(*spec()))


@pytest.mark.parametrize("seed", [*range(60), 161, 204, 230])
def test_random_formula(seed):
    check(*of_formula(*formula(seed)), blocks=BLOCKS[1:2])


EXAMPLES = {
    "flash": {}, "gemma2": {"window": 7, "cap": 2.0}, "alibi_documents": {}, "prefix_lm": {},
    "sinks_gated": {"window": 5}, "relative_bias": {"buckets": 4}, "forgetting": {},
    "sigmoid": {}, "differential": {}, "parallax": {}, "mla": {}, "varlen": {},
    "dropout": {"rate": 0.3},
}  # fmt: skip
SIZES = {"B": 2, "H": 2, "Hq": 4, "Hkv": 2, "S": 19, "Sq": 13, "Skv": 19, "T": 23, "D": 8, "Dv": 6}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name):
    torch.manual_seed(0)
    check(*of_example(name, SIZES, EXAMPLES[name]), blocks=BLOCKS)


SMALL = {"B": 2, "H": 2, "Hq": 4, "Hkv": 2, "S": 17, "Sq": 9, "Skv": 17, "T": 19, "D": 4, "Dv": 3}


@pytest.mark.parametrize("seed", range(30))
def test_random_spec(seed):
    torch.manual_seed(seed)
    spec = random_spec(seed)
    check(*of_source(Source("random.attn", spec.text), SMALL), blocks=BLOCKS[1:2])


WRITTEN = {
    "a row of its own and a gate per head": """
        input w : f32[B, H, Sq, D]
        input gate_by_head : f32[B, H]
        u = dot(q * w, k)
        out = sum(softmax(u * rsqrt(D)) * v) * gate_by_head[b, h] * w
    """,
    "one buffer read at four places": """
        input c : f32[B, S]
        input t : f32[9]
        pair = t[q_idx % 9] + t[(kv_idx - q_idx) % 9]
        s = dot(q, k) * rsqrt(D) + c[b, q_idx] * c[b, kv_idx] + pair
        mask = causal
        out = sum(softmax(s) * c[b, kv_idx] * v)
        lse = logsumexp(s)
        return out, lse
    """,
    "head tables by key head and by arithmetic": """
        input a : f32[2]
        input e : f32[3]
        s = dot(q, k) * a[h_kv] + e[h % 3] * kv_idx * 0.1
        out = sum(softmax(s) * v) * e[h // 2]
    """,
    "run-time scalars and every function": """
        input tau : f32
        input x : f32[B, H, S]
        s = softcap(dot(q, k), tau) + softplus(x[b, h, kv_idx]) * silu(x[b, h, q_idx])
        p = softmax(s)
        n = sum(p * sin(x[b, h, kv_idx]) * abs(x[b, h, kv_idx]))
        m = sum(p * sqrt(1 + x[b, h, kv_idx] * x[b, h, kv_idx]))
        out = sum(p * v) * tanh(n) / m + sum(p * cos(x[b, h, kv_idx]) * v) * rsqrt(m) * 2 ** n
    """,
    "means, values and both of top lists": """
        s = dot(q, k) * rsqrt(D)
        best, at = topk(s, 3)
        peak = max(-s)
        out = sum(softmax(s) * v) + sum(where(s > 0.1, s, 0.5 * s) * v) / kv_len
        return out, best, at, peak
    """,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_written_spec(name):
    torch.manual_seed(0)
    queries, keys = ("Sq", "Skv") if "Sq" in WRITTEN[name] else ("S", "S")
    streams = f"""
        query q : half[B, H, {queries}, D]
        key k : half[B, H, {keys}, D]
        value v : half[B, H, {keys}, D]
    """
    source = Source("written.attn", f"attention written {{ {streams} {WRITTEN[name]} }}")
    check(*of_source(source, SMALL), blocks=BLOCKS[1:2])


def test_a_backward_is_the_same_in_every_run_of_the_pass():
    """Every order follows from the plan: fresh interpreters with other hash seeds agree."""
    script = (
        "import tests.laws.online_specs as s, tests.laws.online_formulas as f\n"
        "from attngen.passes.differentiate import differentiate as d\n"
        "from attngen.passes.differentiate_text import describe_backward as t\n"
        "from attngen.passes.online import online as o\n"
        "for spec in s.SPECS:\n"
        "    a = f.attention(*spec()[:2])\n"
        "    print(chr(10).join(t(d(a, o(a)))))\n"
    )
    found = set()
    for hash_seed in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(run.stdout)
    assert len(found) == 1

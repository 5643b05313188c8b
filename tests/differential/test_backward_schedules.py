"""Backward schedules that are not the default: the same gradients, by the same rule."""

import re
from dataclasses import replace

import pytest
import torch

from attngen.core.source import Source
from attngen.frontend import load
from attngen.runtime.cache import Cache
from attngen.runtime.kernel import Kernel
from attngen.runtime.specialise import Spec
from attngen.schedule import backward as schedules
from tests.differential.gradients import gradient_problems, kernel_gradients
from tests.differential.harness import DTYPES, example, inputs

pytestmark = pytest.mark.interpreter

SLOPE = """attention sloped {
  query q : half[B, H, Sq, D]
  key   k : half[B, H, Skv, D]
  value v : half[B, H, Skv, D]
  input slope : f32[H]
  score = dot(q, k) * rsqrt(D) + slope[h] * (kv_idx - q_pos)
  mask  = kv_idx <= q_pos
}
"""
DOCUMENTS = """attention documents {
  query q : half[B, H, Sq, D]
  key   k : half[B, H, Sq, D]
  value v : half[B, H, Sq, D]
  input doc : i32[B, Sq] sorted
  mask  = (doc[b, q_idx] == doc[b, kv_idx]) and kv_idx <= q_idx
  score = dot(q, k) * rsqrt(D)
}
"""
CHANGES = {
    "joined": lambda s: replace(s, joined=True),
    "float positions": lambda s: replace(s, float_positions=True, joined=True),
    "one loop over queries": lambda s: replace(s, keys=replace(s.keys, loops="single")),
    "tall tiles of keys": lambda s: replace(s, keys=replace(s.keys, block_k=128, warps=8)),
}


def made_with(text, change, monkeypatch, folder):
    """A kernel whose backward has the changed schedule, with a cache of its own."""
    chosen = schedules.choose_backward
    square = {"block_q": 64, "block_k": 64, "warps": 4}

    def choose(program, target):
        found = chosen(program, target)
        found = replace(
            found, queries=replace(found.queries, **square), keys=replace(found.keys, **square)
        )
        return CHANGES[change](found)

    monkeypatch.setattr(schedules, "choose_backward", choose)
    source = Source("<test>", text)
    return Kernel(Spec(source, {}, load(source, {}), {}), cache=Cache(folder))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["flash", "sloped", "gemma2", "documents"])
def test_gradients(name, change, monkeypatch, tmp_path):
    text = {"sloped": SLOPE, "documents": DOCUMENTS}.get(name) or example(name)
    made = made_with(text, change, monkeypatch, tmp_path)
    for half in ("f16", "f32"):
        sizes = {"B": 2, "H": 2, "Hq": 4, "Hkv": 2, "Sq": 70, "Skv": 131, "D": 16, "Dv": 16}
        tensors = inputs(made, sizes, 3, half=DTYPES[half])
        if name == "sloped":  # 128 keys times a slope of 1/2, in log2 units, are 92: exponents of
            tensors["slope"] = torch.tensor([0.125, 0.015625])  # that size cost float32 5e-6
        assert not gradient_problems(made, tensors, DTYPES[half])
    kernels = {k.name for x in made._trained.values() for k in x.backward.kernels}
    together = change in ("joined", "float positions") and name != "gemma2"  # grouped heads: apart
    assert any(n.endswith("_tiles") for n in kernels) is together


SIZES = {"B": 2, "H": 2, "Sq": 70, "Skv": 200, "D": 16}
UNBOUNDED = """attention blocks {
  query q : half[B, H, Sq, D]
  key   k : half[B, H, Skv, D]
  value v : half[B, H, Skv, D]
  input bias : f32[B, H, Sq, Skv]
  input wanted : i32[Skv]
  mask  = wanted[kv_idx] == 1
  score = dot(q, k) * rsqrt(D) + bias[b, h, q_idx, kv_idx]
}
"""


def test_empty_tiles_are_skipped(monkeypatch, tmp_path):
    """A mask without bounds: tiles of keys that nobody wants are left out, and nothing changes."""
    monkeypatch.setitem(CHANGES, "skip", lambda s: replace(s, skip_empty=True))
    monkeypatch.setitem(CHANGES, "all", lambda s: s)
    with monkeypatch.context() as patch:
        every = made_with(UNBOUNDED, "all", patch, tmp_path / "all")
        tensors = inputs(every, SIZES, 3, half=torch.float32)
        tensors["wanted"] = kept(130, 150)
        whole, _ = kernel_gradients(every, tensors)
    made = made_with(UNBOUNDED, "skip", monkeypatch, tmp_path / "skip")
    skipped, _ = kernel_gradients(made, tensors)
    assert all(torch.equal(x, y) for x, y in zip(whole, skipped, strict=True))
    for wanted in (kept(130, 150), kept(0, 0), kept(60, 70)):
        assert not gradient_problems(made, {**tensors, "wanted": wanted}, torch.float32)
    (source, *_) = {x.backward.source for x in made._trained.values()}
    assert len(re.findall(r"^        if .*_any_kept\(", source, re.M)) == 2  # in both loops


def kept(start: int, stop: int) -> torch.Tensor:
    """Which keys are wanted; tiles hold 64."""
    return ((torch.arange(200) >= start) & (torch.arange(200) < stop)).int()

from pathlib import Path

import pytest
import torch

from attngen.core.source import Source
from attngen.frontend import load
from attngen.reference.execute import reference
from attngen.reference.inputs import fill_sizes, make_inputs

EXAMPLES = Path(__file__).parents[3] / "examples"


def program(name):
    return load(Source(name, (EXAMPLES / f"{name}.attn").read_text()))


def spec(text):
    return load(Source("spec", f"attention spec {{\n{HEAD}{text}\n}}"))


HEAD = """
  query q : half[B, H, S, D]
  key k : half[B, H, S, D]
  value v : half[B, H, S, D]
"""


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.attn")), ids=lambda p: p.stem)
def test_every_declared_tensor_is_made_and_repeats(path):
    p = program(path.stem)
    one, two, other = (make_inputs(p, {"S": 48}, seed) for seed in (3, 3, 4))
    assert set(one) == {t.name for t in p.tensors if t.view is None}
    for t in p.tensors:
        if t.view is not None or t.is_scalar:
            continue
        assert one[t.name].dim() == len(t.axes)
        assert torch.equal(one[t.name].float(), two[t.name].float())
    assert not torch.equal(one[p.tensors[0].name], other[p.tensors[0].name])


def test_names_alike_agree_and_given_sizes_win():
    sizes = fill_sizes(program("gemma2"), {"Sq": 7, "D": 96})
    assert sizes["Sq"] == sizes["Skv"] == 7 and sizes["D"] == 96
    t = make_inputs(program("gemma2"), {"Sq": 7, "Skv": 9, "Hq": 6, "Hkv": 3})
    assert t["q"].shape[1:3] == (7, 6) and t["k"].shape[1:3] == (9, 3)


def test_sorted_ids_ascend():
    doc = make_inputs(program("alibi_documents"), {"S": 200})["doc"]
    assert (doc.diff(dim=1) >= 0).all() and doc.max() > 2


def test_boundaries_and_pages():
    t = make_inputs(program("varlen"), {"T": 60, "B": 5})
    for name in ("cu_q", "cu_kv"):
        cu = t[name]
        assert cu.shape == (6,) and cu[0] == 0 and cu[-1] == 60 and (cu.diff() >= 0).all()
    t = make_inputs(program("decode_paged_fp8"), {"Sq": 3})
    table, lengths = t["table"], t["kv_lens"]
    assert table.unique().numel() == table.numel() and table.max() < t["k"].shape[0]
    assert (lengths >= 3).all() and (lengths <= table.shape[1] * 64).all()
    assert (t["k_scale"] > 0).all() and t["k"].dtype == torch.float8_e4m3fn


def test_block_lists_are_valid():
    t = make_inputs(program("block_list"), {"S": 600})
    index, count = t["index"], t["count"]
    assert index.shape[-2:] == (5, 5)
    assert (index.diff(dim=-1) > 0).all() and index.min() >= 0 and index.max() < 5
    assert count.min() >= 1 and count.max() <= 5


def test_integers_fit_their_use():
    p = spec(
        "input near : i32\n input low : i32[B, S]\n input seed : i64\n input pick : i32[B, S]\n"
        "input table : f32[H, 9]\n input kind : i32[B, S]\n"
        "score = dot(q, k) + table[h, pick[b, kv_idx]] + uniform(seed)\n"
        "mask = q_idx - kv_idx < near and low[b, q_idx] <= kv_idx"
        " and kind[b, q_idx] == kind[b, kv_idx]"
    )
    t = make_inputs(p, {"S": 100, "H": 2})
    assert 1 <= t["near"] <= 100 and t["seed"] > 3
    assert t["low"].max() > 20 and t["low"].min() >= 1
    assert t["pick"].max() <= 8 and t["pick"].min() >= 0
    assert t["kind"].max() <= 3


def test_permuted_keeps_values_and_unit_features():
    plain = make_inputs(program("flash"))
    other = make_inputs(program("flash"), permuted=True)
    assert torch.equal(plain["q"], other["q"])
    assert other["q"].stride() != plain["q"].stride() and other["q"].stride(-1) == 1


def test_distributions_and_half():
    def make(distribution):
        tensors = make_inputs(program("flash"), half=torch.float16, distribution=distribution)
        return tensors["k"].float()

    assert make("normal").std() < 1.1 < 2.5 < make("peaky").std()
    assert torch.equal(make("integers"), make("integers").round()) and make("integers").any()
    assert make_inputs(program("flash"), half=torch.float16)["q"].dtype == torch.float16


@pytest.mark.parametrize("name", ["gated_delta_net", "kda", "gla", "lightning", "mamba2"])
def test_states_do_not_grow(name):
    p = program(name)
    for x in reference(p, make_inputs(p, {"S": 300, "Dk": 16, "Dv": 16}, states=True)):
        assert torch.isfinite(x).all() and x.abs().max() < 1e3

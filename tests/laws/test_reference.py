"""The reference against formulas written out by hand in plain torch: values and gradients."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from attngen.core.source import Source
from attngen.frontend import load
from attngen.ir.recurrence import Recurrence
from attngen.reference.execute import keep_mask, matched, reference
from attngen.reference.inputs import make_inputs

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZES = {"S": 40, "Sq": 24, "Skv": 40, "T": 50, "K": 20, "D": 16, "Dv": 24, "Dk": 16}


def example(name, sizes=None, seed=0, half=torch.float64, **options):
    """Program and float64 leaves."""
    path = EXAMPLES / f"{name}.attn"
    program = load(Source(path.name, path.read_text()), options.pop("params", {}))
    tensors = make_inputs(program, {**SIZES, **(sizes or {})}, seed, half=half, **options)
    leaves = {
        n: x.double().requires_grad_() if torch.is_tensor(x) and x.is_floating_point() else x
        for n, x in tensors.items()
    }
    return program, leaves


def wide(x, heads, axis=1):
    """Grouped heads repeated."""
    return x.repeat_interleave(heads // x.shape[axis], axis)


def causal(sq, sk):
    return torch.ones(sq, sk, dtype=torch.bool).tril(sk - sq)


def scores(q, k):
    return q @ wide(k, q.shape[1]).mT / math.sqrt(q.shape[-1])


def attend(s, v, mask):
    return s.masked_fill(~mask, -math.inf).softmax(-1) @ wide(v, s.shape[1])


def flash(t):
    s = scores(t["q"], t["k"]).masked_fill(~causal(24, 40), -math.inf)
    return s.softmax(-1) @ t["v"], s.logsumexp(-1)


def gemma2(t):
    q, k, v = (t[n].transpose(1, 2) for n in "qkv")
    mask = causal(24, 40) & ~causal(24, 40).tril(16 - 9)
    out = attend(20 * torch.tanh(scores(q, k) / 20), v, mask)
    return (out.transpose(1, 2),)


def alibi_documents(t):
    i = torch.arange(40)
    same = (t["doc"][:, :, None] == t["doc"][:, None, :])[:, None]
    s = scores(t["q"], t["k"]) + t["slope"].view(1, -1, 1, 1) * (i[None, :] - i[:, None])
    return (attend(s, t["v"], causal(40, 40) & same),)


def sinks_gated(t):
    mask = causal(24, 40) & ~causal(24, 40).tril(16 - 9)
    s = scores(t["q"], t["k"]).masked_fill(~mask, -math.inf)
    sink = t["sink"].view(1, -1, 1, 1).expand(*s.shape[:3], 1)
    p = torch.cat([s, sink], -1).softmax(-1)[..., :-1]
    return (p @ wide(t["v"], 4) * torch.sigmoid(t["g"]),)


def relative_bias(t):
    i = torch.arange(40)
    offset = (i[None, :] - i[:, None]).clamp(-64, 64) + 64
    return ((scores(t["q"], t["k"]) + t["table"][:, offset] + t["bias"]).softmax(-1) @ t["v"],)


def forgetting(t):
    s = scores(t["q"], t["k"]) + t["cum"][..., :, None] - t["cum"][..., None, :]
    return (attend(s, t["v"], causal(40, 40)),)


def differential(t):
    mask = causal(40, 40)
    one = attend(scores(t["q1"], t["k1"]), t["v"], mask)
    two = attend(scores(t["q2"], t["k2"]), t["v"], mask)
    return (one - t["lam"].view(1, -1, 1, 1) * two,)


def parallax(t):
    p = scores(t["q"], t["k"]).masked_fill(~causal(24, 40), -math.inf).softmax(-1)
    u = t["r"] @ wide(t["k"], 4).mT
    return ((p * (1 + (p * u).sum(-1, keepdim=True) - u)) @ wide(t["v"], 4),)


def mla(t):
    k = wide(t["k"], 4)
    return (
        F.scaled_dot_product_attention(
            t["q"], k, k[..., :512], attn_mask=causal(24, 40), scale=192**-0.5
        ),
    )


def sigmoid(t):
    p = torch.sigmoid(scores(t["q"], t["k"]) - math.log(40)) * causal(40, 40)
    return (p @ t["v"],)


def prefix_lm(t):
    prefix = torch.arange(40)[None, None, None, :] < t["prefix"].view(-1, 1, 1, 1)
    return (attend(scores(t["q"], t["k"]), t["v"], causal(40, 40) | prefix),)


def varlen(t):
    out = []
    for b in range(len(t["cu_q"]) - 1):
        rows, cols = (slice(*t[c][b : b + 2].tolist()) for c in ("cu_q", "cu_kv"))
        q, k, v = (
            t[n][p].transpose(0, 1)[None] for n, p in (("q", rows), ("k", cols), ("v", cols))
        )
        mask = causal(q.shape[2], k.shape[2])
        s = scores(q, k).masked_fill(~mask, -1e300)
        p = s.softmax(-1) * mask.any(-1, keepdim=True)
        out.append((p @ wide(v, 4))[0].transpose(0, 1))
    return (torch.cat(out),)


def decode_paged_fp8(t):
    out = []
    for b, length in enumerate(t["kv_lens"].tolist()):
        pages = t["table"][b].long()
        k, v = (
            (t[n][pages] * t[f"{n}_scale"][pages][..., None]).flatten(0, 1)[:length] for n in "kv"
        )
        k, v = (x.transpose(0, 1)[None] for x in (k, v))
        mask = causal(t["q"].shape[2], length)
        out.append(attend(scores(t["q"][b : b + 1], k), v, mask))
    return (torch.cat(out),)


def block_list(t):
    mask = torch.zeros(2, 4, 40, 40, dtype=torch.bool)
    for b in range(2):
        for h in range(4):
            if t["count"][b, h, 0] > 0:
                mask[b, h] = causal(40, 40)
    return (attend(scores(t["q"], t["k"]), t["v"], mask),)


ORACLES = {
    oracle.__name__: oracle
    for oracle in (
        *(flash, gemma2, alibi_documents, sinks_gated, relative_bias, forgetting, differential),
        *(parallax, mla, sigmoid, prefix_lm, varlen, decode_paged_fp8, block_list),
    )
}
PARAMS = {"gemma2": {"window": 9, "cap": 20.0}, "sinks_gated": {"window": 9}}


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_values_and_gradients(name):
    program, leaves = example(name, params=PARAMS.get(name, {}))
    got = reference(program, leaves)
    want = ORACLES[name](leaves)
    torch.manual_seed(0)
    adjoints = [torch.randn_like(x) for x in want]
    for x, y in zip(got, want, strict=True):
        torch.testing.assert_close(x, y, atol=1e-11, rtol=1e-9)
    wrt = [x for x in leaves.values() if torch.is_tensor(x) and x.requires_grad]
    mine = torch.autograd.grad(got, wrt, adjoints)
    theirs = torch.autograd.grad(want, wrt, adjoints)
    for x, y in zip(mine, theirs, strict=True):
        torch.testing.assert_close(x, y, atol=1e-10, rtol=1e-8)


def distances(t, x, y):
    return t["x_norm"][:, None] + t["y_norm"][None] - 2 * t[x] @ t[y].T


def test_knn():
    program, t = example("knn", {"N": 30})
    d, index = reference(program, t)
    want = distances(t, "x", "y").sort(1)
    torch.testing.assert_close(d, want.values[:, :10])
    assert torch.equal(index, want.indices[:, :10])


def test_knn_with_fewer_keys_than_neighbours():
    program, t = example("knn", {"N": 7})
    d, index = reference(program, t)
    assert torch.equal(index[:, :7].sort(1).values, torch.arange(7).expand(40, 7))
    assert (index[:, 7:] == -1).all() and (d[:, 7:] == math.inf).all()


def test_kmeans():
    program, t = example("kmeans_assign")
    want = (t["c_norm"][None] - 2 * t["x"] @ t["c"].T).argmin(1)
    assert torch.equal(reference(program, t)[0], want)


def test_ties_take_the_lowest_index():
    program, t = example("kmeans_assign")
    t["c"] = torch.zeros_like(t["c"])
    t["c_norm"] = torch.tensor([3.0, 1.0, 2.0, 1.0] * 5)
    assert (reference(program, t)[0] == 1).all()


def test_boruvka():
    program, t = example("boruvka")
    t["comp"][:] = torch.tensor([0, 1] * 20)
    d2 = t["norm"][:, None] + t["norm"][None] - 2 * t["x"] @ t["y"].T
    reach = torch.maximum(d2, torch.maximum(t["core"][:, None], t["core"][None]))
    reach = reach.masked_fill(t["comp"][:, None] == t["comp"][None], math.inf)
    got, index = reference(program, t)
    torch.testing.assert_close(got, reach.min(1).values)
    assert torch.equal(index, reach.argmin(1))
    t["comp"][:] = 0
    got, index = reference(program, t)
    assert (got == math.inf).all() and (index == -1).all()


def delta(t, decay, length):
    """(I - beta k k^T) exp(decay) M + beta k v^T, step by step."""
    q, k, v = (wide(t[n], 4, 2) for n in "qkv")
    state, rows = torch.zeros(2, 4, 16, 24, dtype=torch.float64), []
    for i in range(length):
        state = decay(i) * state
        gap = v[:, i] - torch.einsum("bhk,bhkv->bhv", k[:, i], state)
        write = gap * t["beta"][:, i, :, None] if "beta" in t else v[:, i]
        state = state + k[:, i, :, :, None] * write[:, :, None, :]
        rows.append(torch.einsum("bhk,bhkv->bhv", q[:, i], state) / 4)
    return torch.stack(rows, 1), state


def test_gated_delta_net():
    program, t = example("gated_delta_net", {"Hq": 2, "S": 12})
    out, state = reference(program, t)
    want = delta(t, lambda i: t["g"][:, i, :, None, None].exp(), 12)
    torch.testing.assert_close(out, want[0])
    torch.testing.assert_close(state, want[1])


def test_state_hand_off():
    """Two halves with the state passed on are the whole."""
    program, t = example("kda", {"S": 12, "H": 4})
    out, state = reference(program, t)
    first = {n: x[:, :5] for n, x in t.items()}
    second = {n: x[:, 5:] for n, x in t.items()}
    out_1, between = reference(program, first)
    out_2, last = reference(program, {**second, "M": between})
    torch.testing.assert_close(torch.cat([out_1, out_2], 1), out)
    torch.testing.assert_close(last, state)
    want = delta(t, lambda i: t["g"][:, i, :, :, None].exp(), 12)
    torch.testing.assert_close(out, want[0])


def test_lightning_is_masked_linear_attention():
    program, t = example("lightning", {"S": 30})
    (out,) = reference(program, t)
    i = torch.arange(30)
    fade = torch.exp(-t["decay"][:, None, None] * (i[:, None] - i[None]).clamp(min=0)).tril()
    q, k, v = (t[n].transpose(1, 2) for n in "qkv")
    want = (q @ k.mT * fade / 4) @ v
    torch.testing.assert_close(out, want.transpose(1, 2))


def test_mamba2_and_gla_and_gram():
    program, t = example("mamba2", {"S": 20, "N": 8, "P": 6})
    (out,) = reference(program, t)
    c, bb = (wide(t[n], 4, 2).transpose(1, 2) for n in ("c", "bb"))
    x = t["x"].transpose(1, 2)
    log_decay = (-t["a"].exp() * t["dt"]).transpose(1, 2).cumsum(2)
    fade = (log_decay[..., :, None] - log_decay[..., None, :]).exp().tril()
    write = x * t["dt"].transpose(1, 2)[..., None]
    want = (c @ bb.mT * fade) @ write + t["skip"][:, None, None] * x
    torch.testing.assert_close(out, want.transpose(1, 2))
    program, t = example("gram", {"S": 20, "D": 6})
    torch.testing.assert_close(reference(program, t)[0], t["x"].T @ t["x"])
    program, t = example("gla", {"S": 20})
    t["g"] = t["g"][..., :1].expand_as(t["g"])
    total = t["g"][..., 0].transpose(1, 2).cumsum(2)
    fade = (total[..., :, None] - total[..., None, :]).exp().tril()
    q, k, v = (t[n].transpose(1, 2) for n in "qkv")
    torch.testing.assert_close(
        reference(program, t)[0], ((q @ k.mT * fade / 4) @ v).transpose(1, 2)
    )


def test_recurrences_are_differentiable():
    program, t = example("gated_delta_net", {"S": 5, "Dk": 3, "Dv": 2, "B": 1})
    names = list(t)

    def run(*tensors):
        return reference(program, dict(zip(names, tensors, strict=True)))

    assert torch.autograd.gradcheck(run, tuple(t.values()))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.attn")), ids=lambda p: p.stem)
@pytest.mark.parametrize("distribution", ["normal", "peaky", "integers"])
def test_every_example_runs_and_its_baseline_is_near(path, distribution):
    program, t = example(path.stem, half=torch.bfloat16, distribution=distribution, permuted=True)
    t = {n: x.detach() if torch.is_tensor(x) else x for n, x in t.items()}
    golden, base = reference(program, t), matched(program, t, torch.bfloat16)
    for want, got in zip(golden, base, strict=True):
        assert got.shape == want.shape
        if want.is_floating_point():
            plain = torch.isfinite(want)
            assert torch.equal(plain, torch.isfinite(got))
            assert (got.double() - want)[plain].abs().max() <= 0.05 * (1 + want[plain].abs().max())


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_masked_key_never_matters(poison):
    program, t = example("flash", {"Sq": 40})
    clean = {n: x.detach().clone().requires_grad_() for n, x in t.items()}
    bad = {n: x.detach().clone() for n, x in t.items()}
    for n in "kv":
        bad[n][:, :, 30:] = poison
    bad = {n: x.requires_grad_() for n, x in bad.items()}
    for x, y in zip(reference(program, clean), reference(program, bad), strict=True):
        torch.testing.assert_close(x[:, :, :30], y[:, :, :30])
        assert not torch.isfinite(y[:, :, 30:]).any() or poison == math.inf
    grads = [
        torch.autograd.grad(reference(program, x)[0][:, :, :30].sum(), list(x.values()))
        for x in (clean, bad)
    ]
    for x, y in zip(*grads, strict=True):
        torch.testing.assert_close(y, x)


def test_rows_without_keys():
    program, t = example("flash", {"Sq": 40, "Skv": 24})
    out, lse = reference(program, t)
    assert (out[:, :, :16] == 0).all() and (lse[:, :, :16] == -math.inf).all()
    grads = torch.autograd.grad(out.sum() + lse[:, :, 16:].sum(), list(t.values()))
    assert all(torch.isfinite(g).all() for g in grads)
    assert (grads[0][:, :, :16] == 0).all()


@pytest.mark.parametrize("sizes", [{"Sq": 0}, {"Skv": 0}, {"B": 0}], ids=str)
def test_nothing_to_do(sizes):
    program, t = example("flash", {**sizes})
    out, lse = reference(program, t)
    assert out.shape == (*t["q"].shape[:3], 24) and lse.shape == t["q"].shape[:3]
    assert (out == 0).all()


def test_keep_mask():
    program, t = example("flash")
    assert torch.equal(keep_mask(program, t), causal(24, 40).expand(2, 4, 24, 40))
    program, t = example("varlen")
    mask = keep_mask(program, t)
    q_len = t["cu_q"].diff().tolist()
    assert mask.shape[2] == max(q_len)
    assert not any(mask[b, :, n:].any() for b, n in enumerate(q_len))


def test_top_blocks_choose_by_mean_key():
    source = (EXAMPLES / "moba.attn").read_text()
    source = source.replace("count = 16, size = (128, 128)", "count = 3, size = (16, 16)")
    program = load(Source("moba", source.replace("local(2)", "local(1)")))
    t = make_inputs(program, {"S": 128, "B": 1, "Hq": 2, "Hkv": 1})
    mask = keep_mask(program, t)[0]
    means = t["k"].double().view(1, 8, 16, -1).mean(2)[0]
    for h in range(2):
        q_means = t["q"].double()[0, h].view(8, 16, -1).mean(1)
        for i in range(8):
            chosen = {0, i}
            for j in (q_means[i] @ means.T).argsort(descending=True).tolist():
                if len(chosen) < 3 and j <= i:
                    chosen.add(j)
            want = torch.zeros(128, dtype=torch.bool)
            for j in chosen:
                want[16 * j : 16 * j + 16] = True
            assert torch.equal(mask[h, 16 * i + 15], want & (torch.arange(128) <= 16 * i + 15))


def test_dropout_keeps_the_mean_and_follows_the_seed():
    program, t = example("dropout", {"S": 64})
    t["v"] = torch.ones_like(t["v"])
    (out,) = reference(program, t)
    assert abs(out[:, :, 32:].mean() - 1) < 0.01 and out.std() > 0.01
    assert torch.equal(out, reference(program, t)[0])
    assert not torch.equal(out, reference(program, {**t, "seed": t["seed"] + 1})[0])


def test_sizes_that_disagree_name_both():
    program, t = example("flash")
    with pytest.raises(ValueError, match=r"axis D: 17 in 'k' but 16 in 'q'"):
        reference(program, {**t, "k": torch.zeros(2, 4, 40, 17)})
    with pytest.raises(ValueError, match="missing key 'k'"):
        reference(program, {n: t[n] for n in "qv"})
    with pytest.raises(ValueError, match="k: expected half"):
        reference(program, {**t, "k": torch.zeros(4, 40, 16)})


def test_examples_cover_both_forms():
    programs = [load(Source(p.name, p.read_text())) for p in EXAMPLES.glob("*.attn")]
    assert {isinstance(p, Recurrence) for p in programs} == {True, False}

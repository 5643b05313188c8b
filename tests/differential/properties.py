"""Properties every forward kernel has, whatever its schedule: each function checks one.

They run on the device of `harness.device()`: `test_properties.py` in the interpreter, `tests/gpu`
on a GPU. Bit-equal where the same program computes the same numbers, else by the matched rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from tests.differential.harness import SMALL, call, device, example, inputs, kernel, problems

PLAIN = """attention plain {
  query q : half[B, H, Sq, D]
  key   k : half[B, H, Skv, D]
  value v : half[B, H, Skv, D]
  %s
  score = %s
  %s
  out   = sum(softmax(score) * v)
  lse   = logsumexp(score)
  return out, lse
}
"""
SCALED = "dot(q, k) * rsqrt(D)"
SIZES = {
    "B": 3,
    "H": 4,
    "Hq": 4,
    "Hkv": 2,
    "Sq": 40,
    "Skv": 40,
    "S": 40,
    "D": 32,
    "Dv": 16,
    "T": 40,
}
INF = float("inf")


def plain(inputs_: str = "", score: str = SCALED, mask: str = "mask = causal"):
    """A kernel of softmax attention with another score or mask."""
    return kernel(PLAIN % (inputs_, score, mask), **SMALL)


def streams(
    made, sizes: dict | None = None, seed: int = 1, half: torch.dtype = torch.float16, **how
):
    """Inputs of a kernel in float16."""
    return inputs(made, {**SIZES, **(sizes or {})}, seed, half=half, **how)


def equal(got, want) -> None:
    """Bit-equal, NaN included."""
    for a, b in zip(got, want, strict=True):
        assert torch.equal(torch.nan_to_num(a, 7.0), torch.nan_to_num(b, 7.0))
        assert torch.equal(torch.isnan(a), torch.isnan(b))


def close(made, tensors, got, want) -> None:
    """Right by the formula, and apart by no more than two roundings of weights (2**-10 each)."""
    assert not problems(made, tensors, torch.float16)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-3)


def permuted_batch_and_heads() -> None:
    """A batch or a head does not see the others."""
    made = plain()
    x = streams(made)
    out = call(made, x)
    order = torch.tensor([2, 0, 1], device=device())
    equal(call(made, {n: t[order] for n, t in x.items()}), [o[order] for o in out])
    heads = torch.tensor([3, 1, 0, 2], device=device())
    equal(call(made, {n: t[:, heads] for n, t in x.items()}), [o[:, heads] for o in out])
    equal(call(made, {n: t[1:2, 2:3] for n, t in x.items()}), [o[1:2, 2:3] for o in out])


def packed_is_separate() -> None:
    """Packed sequences give what each gives alone."""
    made = kernel(example("varlen"), **SMALL)
    x = streams(made, {"T": 57, "B": 4})
    cuts = torch.tensor([0, 17, 17, 40, 57], dtype=torch.int32, device=device())
    x["cu_q"] = x["cu_kv"] = cuts
    (out,) = call(made, x)
    for start, stop in ((0, 17), (17, 40), (40, 57)):
        alone = {n: t[start:stop] for n, t in x.items() if n in ("q", "k", "v")}
        ends = torch.tensor([0, stop - start], dtype=torch.int32, device=device())
        equal(call(made, {**alone, "cu_q": ends, "cu_kv": ends}), [out[start:stop]])


def linear_in_values() -> None:
    """-V gives -O and 2 V gives 2 O, bit for bit; permuted columns of V permute O."""
    made = plain()
    x = streams(made, half=torch.bfloat16)
    out, lse = call(made, x)
    equal(call(made, {**x, "v": -x["v"]}), (-out, lse))
    equal(call(made, {**x, "v": 2 * x["v"]}), (2 * out, lse))
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0)).to(device())
    equal(call(made, {**x, "v": x["v"][..., order].contiguous()}), (out[..., order], lse))


def masked_keys_do_not_matter() -> None:
    """Whole tiles of keys that no query keeps, NaN included, change nothing."""
    made = plain("input used : i32[B]", mask="mask = kv_idx < used[b]")
    x = streams(made)
    x["used"] = torch.tensor([40, 17, 3], dtype=torch.int32, device=device())
    out = call(made, x)
    poison = torch.full((3, 4, 35, 32), float("nan"), dtype=torch.float16, device=device())
    longer = {n: torch.cat([x[n], poison], 2) for n in ("k", "v")}
    equal(call(made, {**x, **longer}), out)
    for b, used in enumerate((40, 17, 3)):
        for n in ("k", "v"):
            longer[n][b, :, used:] = float("nan")
    equal(call(made, {**x, **longer}), out)


def the_future_does_not_matter() -> None:
    """Under a causal mask, other tokens after i leave the results up to i as they are."""
    for name in ("gemma2", "forgetting", "differential", "sigmoid"):
        made = kernel(example(name), **SMALL)
        x = streams(made)
        before = call(made, x)
        cut = 21
        position = {t.name: t.axis("position") for t in made.declared if t.is_stream}
        other = dict(x)
        for n, axis in position.items():
            other[n] = x[n].clone()
            other[n].narrow(axis, cut, 40 - cut).normal_()
        axis = next(iter(position.values()))
        after = call(made, other)
        equal([a.narrow(axis, 0, cut) for a in after], [b.narrow(axis, 0, cut) for b in before])


def poison_behind_a_packed_length() -> None:
    """NaN in other sequences and past the last one never reaches a sequence."""
    made = kernel(example("varlen"), **SMALL)
    x = streams(made, {"T": 50, "B": 3})
    x["cu_q"] = x["cu_kv"] = torch.tensor([0, 13, 30, 50], dtype=torch.int32, device=device())
    (out,) = call(made, x)
    spoilt = {n: x[n].clone() for n in ("q", "k", "v")}
    for t in spoilt.values():
        t[:13] = t[30:] = float("nan")
    (poisoned,) = call(made, {**x, **spoilt})
    equal([poisoned[13:30]], [out[13:30]])


def outputs_are_overwritten() -> None:
    """Every element of every result is written: `torch.empty` hands out NaN here."""
    real = torch.empty

    def poisoned(*shape, **how):
        made = real(*shape, **how)
        return made.fill_(float("nan") if made.is_floating_point() else -77)

    for name in ("flash", "gemma2", "varlen", "sinks_gated", "mla", "knn", "kmeans_assign"):
        made = kernel(example(name), **SMALL)
        x = streams(made, {"Sq": 35, "Skv": 50, "S": 35, "T": 35, "B": 2})
        want = call(made, x)
        torch.empty = poisoned
        try:
            got = call(made, x)
        finally:
            torch.empty = real
        equal(got, want)
        assert not any(bool((g == -77).any()) for g in got if not g.is_floating_point())


def grouped_is_repeated() -> None:
    """Heads that share keys give what repeated keys give."""
    text = example("gemma2")
    made = kernel(text, **SMALL)
    x = streams(made)
    grouped = call(made, x)
    repeated = {n: x[n].repeat_interleave(2, 2) for n in ("k", "v")}
    equal(call(made, {**x, **repeated}), grouped)


def causal_three_ways() -> None:
    """Causal is a window without end, one document, and the same mask written over scores."""
    made = plain()
    x = streams(made)
    out = call(made, x)
    window = plain("input near : i32", mask="mask = causal and q_pos - kv_idx < near")
    equal(call(window, {**x, "near": 2**31 - 1}), out)
    equal(call(window, {**x, "near": 40}), out)
    text = PLAIN % (
        "input doc : i32[B, S] sorted",
        SCALED,
        "mask = causal and doc[b, q_idx] == doc[b, kv_idx]",
    )
    documents = kernel(text.replace("Sq", "S").replace("Skv", "S"), **SMALL)
    one = torch.zeros(3, 40, dtype=torch.int32, device=device())
    equal(call(documents, {**x, "doc": one}), out)
    written = plain(score=f"where(kv_idx <= q_pos, {SCALED}, -inf)", mask="")
    close(made, x, call(written, x), out)


def shifted_scores() -> None:
    """score + c leaves the output and adds c to lse."""
    made = plain()
    x = streams(made)
    out, lse = call(made, x)
    moved = plain("input c : f32", score=f"{SCALED} + c")
    got, got_lse = call(moved, {**x, "c": 3.0})
    close(made, x, (got, got_lse - 3.0), (out, lse))


def constant_values() -> None:
    """Constant V gives V; every result lies between the least and the greatest value."""
    made = plain(mask="")
    x = streams(made)
    out, _ = call(made, {**x, "v": torch.full_like(x["v"], 0.75)})
    assert torch.allclose(out.float(), torch.full_like(out, 0.75).float(), atol=2**-10)
    out, _ = call(made, x)
    low, high = (f(x["v"].float(), 2).unsqueeze(2) for f in (torch.amin, torch.amax))
    slack = 2**-9 * torch.maximum(low.abs(), high.abs())
    assert bool(((out.float() >= low - slack) & (out.float() <= high + slack)).all())


def empty_rows() -> None:
    """A row without keys gives 0 and -inf; with a sink 0 and the sink's value."""
    made = plain("input low : i32[B, Sq]", mask="mask = low[b, q_idx] <= kv_idx")
    x = streams(made)
    x["low"] = (
        torch.where(torch.arange(40) % 3 == 0, 99, 5).int().expand(3, 40).contiguous().to(device())
    )
    out, lse = call(made, x)
    assert bool((out[:, :, ::3] == 0).all()) and bool((lse[:, :, ::3] == -INF).all())
    assert not problems(made, x, torch.float16)
    text = PLAIN % (
        "input low : i32[B, Sq]\n  input sink : f32[H]",
        SCALED,
        "mask = low[b, q_idx] <= kv_idx",
    )
    text = text.replace("softmax(score)", "softmax(score, sink = sink[h])")
    text = text.replace("logsumexp(score)", "logsumexp(score, sink = sink[h])")
    sunk = kernel(text, **SMALL)
    y = {**x, "sink": torch.tensor([0.5, -2.0, 0.0, 3.0], device=device())}
    out, lse = call(sunk, y)
    assert bool((out[:, :, ::3] == 0).all())
    assert torch.allclose(lse[:, :, ::3], y["sink"][None, :, None].expand(3, 4, 14), atol=1e-5)
    assert not problems(sunk, y, torch.float16)


def nan_stays_in_its_rows() -> None:
    """NaN in a key reaches the rows that keep it, no other."""
    made = plain()
    x = streams(made)
    out, lse = call(made, x)
    spoilt = x["k"].clone()
    spoilt[:, :, 25] = float("nan")
    got, got_lse = call(made, {**x, "k": spoilt})
    equal((got[:, :, :25], got_lse[:, :, :25]), (out[:, :, :25], lse[:, :, :25]))
    assert bool(got[:, :, 25:].isnan().all()) and bool(got_lse[:, :, 25:].isnan().all())


def infinite_scores() -> None:
    """+inf among the scores gives NaN, as in PyTorch; -inf drops the key."""
    made = plain("input bias : f32[B, Skv]", score=f"{SCALED} + bias[b, kv_idx]", mask="")
    x = streams(made)
    x["bias"] = torch.zeros(3, 40, device=device())
    want = call(
        made,
        {
            n: t[:, :, :39].contiguous()
            if n in ("k", "v")
            else t[:, :39].contiguous()
            if n == "bias"
            else t
            for n, t in x.items()
        },
    )
    x["bias"][:, 39] = -INF
    close(made, x, call(made, x), want)
    x["bias"][1, 3] = INF
    out, _ = call(made, x)
    assert bool(out[1].isnan().all()) and not bool(out[0].isnan().any())


def two_runs() -> None:
    """The same call twice gives the same bits."""
    for name in ("flash", "parallax", "dropout", "alibi_documents", "knn"):
        made = kernel(example(name), **SMALL)
        x = streams(made)
        first = call(made, x)
        for _ in range(20 if device() == "cuda" else 1):
            equal(call(made, x), first)


def decode_is_the_last_row() -> None:
    """One query against all keys gives the last row of the whole."""
    made = plain()
    x = streams(made, {"Sq": 300, "Skv": 300, "B": 1, "H": 2})
    out, lse = call(made, x)
    one = {**x, "q": x["q"][:, :, -1:].contiguous()}
    close(made, one, call(made, one), (out[:, :, -1:], lse[:, :, -1:]))


def merged_halves() -> None:
    """Two halves of the keys merged by their lse give the whole."""
    made = plain(mask="")
    x = streams(made, half=torch.float32)
    out, lse = call(made, x)
    parts = [
        call(made, {**x, **{n: x[n][:, :, a:b].contiguous() for n in ("k", "v")}})
        for a, b in ((0, 13), (13, 40))
    ]
    weights = [torch.exp(part - lse).unsqueeze(-1) for _, part in parts]
    merged = sum(w * o for w, (o, _) in zip(weights, parts, strict=True))
    assert torch.allclose(merged, out, atol=2e-6, rtol=1e-5)


def all_properties() -> Iterator[Callable[[], None]]:
    """Every check above, in order."""
    helpers = {plain, streams, equal, close, all_properties}
    for value in list(globals().values()):
        own = getattr(value, "__module__", "") == __name__
        if own and callable(value) and value not in helpers:
            yield value

"""A tiled flash-attention forward in torch with fifteen bugs to switch on: a test piece."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MUTANTS = (
    "causal plus one",
    "causal minus one",
    "window plus one",
    "last tile dropped",
    "padding unmasked",
    "scale plus 1 %",
    "scale plus 0.1 %",
    "heads mapped wrongly",
    "no rescale",
    "one missed rescale",
    "weights in e5m2",
    "one wrong row",
    "one wrong element",
    "0.4 % shrink at store",
    "stale corner",
)


def flash_model(q, k, v, window: int, tile: int = 64, bug: str = "") -> tuple[Tensor, Tensor]:
    """Causal, windowed, grouped heads; [H, M, D] and [Hkv, N, D] in the dtype they arrive in.

    All queries at once, keys in tiles, base-2 exponentials, weights rounded to the input dtype
    before they meet the values, float32 accumulator, one rounding at the end.
    """
    heads, m, d = q.shape
    group = torch.arange(heads) * k.shape[0] // heads
    if bug == "heads mapped wrongly":
        group = torch.arange(heads) % k.shape[0]
    n = k.shape[1]
    tiles = -(-n // tile)
    pad = (0, 0, 0, tiles * tile - n)
    keys, values = (torch.nn.functional.pad(x[group], pad).float() for x in (k, v))
    scale = d**-0.5 * {"scale plus 1 %": 1.01, "scale plus 0.1 %": 1.001}.get(bug, 1.0)
    top = torch.full((heads, m, 1), -math.inf)
    total = torch.zeros(heads, m, 1)
    out = torch.zeros(heads, m, d)
    q_idx = torch.arange(m)[:, None] + n - m
    for number in range(tiles - (bug == "last tile dropped")):
        kv_idx = torch.arange(number * tile, (number + 1) * tile)[None, :]
        part = slice(number * tile, (number + 1) * tile)
        scores = q.float() @ keys[:, part].mT * (scale * math.log2(math.e))
        scores = scores.masked_fill(~_keep(q_idx, kv_idx, n, window, bug), -math.inf)
        higher = torch.maximum(top, scores.amax(-1, keepdim=True))
        safe = higher.masked_fill(higher == -math.inf, 0.0)
        weights = torch.exp2(scores - safe)
        rescale = torch.exp2(top - safe)
        missed = bug == "no rescale" or (bug == "one missed rescale" and number == tiles // 2)
        total = total * rescale + weights.sum(-1, keepdim=True)
        narrow = torch.float8_e5m2 if bug == "weights in e5m2" else q.dtype
        out = out * (1.0 if missed else rescale) + weights.to(narrow).float() @ values[:, part]
        top = higher
    lse = (top + torch.log2(total)) * math.log(2)
    out = out / total.masked_fill(total == 0, 1.0)
    return _store(out, q.dtype, bug), lse.squeeze(-1)


def _keep(q_idx: Tensor, kv_idx: Tensor, n: int, window: int, bug: str) -> Tensor:
    shift = {"causal plus one": 1, "causal minus one": -1}.get(bug, 0)
    wide = window + (bug == "window plus one")
    keep = (kv_idx <= q_idx + shift) & (q_idx - kv_idx < wide)
    return keep | (kv_idx >= n) if bug == "padding unmasked" else keep & (kv_idx < n)


def _store(out: Tensor, dtype: torch.dtype, bug: str) -> Tensor:
    if bug == "0.4 % shrink at store":
        out = out * 0.996
    stored = out.to(dtype)
    if bug == "one wrong row":
        stored[1, 333] = stored[1, 334]
    if bug == "one wrong element":
        stored[1, 500, 7] += 0.05
    if bug == "stale corner":
        stored[0, -16:, -16:] = stored[0, -80:-64, -16:].clone()
    return stored


def make_case(distribution: str, seed: int, shape: tuple[int, int, int, int, int], dtype):
    """q, k, v of [H, M, N, Hkv, D]: normal, peaky (3 x) or sparse small integers."""
    heads, m, n, kv_heads, d = shape
    make = torch.Generator().manual_seed(seed)
    out = []
    for count, length in ((heads, m), (kv_heads, n), (kv_heads, n)):
        x = torch.randn(count, length, d, generator=make)
        if distribution == "peaky":
            x = 3 * x
        if distribution == "integers":
            some = torch.rand(x.shape, generator=make) < 0.25
            x = torch.randint(-3, 4, x.shape, generator=make).float() * some
        out.append(x.to(dtype))
    return out

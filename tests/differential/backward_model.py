"""A causal backward of grouped heads with the roundings of a kernel, and bugs to put into it."""

from __future__ import annotations

import torch

MUTANTS = (
    *("scale", "no delta", "half delta", "next delta", "lost row", "lost tile", "lost head"),
    *(
        "transposed tile",
        "mask",
        "next norm",
        "wrong base",
        "unscaled tile",
        "few bits",
        "half sum",
    ),
)
TILE = 16


def gradients(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    d_out: torch.Tensor,
    scale: float,
    bug: str = "",
) -> list[torch.Tensor]:
    """Gradients of q [B, Hq, S, D] and of k, v [B, Hkv, S, D], in their dtype; float32 inside."""
    half, group = q.dtype, q.shape[1] // k.shape[1]
    q, k, v, d_out = (x.float() for x in (q, k, v, d_out))
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    keep = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
    s = (scale * (q @ k.mT)).masked_fill(~keep, -torch.inf)
    lse = torch.logsumexp(s, -1, keepdim=True)
    out = (_round((s - s.amax(-1, keepdim=True)).exp(), half) @ v) * (
        s.amax(-1, keepdim=True) - lse
    ).exp()
    if bug == "mask":
        s = (scale * (q @ k.mT)).masked_fill(~keep.tril(1) & ~keep.roll(1, 1), -torch.inf)
    if bug == "next norm":
        lse = torch.cat([lse[:, :, :-1], lse[:, :, -2:-1]], 2)
    p = (s - lse).exp()
    ds = p * (d_out @ v.mT - _delta(d_out, _round(out, half), bug))
    if bug == "transposed tile":
        ds[:, :, TILE : 2 * TILE, :TILE] = ds[:, :, TILE : 2 * TILE, :TILE].mT.clone()
    if bug == "few bits":
        ds = _round(ds, torch.float8_e4m3fn if half is torch.bfloat16 else torch.bfloat16)
    ds, p = _round(ds, half), _round(p, half)
    dq, dk, dv = scale * _product(ds, k, bug, half), scale * (ds.mT @ q), p.mT @ d_out
    if bug == "scale":
        dk = dk * 1.01
    if bug == "wrong base":
        dq = dq * 0.6931
    if bug == "unscaled tile":
        dk[:, :, -TILE:] /= scale
    if bug == "lost row":
        dq[0, 0, 7] = 0
    if bug == "lost head":
        dk[:, -1], dv[:, -1] = 0, 0
    dk, dv = (x.unflatten(1, (-1, group)).sum(2) for x in (dk, dv))
    return [x.to(half) for x in (dq, dk, dv)]


def _delta(d_out: torch.Tensor, out: torch.Tensor, bug: str) -> torch.Tensor:
    terms = d_out * out
    if bug == "half delta":
        terms = terms[..., : terms.shape[-1] // 2]
    delta = terms.sum(-1, keepdim=True)
    if bug == "no delta":
        return torch.zeros_like(delta)
    return delta.roll(1, 2) if bug == "next delta" else delta


def _product(ds: torch.Tensor, k: torch.Tensor, bug: str, half: torch.dtype) -> torch.Tensor:
    """ds @ k, tile by tile of keys; a half sum is rounded after each key, as over thousands."""
    total = torch.zeros(*ds.shape[:3], k.shape[3])
    step = 1 if bug == "half sum" else TILE
    starts = range(0, k.shape[2], step)
    for start in starts:
        if bug == "lost tile" and start == starts[-2]:
            continue
        keys = slice(start, start + step)
        total = total + ds[..., keys] @ k[:, :, keys]
        total = _round(total, half) if bug == "half sum" else total
    return total


def _round(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x.to(dtype).float()

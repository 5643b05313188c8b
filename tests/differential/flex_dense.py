"""FlexAttention by its definition: the whole score matrix, differentiable by torch."""

from __future__ import annotations

import math

import torch
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

AXES = ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None), (0, None, None, None))


def over(mod, score, shape):
    """The callable at every (b, h, q_idx, kv_idx)."""
    for axes in AXES:
        mod = torch.vmap(mod, in_dims=axes if score is None else (0, *axes))
    device = torch.get_default_device() if score is None else score.device
    places = [torch.arange(n, device=device) for n in shape]
    with TransformGetItemToIndex():
        return mod(*places) if score is None else mod(score, *places)


def dense(q, k, v, score_mod, mask_mod, scale=None):
    """(out, lse); rows without keys give 0 and -inf."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
    score = q @ k.transpose(-1, -2) * (scale or 1 / math.sqrt(q.shape[-1]))
    if score_mod is not None:
        score = over(score_mod, score, score.shape)
    keep = torch.ones_like(score, dtype=torch.bool)
    if mask_mod is not None:
        keep = over(mask_mod, None, score.shape).to(score.device)
    keep = keep & (score.detach() > -math.inf)
    some = keep.any(-1, keepdim=True)
    weights = score.masked_fill(~keep, -math.inf).masked_fill(~some, 0.0)
    lse = torch.logsumexp(weights, -1).masked_fill(~some[..., 0], -math.inf)
    out = (weights.softmax(-1) * some) @ v
    return out, lse

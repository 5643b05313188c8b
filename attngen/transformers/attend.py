"""The attention function transformers calls in each layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from attngen.core.diagnostics import CallError, Diagnostic
from attngen.flex import flex_attention
from attngen.transformers.mask import Mask, moved

Mod: TypeAlias = "Callable[..., Any]"


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Mask | torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of [B, H, S, D] streams as [B, S, H, D], and no weights.

    attention_mask: of `make_mask`, a tensor over [B or 1, H or 1, Sq, Skv] (bool, or added to the
    scores), or None: causal if the module is and there is more than one query. softcap, s_aux (sink
    per head), position_bias [B or 1, H or 1, Sq, Skv]: as the models pass them. CallError E526:
    dropout of the weights.
    """
    if dropout:
        message = f"attention dropout of {dropout} was asked for, and attngen's attention has none"
        fix = "config.attention_dropout = 0.0, or model.eval()"
        raise CallError(Diagnostic("E526", message, help=fix))
    align, mask_mod, added = "start", None, [position_bias]
    if isinstance(attention_mask, Mask):
        align, mask_mod = attention_mask.align, attention_mask.mask_mod
    elif isinstance(attention_mask, torch.Tensor):
        if attention_mask.dtype is torch.bool:
            mask_mod = _reader(attention_mask)
        else:
            added.append(attention_mask)
    elif query.shape[2] > 1 and (_is_causal(module) if is_causal is None else is_causal):
        key, value = (x[:, :, : query.shape[2]] for x in (key, value))  # an empty static cache
        mask_mod = _causal
    tables = [x for x in added if x is not None]
    if tables and mask_mod is not None and align == "end":  # rows of a table are those of the call
        offset = torch.tensor(key.shape[2] - query.shape[2], dtype=torch.int32)
        mask_mod, align = moved(mask_mod, offset.to(query.device)), "start"
    score_mod = _scored(softcap, tables)
    found = flex_attention(
        query,
        key,
        value,
        score_mod,
        mask_mod=mask_mod,
        scale=scaling,
        enable_gqa=True,
        return_lse=s_aux is not None,
        align=align,
    )
    out = found if s_aux is None else _with_sink(found[0], found[1], s_aux)
    return out.transpose(1, 2).contiguous(), None


def _is_causal(module: torch.nn.Module) -> bool:
    return bool(getattr(module, "is_causal", True))


def _causal(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return kv_idx <= q_idx


def _reader(x: torch.Tensor) -> Mod:
    """Reads a tensor over [B or 1, H or 1, Sq, Skv]; axes of one element are left out."""
    one_batch, one_head = (n == 1 for n in x.shape[:2])
    inner = x[:, 0] if one_head else x
    table = inner[0] if one_batch else inner

    def read(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        if one_batch:
            return table[q_idx, kv_idx] if one_head else table[h, q_idx, kv_idx]
        return table[b, q_idx, kv_idx] if one_head else table[b, h, q_idx, kv_idx]

    return read


def _scored(softcap: float | None, added: list[torch.Tensor]) -> Mod | None:
    """The score modification; None for the plain score."""
    if softcap is None and not added:
        return None
    readers = [_reader(x) for x in added]

    def scored(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        for read in readers:
            score = score + read(b, h, q_idx, kv_idx)
        return score

    return scored


def _with_sink(out: torch.Tensor, lse: torch.Tensor, sink: torch.Tensor) -> torch.Tensor:
    """A score per head that takes weight and has no value: the other weights shrink together."""
    share = torch.sigmoid(lse - sink.to(lse.dtype)[:, None])
    return (out * share[..., None]).to(out.dtype)

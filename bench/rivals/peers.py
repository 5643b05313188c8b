"""How each peer computes one attention: (attend(q, k, v) for [B, H, S, D], set-up or None)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rivals.formulas import intervals, mask_axes, mask_mod, score_mod
from rivals.rows import CAP, WINDOW, Row, Values

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Made = tuple[Attend, Callable[[], Any] | None]


def cudnn(row: Row, values: Values) -> Made:
    """PyTorch's scaled_dot_product_attention on cuDNN."""
    return _sdpa(row, "CUDNN_ATTENTION")


def fa2(row: Row, values: Values) -> Made:
    """PyTorch's scaled_dot_product_attention on FlashAttention 2."""
    return _sdpa(row, "FLASH_ATTENTION")


def _sdpa(row: Row, backend: str) -> Made:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    chosen, causal = getattr(SDPBackend, backend), row.kind != "full"

    def attend(q, k, v):
        with sdpa_kernel([chosen]):
            return scaled_dot_product_attention(q, k, v, is_causal=causal)

    return attend, None


def flex_triton(row: Row, values: Values) -> Made:
    """PyTorch's compiled FlexAttention, Triton."""
    return _flex(row, values, "TRITON")


def flex_flash(row: Row, values: Values) -> Made:
    """PyTorch's compiled FlexAttention on FlashAttention 4's kernels."""
    return _flex(row, values, "FLASH")


def _flex(row: Row, values: Values, backend: str) -> Made:
    from torch._functorch import config
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    config.donated_buffer = False  # a backward is timed on a graph that is kept
    torch._dynamo.reset()
    score, mask = score_mod(row, values), mask_mod(row, values)
    options = {"kernel_options": {"BACKEND": backend}}
    build = None
    if mask is not None:
        compiled = torch.compile(create_block_mask)
        n, axes = row.length, mask_axes(row)

        def build():
            return compiled(mask, *axes, n, n, device="cuda")

    block_mask = build() if build else None
    run = torch.compile(flex_attention, dynamic=False)

    def attend(q, k, v):
        return run(q, k, v, score_mod=score, block_mask=block_mask, **options)

    if row.kind != "sinks_gate":
        return attend, build
    sink, gate = values["sink"][None, :, None], torch.sigmoid(values["g"].float())

    def sinks(q, k, v):
        # FlexAttention has no sinks: its users scale the result by exp(lse) / (exp(lse) + e^sink)
        out, lse = run(q, k, v, score_mod=score, block_mask=block_mask, return_lse=True, **options)
        return (out * (torch.sigmoid(lse - sink)[..., None] * gate)).to(out.dtype)

    return torch.compile(sinks, dynamic=False), build


def fa4(row: Row, values: Values) -> Made:
    """FlashAttention 4 (flash_attn.cute)."""
    from flash_attn.cute import flash_attn_func

    options: dict[str, Any] = {"causal": row.kind != "full"}
    if "window" in row.kind:
        options |= {"causal": False, "window_size": (WINDOW - 1, 0)}
    if "softcap" in row.kind:
        options["softcap"] = CAP
    if row.kind == "sinks_gate":
        options["learnable_sink"] = values["sink"].to(torch.bfloat16)
    gate = torch.sigmoid(values["g"].float()) if row.kind == "sinks_gate" else None

    def attend(q, k, v):
        found = flash_attn_func(*(x.transpose(1, 2) for x in (q, k, v)), **options)
        out = (found[0] if isinstance(found, tuple) else found).transpose(1, 2)
        return out if gate is None else (out * gate).to(out.dtype)

    return attend, None


def cudnn_flex(row: Row, values: Values) -> Made:
    """cudnn.flex_attention: intervals of keys, planned on the GPU."""
    from cudnn.flex_attention import create_mask_plan, flex_attn_func

    ends = intervals(row, values)
    shape = (row.batch, row.length, row.heads)
    q, k = (torch.empty(*shape, row.width, device="cuda", dtype=torch.bfloat16) for _ in "qk")
    v = torch.empty(*shape, row.features, device="cuda", dtype=torch.bfloat16)

    def build():
        return create_mask_plan(ends, q, k, v, build_backward=True)

    plan = build()

    def attend(q, k, v):
        given = (x.transpose(1, 2) for x in (q, k, v))
        return flex_attn_func(*given, mask_plan=plan).transpose(1, 2)

    return attend, build

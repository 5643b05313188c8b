"""The same rows through torch's compiled FlexAttention, in the same process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import Case, mods


def flex_call(case: Case, values) -> tuple[Callable[[], Any], Callable[[], Any] | None]:
    """(the kernel alone, building its block mask); no mask to build for the full row."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch._dynamo.reset()
    score_mod, mask_mod = mods(case, "cuda")
    _, _, _, m, n, _ = case.shape
    build = None
    if mask_mod is not None:
        compiled_build = torch.compile(create_block_mask)

        def build():
            return compiled_build(mask_mod, None, None, m, n, device="cuda")

    block_mask = build() if build else None
    compiled = torch.compile(flex_attention, dynamic=False)
    q, k, v = (values[name] for name in "qkv")

    def call():
        return compiled(q, k, v, score_mod=score_mod, block_mask=block_mask)

    call()
    torch.cuda.synchronize()
    return call, build

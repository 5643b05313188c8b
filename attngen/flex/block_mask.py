"""What is taken from torch's BlockMask: its mask_mod; the tables are derived anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attngen.core.diagnostics import CallError, Diagnostic


def mask_of(block_mask: Any, q_len: int, kv_len: int) -> Callable[..., Any] | None:
    """The mask_mod of a BlockMask; None if it keeps everything.

    CallError E520: made for other lengths, sliced, or its block lists say more than its mask_mod.
    """
    mod: Callable[..., Any] | None = getattr(block_mask, "mask_mod", None)
    if not hasattr(block_mask, "kv_num_blocks"):
        kind = type(block_mask).__name__
        raise _wrong(f"block_mask is a {kind}, expected a BlockMask", "pass mask_mod = ...")
    if getattr(mod, "__name__", "") == "_sliced_mask_mod_error":
        raise _wrong(
            "a sliced BlockMask has no mask_mod", "set its mask_mod, or pass mask_mod = ..."
        )
    lengths = tuple(block_mask.seq_lengths)
    if lengths != (q_len, kv_len):
        message = (
            f"the block_mask was made for {lengths[0]} queries and {lengths[1]} keys, the call has"
            f" {q_len} and {kv_len}"
        )
        raise _wrong(message, "pass mask_mod = ..., which fits every length")
    if getattr(mod, "__name__", "") == "noop_mask":
        _require_full(block_mask)
        return None
    return mod


def _require_full(block_mask: Any) -> None:
    known = block_mask.__dict__.get("_attngen_full")
    if known is None:  # looks at the tables, once for each BlockMask
        known = bool(block_mask.to_dense().all())
        block_mask.__dict__["_attngen_full"] = known
    if not known:
        message = "the block_mask leaves blocks out that its mask_mod keeps: its lists are the mask"
        raise _wrong(message, "write the pattern as mask_mod, or as `blocks(...)` in a spec")


def _wrong(message: str, fix: str) -> CallError:
    return CallError(Diagnostic("E520", message, help=fix))

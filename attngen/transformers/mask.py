"""What transformers says of a mask, kept as a formula: no tensor of queries times keys is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch.nn.attention.flex_attention import BlockMask

from attngen.flex import sorted as mark_sorted
from attngen.flex.capture import Walk

Mod: TypeAlias = "Callable[..., Any]"
PACKED = "packed_sequence_mask"  # transformers' name; a running sum, so it never decreases


class Mask(BlockMask):
    """A mask of one forward pass, shared by its layers: a formula, without tables of blocks.

    mask_mod: over (b, h, q_idx, kv_idx); align: "end" if the last query stands at the last key;
    shape: (B, 1, Sq, Skv). It is a BlockMask because models hand those on without a look inside.
    """

    def __init__(self, mask_mod: Mod, align: str, shape: tuple[int, int, int]) -> None:
        # not BlockMask's: it is made of tables, and there are none
        self.mask_mod, self.align = mask_mod, align
        self.batch, *lengths = shape
        self.seq_lengths = (lengths[0], lengths[1])

    @property
    def shape(self) -> tuple[int, ...]:
        """(batch, 1, queries, keys)."""
        return (self.batch, 1, *self.seq_lengths)

    def to(self, device: torch.device | str) -> Mask:
        """Itself: tensors it reads are where the model is."""
        return self

    def __repr__(self) -> str:
        return f"Mask(shape={self.shape}, align={self.align!r})"

    __str__ = __repr__


def make_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | torch.Tensor = 0,
    kv_offset: int = 0,
    mask_function: Mod | None = None,
    attention_mask: torch.Tensor | None = None,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Mask:
    """The function that transformers calls once per forward pass and kind of layer.

    mask_function: over absolute positions; attention_mask [B, seen + new]: 0 for padding.
    Positions are absolute where an offset is not zero; the usual cases need no offset at all.
    """
    mod = mask_function or _causal
    _mark_packed(mod)
    if attention_mask is not None:
        mod = _padded(mod, attention_mask, kv_length + kv_offset)
    align, shape = "start", (batch_size, q_length, kv_length)
    if kv_offset == 0 and _is(q_offset, kv_length - q_length):
        align = "end"
    elif not (kv_offset == 0 and _is(q_offset, 0)):
        mod = moved(mod, _number(q_offset, device), _number(kv_offset, device))
    return Mask(mod, align, shape)


def _is(offset: int | torch.Tensor, value: int) -> bool:
    return isinstance(offset, int) and offset == value


def _number(offset: int | torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor: what changes in each step must not be a constant of a kernel."""
    return torch.as_tensor(offset, device=device).to(torch.int32).reshape(())


def _causal(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return kv_idx <= q_idx


def moved(mod: Mod, q_offset: torch.Tensor, kv_offset: torch.Tensor | int = 0) -> Mod:
    """The same function of positions that count from elsewhere."""

    def shifted(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return mod(b, h, q_idx + q_offset, kv_idx + kv_offset)

    return shifted


def _padded(mod: Mod, attention_mask: torch.Tensor, length: int) -> Mod:
    """Keys that are no padding: a range per sequence, and inside of it a test if it has holes."""
    keep = attention_mask.to(torch.bool)
    if keep.shape[-1] < length:
        keep = torch.nn.functional.pad(keep, (0, length - keep.shape[-1]))
    place = torch.arange(keep.shape[-1], device=keep.device, dtype=torch.int32)
    first = torch.where(keep, place, keep.shape[-1]).amin(-1).to(torch.int32)
    stop = torch.where(keep, place + 1, 0).amax(-1).to(torch.int32)
    kept = keep.sum(-1)
    facts = torch.stack([(kept == keep.shape[-1]).all(), (kept == stop - first).all()])
    whole, runs = (
        facts.tolist()
    )  # one look per forward pass: what follows is cheaper for each layer
    if whole:
        return mod

    def padded(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return mod(b, h, q_idx, kv_idx) & (kv_idx >= first[b]) & (kv_idx < stop[b])

    def holes(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return padded(b, h, q_idx, kv_idx) & keep[b, kv_idx]

    return padded if runs else holes


def _mark_packed(mod: Mod) -> None:
    """Sequences packed into one row are numbered in order: bounds follow."""
    walk = Walk()
    walk.fingerprint(mod)
    for name, tensor in walk.tensors:
        if name == PACKED:
            mark_sorted(tensor)

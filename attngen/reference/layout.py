"""Puts results back into the layout of the first query stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from attngen.ir.attention import Tensor as Declared

ROLES = ("batch", "head", "position")


def assemble(declared: Declared, sequences: Sequence[Tensor], tokens: int, none: Tensor) -> Tensor:
    """One tensor from a result per sequence, each [heads, length] or [heads, length, width].

    The axes are those of the stream, in its order, the feature axis replaced by the width or left
    out for a number. Under `packed` the sequences lie back to back; `tokens` in all, zero after the
    last boundary. none: what a sequence without positions gives, for a call without sequences.
    """
    if declared.packed is not None:
        joined = torch.cat([none, *sequences], 1)
        gap = tokens - joined.shape[1]
        pad = (0,) * (2 * (joined.dim() - 2)) + (0, gap)
        joined = functional.pad(joined, pad).unsqueeze(0)
    else:
        joined = (
            torch.stack(list(sequences))
            if sequences
            else none.new_zeros(0, none.shape[0], tokens, *none.shape[2:])
        )
    axes = [
        (axis, place)
        for place, role in enumerate(ROLES)
        if (axis := declared.axis(role)) is not None
    ]
    present = [place for _, place in axes]
    for place in reversed(range(3)):
        if place not in present:
            joined = joined.squeeze(place)
    order = [present.index(place) for _, place in sorted(axes)]
    features = range(len(present), joined.dim())
    return joined.permute(*order, *features)

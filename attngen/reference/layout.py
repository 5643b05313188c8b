"""Puts results back into the layout of the first query stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from attngen.ir.attention import Tensor as Declared

ROLES = ("batch", "head", "position")


def assemble(declared: Declared, sequences: Sequence[Tensor], tokens: int) -> Tensor:
    """One tensor from a result per sequence, each [heads, length] or [heads, length, width].

    The axes are those of the stream, in its order, the feature axis replaced by the width or left
    out for a number. Under `packed` the sequences lie back to back; `tokens` in all, zero after the
    last boundary.
    """
    if declared.packed is not None:
        joined = torch.cat(list(sequences), 1)
        gap = tokens - joined.shape[1]
        pad = (0,) * (2 * (joined.dim() - 2)) + (0, gap)
        joined = functional.pad(joined, pad).unsqueeze(0)
    else:
        joined = torch.stack(list(sequences))
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

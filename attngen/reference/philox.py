"""Philox-4x32-10 in torch integers, equal bit for bit to `tl.philox`.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 10
_WORD = 0xFFFFFFFF
_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(seed: int, counter: Words, rounds: int = ROUNDS) -> Words:
    """The four output words (int64 tensors holding 0 .. 2**32-1) of a counter of four such words.

    Key words are the low and the high half of the 64-bit seed (a negative one as two's complement):
    `tl.philox(seed, c0, c1, c2, c3)` with 32-bit counters. Counters broadcast.
    """
    c0, c1, c2, c3 = (word & _WORD for word in counter)
    k0, k1 = seed & _WORD, (seed >> 32) & _WORD
    for _ in range(rounds):
        high_0, low_0 = _multiply(c0, _MULTIPLIER_0)
        high_1, low_1 = _multiply(c2, _MULTIPLIER_1)
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        k0, k1 = (k0 + _WEYL_0) & _WORD, (k1 + _WEYL_1) & _WORD
    return c0, c1, c2, c3


def uniform(seed: int, counter: Words, dtype: torch.dtype) -> Tensor:
    """Uniform numbers in [0, 1): the top 24 bits of the first word times 2**-24 (exact)."""
    return (philox(seed, counter)[0] >> 8).to(dtype) * 2.0**-24


def _multiply(word: Tensor, constant: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 32 x 32 bit product, which int64 alone would overflow."""
    low = (word & 0xFFFF) * constant
    middle = (word >> 16) * constant + (low >> 16)
    return (middle >> 16) & _WORD, ((middle << 16) | (low & 0xFFFF)) & _WORD

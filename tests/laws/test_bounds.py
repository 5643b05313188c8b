"""Laws of the mask pass: ranges, limits, tests and facts against the dense mask, and how tight they are."""

import zlib

import numpy as np
import pytest
from bounds_check import Analysed, check
from bounds_corpus import BITS, MASKS, SORTED, UNEQUAL, data

CASES = [(name, True) for name in MASKS] + [(name, False) for name in UNEQUAL]
TRIALS = 6


@pytest.mark.parametrize(("name", "same_length"), CASES)
def test_corpus_is_sound(name, same_length):
    analysed = Analysed(MASKS[name], SORTED, BITS, same_length)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for _ in range(TRIALS):
        n = int(rng.integers(8, 120))
        m = n if same_length else int(rng.integers(1, 120))
        blocks = [int(rng.choice([1, 4, 8, 16, 32, 48])) for _ in "qk"]
        check(analysed, data(rng, n, m), m, n, *blocks)

"""Laws of the mask pass: ranges, limits, tests and facts against the dense mask, and how tight they are."""

import zlib

import numpy as np
import pytest
from bounds_check import Analysed, check
from bounds_corpus import BITS, MASKS, SORTED, UNEQUAL, data
from bounds_random import mask, needs_equal_lengths
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


def random_masks(examples):
    def wrap(test):
        tile = st.sampled_from([1, 3, 8, 16, 32])
        given_masks = given(mask, st.integers(0, 2**31), st.booleans(), st.tuples(tile, tile))
        quiet = list(HealthCheck)
        return settings(
            max_examples=examples, deadline=None, suppress_health_check=quiet, database=None
        )(given_masks(test))

    return wrap


def sound(text, seed, same_length, tile):
    analysed = Analysed(text, SORTED, BITS, same_length)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        n = int(rng.integers(8, 70))
        m = n if same_length or needs_equal_lengths(text) else int(rng.integers(1, 70))
        check(analysed, data(rng, n, m), m, n, *tile)


@random_masks(120)
def test_random_masks_are_sound(text, seed, same_length, tile):
    sound(text, seed, same_length, tile)


@pytest.mark.slow
@random_masks(1500)
def test_many_random_masks_are_sound(text, seed, same_length, tile):
    sound(text, seed, same_length, tile)

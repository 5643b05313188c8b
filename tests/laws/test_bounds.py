"""Laws of the mask pass: ranges, limits and tests against the dense mask; how tight they are."""

import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attngen.ir.index import FALSE
from tests.laws.bounds_check import Analysed, check
from tests.laws.bounds_corpus import BITS, MASKS, SORTED, UNEQUAL, data
from tests.laws.bounds_random import mask, needs_equal_lengths

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
@random_masks(600)
def test_many_random_masks_are_sound(text, seed, same_length, tile):
    sound(text, seed, same_length, tile)


N, TILE = 1536, 64
EXACT = (
    "causal",
    "window",
    "window, two sides",
    "documents, causal",
    "documents, both ways",
    "documents, window",
    "prefix-LM",
    "chunked",
    "longformer",
    "block causal",
    "block diffusion",
    "natten 1D",
    "xor",
)
BY_TEST = ("per-row limit", "runs, unsorted ids", "natten 2D, wide", "dilated, run-time step")


def realistic():
    """Run-time data as in training: few documents, windows of several tiles, sparse runs."""
    rng = np.random.default_rng(3)
    inputs = data(rng, N) | {"window": 255, "w": 130, "g": 100, "stride": 320, "left": 200, "h": 0}
    inputs |= {"prefix": np.array([420]), "half": N // 2, "right": 50}
    inputs["doc"] = np.searchsorted([200, 777, 900, 1300], np.arange(N), side="right")[None]
    inputs["runs"] = np.repeat(rng.permutation(N // 128), 128)[None]
    chunk = (np.arange(N) // 300 + 1) * 300
    inputs["limit"] = np.minimum(N, chunk + rng.integers(-20, 20, N))[None]
    return inputs


@pytest.mark.parametrize("name", EXACT)
def test_ranges_are_tight(name):
    """Every visited tile holds something, and every full tile is found, in both directions."""
    counts = check(Analysed(MASKS[name], SORTED, BITS), realistic(), N, N, TILE, TILE)
    for seen in counts.values():
        assert seen["visited"] == seen["kept"] > 0
        assert seen["full"] == seen["truly_full"]


@pytest.mark.parametrize("name", BY_TEST)
def test_the_tile_test_is_tight(name):
    """Where no bound can be derived, the test of a tile still finds the empty and the full ones."""
    counts = check(Analysed(MASKS[name], SORTED, BITS), realistic(), N, N, TILE, TILE)
    for seen in counts.values():
        assert seen["tested"] == seen["kept"] > 0
        assert seen["full_tested"] == seen["truly_full"]


@pytest.mark.parametrize("extra", ["", " and q_pos - kv_idx < window", " and kv_idx >= prefix[b]"])
def test_documents_with_a_cache_are_sound(extra):
    """Rows along the keys read at the query's position among the keys: fewer queries than keys."""
    text = f"doc[b, q_pos] == doc[b, kv_idx] and causal{extra}"
    analysed = Analysed(text, SORTED, BITS, same_length=False)
    rng = np.random.default_rng(5)
    for _ in range(12):
        n = int(rng.integers(8, 90))
        check(analysed, data(rng, n), int(rng.integers(1, n + 1)), n, 8, 16)
    assert analysed.plan.forward.exact and analysed.plan.transposed.exact


@pytest.mark.parametrize(
    "text",
    [
        "x[b, kv_idx] < 0.5 and causal",
        "not (x[b, kv_idx] < x[b, q_idx]) or kv_idx < g",
        "where(x[b, q_idx] < 0.3, causal, q_pos - kv_idx < window)",
        "not (x[b, q_idx] < 0.3) and not (x[b, kv_idx] < 0.3) or causal and kv_idx // 4 < w",
    ],
)
def test_float_conditions_are_sound(text):
    """They stay whole; NaN takes the side the formula gives it."""
    analysed = Analysed(text, SORTED, BITS, floats=("x",))
    rng = np.random.default_rng(6)
    for _ in range(8):
        n = int(rng.integers(8, 48))
        x = rng.random((1, n))
        x[0, rng.integers(0, n, 3)] = np.nan
        check(analysed, data(rng, n) | {"x": x}, n, n, 8, 4)


def test_no_key_at_all_is_an_empty_range():
    """kv_len = 0 with queries: every range is empty, and never_empty is not claimed."""
    for text in ("causal", "kv_idx < 1", "kv_idx < 5 or causal", "kv_idx >= 0"):
        check(Analysed(text, same_length=False), {"b": 0, "h": 0}, 4, 0, 2, 2)


def test_a_mask_that_keeps_nothing_is_known_as_false():
    assert Analysed(MASKS["never"]).plan.formula is FALSE

"""Bounds and limits of CuTe files, run on plain numbers, against the mask pair by pair."""

import pytest

from attngen.cutelib.ops import Position, integer
from tests.unit.backend.cute_specs import SAME, Numbers, Run, at, plan, spec

DOCS = [0] * 13 + [1] * 40 + [3] * 1 + [4] * 90 + [9] * 56
CASES = {
    "none": (spec(""), lambda q, k, n, m: True, {}),
    "causal": (spec("  mask = causal"), lambda q, k, n, m: k <= q + m - n, {}),
    "window": (
        spec("  mask = causal and q_pos - kv_idx < 37"),
        lambda q, k, n, m: q + m - n - 37 < k <= q + m - n,
        {},
    ),
    "prefix": (
        spec("  mask = kv_idx < p[b] or kv_idx <= q_pos", "  input p : i32[B]\n"),
        lambda q, k, n, m: k < 50 or k <= q + m - n,
        {"p": Numbers([50])},
    ),
    "window of a head": (
        spec("  mask = causal and q_pos - kv_idx < near[h]", "  input near : i32[H]\n"),
        lambda q, k, n, m: q + m - n - 21 < k <= q + m - n,
        {"near": Numbers([3, 21])},
    ),
    "documents": (
        spec(
            "  mask = d[b, q_idx] == d[b, kv_idx] and kv_idx <= q_idx",
            "  input d : i32[B, S] sorted\n",
            SAME,
        ),
        lambda q, k, n, m: DOCS[q] == DOCS[k] and k <= q,
        {"d": Numbers([DOCS])},
    ),
}
TILE = 32


@pytest.mark.parametrize("lengths", [(200, 200), (65, 200), (200, 90)])
@pytest.mark.parametrize("name", CASES)
def test_tiles_and_limits_agree_with_the_mask(name, lengths):
    text, kept, values = CASES[name]
    n, m = lengths
    if name == "documents" and n != m:
        pytest.skip("one length")
    made = plan(text)
    for row0 in range(0, n, TILE):
        row1 = min(row0 + TILE, n)
        runs = {"d_runs": Run(DOCS, row0, row1)} if name == "documents" else {}
        here = at(n, m, row0, row1, **values, **runs)
        low, high, full_low, full_high = (integer(x) for x in made.tiles(here))
        for q in range(row0, row1):
            first = 0 if made.first_key is None else integer(made.first_key(here, Position(q)))
            end = m if made.end_key is None else integer(made.end_key(here, Position(q)))
            keys = [k for k in range(m) if kept(q, k, n, m)]
            assert keys == list(range(max(first, 0), min(end, m)))
            assert all(max(low, 0) <= k < min(high, m) for k in keys)
            if full_low < full_high:
                assert set(range(max(full_low, 0), min(full_high, m))) <= set(keys)


def test_a_mask_without_ranges_is_asked_pair_by_pair():
    made = plan(spec("  mask = causal and (q_idx - kv_idx) % 4 == 0", head=SAME))
    here = at(100, 100, 32, 64)
    for q, k in [(40, 40), (40, 39), (40, 36), (40, 44), (63, 3)]:
        expected = k <= q and (q - k) % 4 == 0
        assert bool(made.keep(here, Position(q), Position(k))) == expected
    assert made.tiles(here)[2:] == (0, 0)  # no block goes without the test

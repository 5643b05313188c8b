"""Packed sequences: what a kernel is given, and that slots hold every block of rows once."""

import random

import pytest

from attngen.backend.cute.blackwell import missing_on_blackwell
from attngen.backend.cute.shape import missing
from tests.unit.backend.cute_specs import at, emitted, plan, program, spec

HEAD = """attention spec {
  query q : half[T, Hq, D] packed(cu_q)
  key   k : half[T, Hkv, D] packed(cu_kv)
  value v : half[T, Hkv, D] packed(cu_kv)
  input cu_q  : i32[B + 1]
  input cu_kv : i32[B + 1]
"""
LSE = "  out = sum(softmax(score) * v)\n  lse = logsumexp(score)\n  return out, lse"


@pytest.mark.parametrize("tile_m", [128, 192])
def test_slots_hold_every_block_of_rows_once(tile_m):
    """The numbering of `cutelib.packed`: sequence b from starts[b] // tile_m + b on."""
    draw = random.Random(tile_m)
    for _ in range(50):
        lengths = [draw.choice((0, 1, 127, 128, 129, draw.randrange(900))) for _ in range(20)]
        starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
        slots = starts[-1] // tile_m + len(lengths)
        found = []
        for slot in range(slots):
            b = max(i for i in range(len(lengths)) if starts[i] // tile_m + i <= slot)
            block = slot - starts[b] // tile_m - b
            if block * tile_m < lengths[b]:
                found.append((b, block))
        expected = [(b, i) for b, n in enumerate(lengths) for i in range(-(-n // tile_m))]
        assert found == expected


def test_a_kernel_is_told_the_boundaries():
    made = plan(spec("  mask = causal", head=HEAD, out=LSE))
    assert made.packed and made.schedule.flat
    assert (made.query.packed, made.key.packed, made.value.packed) == ("cu_q", "cu_kv", "cu_kv")
    names = [n for n, _ in made.arguments]
    assert {"cu_q", "cu_kv"} < set(names)
    assert (made.result_roles, made.number_roles) == (
        ("position", "head", "feature"),
        ("position", "head"),
    )


def test_bounds_are_those_of_a_sequence():
    made = plan(spec("  mask = causal", head=HEAD))
    assert made.tiles(at(40, 100, 32, 40))[:2] == (0, 100)
    assert made.tiles(at(40, 40, 0, 32))[:2] == (0, 32)


def test_flags_are_as_many_as_slots():
    source = emitted(spec("  mask = causal", head=HEAD))[1].source
    assert "blocks = (q_len // 128 + batch) * heads" in source


def test_hopper_kernels_do_them_and_blackwell_kernels_do_not():
    made = program(spec("  mask = causal", head=HEAD))
    assert not missing(made)
    assert missing_on_blackwell(made) == ["packed sequences"]

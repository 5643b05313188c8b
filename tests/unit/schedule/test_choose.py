"""Which schedules are chosen, and what can be searched."""

import pytest

from attngen.backend.triton import step
from attngen.core.target import TARGETS, find_target
from attngen.schedule import cost
from attngen.schedule.choose import choose
from attngen.schedule.space import known_bad, space
from tests.targets.build import FORWARD, program

HOPPER = find_target("sm_90")


def tile(schedule):
    return (schedule.block_q, schedule.block_k, schedule.warps, schedule.stages)


@pytest.mark.parametrize(
    ("example", "size", "expected"),
    [
        ("flash", 64, (128, 128, 8, 2)),
        ("flash", 128, (128, 64, 4, 2)),
        ("gemma2", 64, (64, 64, 4, 3)),
        ("gemma2", 128, (64, 64, 4, 3)),
        ("alibi_documents", 128, (64, 64, 4, 3)),
        ("differential", 128, (128, 64, 8, 2)),
    ],
)
def test_measured_points(example, size, expected):
    schedule = choose(program(example, size), HOPPER)
    assert tile(schedule) == expected
    assert schedule.loads == "descriptor"


def test_the_cap_goes_with_its_point():
    assert choose(program("flash", 64), HOPPER).max_registers == 128
    assert choose(program("flash", 128), HOPPER).max_registers is None


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("example", FORWARD)
def test_choices_fit_by_the_count(example, target):
    made = program(example, 128)
    schedule = choose(made, target)
    if (example, target.name) != ("mla", "sm_75"):
        assert cost.footprint(made).shared(schedule) <= target.shared_memory


def test_wider_heads_never_need_larger_tiles():
    for target in TARGETS:
        areas = [
            s.block_q * s.block_k
            for s in (choose(program("flash", size), target) for size in (64, 128, 256))
        ]
        assert areas == sorted(areas, reverse=True), target.name


def test_options_override():
    chosen = choose(program("flash", 128), HOPPER, {"block_k": 32, "warps": 8, "loops": "single"})
    assert (tile(chosen), chosen.loops) == ((128, 32, 8, 2), "single")


@pytest.mark.parametrize("short", [False, True])
def test_a_form_that_is_asked_for_has_its_own_tile(short):
    made = program("flash", 128)
    split = choose(made, HOPPER, {"form": "split"}, short=short)
    whole = choose(made, HOPPER, {"form": "tile"}, short=short)
    assert (tile(split), split.form) == ((16, 64, 4, 3), "split")
    assert (tile(whole), whole.form) == ((128, 64, 4, 2), "tile")


def test_float32_products():
    exact = choose(program("flash", 128, "f32"), HOPPER)
    fast = choose(program("flash", 128, "f32"), HOPPER, {"precision": "tf32"})
    assert (exact.loads, fast.loads) == ("pointer", "descriptor")
    assert exact.block_q * exact.block_k < fast.block_q * fast.block_k


def test_pointers_where_a_row_is_not_a_multiple_of_16_bytes():
    assert choose(program("flash", 100), HOPPER).loads == "pointer"
    assert choose(program("relative_bias", 128), HOPPER).loads == "descriptor"


def test_bounds_agree_with_the_backend():
    assert (cost.BOUNDED, cost.BOUNDED_F16) == (step.WIDTH, step.WIDTH_F16)
    assert cost.footprint(program("gemma2", 128)).bounded
    assert not cost.footprint(program("gemma2", 128, "f16")).bounded


@pytest.mark.parametrize("target", ["sm_75", "sm_90", "gfx942"])
@pytest.mark.parametrize("short", [False, True])
def test_the_space(target, short):
    made, gpu = program("flash", 128), find_target(target)
    points = list(space(made, gpu, short=short))
    assert points[0] == choose(made, gpu, short=short)
    assert len(points) == len(set(points)) > 4
    found = cost.footprint(made)
    for point in points[1:]:
        assert found.shared(point) <= gpu.shared_memory
        assert not known_bad(point, gpu)
        assert point.form == ("split" if short else "tile")

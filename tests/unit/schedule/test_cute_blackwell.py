"""Schedules of CuTe kernels for sm_100."""

from dataclasses import replace

import pytest

from attngen.core.diagnostics import SpecError
from attngen.core.target import find_target
from attngen.schedule.cute import Traits
from attngen.schedule.cute_blackwell import choose_blackwell, shared

TARGET = find_target("sm_100")
PLAIN = Traits(
    query=128,
    value=128,
    bounded=False,
    narrow=False,
    near=True,
    local=False,
    searched=False,
)


@pytest.mark.parametrize("query", [32, 64, 96, 128, 160, 192])
@pytest.mark.parametrize("value", [32, 64, 128])
def test_every_width_fits_with_two_stages_at_least(query, value):
    chosen = choose_blackwell(replace(PLAIN, query=query, value=value), TARGET)
    assert shared(chosen, query, value) <= TARGET.shared_memory
    assert chosen.stages >= 2
    assert (chosen.tile_m, chosen.tile_n % 32) == (256, 0)
    assert chosen.tile_n == 128 or query == 192 or query + value > 256


def test_the_reference_follows_the_bounds_and_what_was_asked_for():
    assert choose_blackwell(PLAIN, TARGET).reference == "lazy"
    bounded = replace(PLAIN, bounded=True)
    assert choose_blackwell(bounded, TARGET).reference == "fixed"
    assert choose_blackwell(bounded, TARGET, {"numerics": "exact"}).reference == "running"
    assert choose_blackwell(PLAIN, TARGET, {"reference": "running"}).reference == "running"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"tile_m": 128}, "E302"),
        ({"tile_n": 48}, "E303"),
        ({"stages": True}, "E303"),
        ({"reference": "first"}, "E303"),
        ({"reference": "fixed"}, "E303"),
    ],
)
def test_options_it_does_not_have(options, code):
    with pytest.raises(SpecError, match=code):
        choose_blackwell(PLAIN, TARGET, options)

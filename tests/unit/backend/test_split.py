"""The printed split form: one buffer of parts, and a merge launched early where hardware can."""

import re

import pytest

from attngen.backend.triton.emit import emit
from attngen.core.target import TARGETS, find_target
from attngen.schedule.choose import choose
from tests.targets.build import program


def source(example, target):
    made, gpu = program(example, 128), find_target(target)
    return emit(made, choose(made, gpu, {"form": "split"}), gpu).source


@pytest.mark.parametrize("target", [t.name for t in TARGETS])
def test_the_merge_waits_where_it_is_launched_early(target):
    text = source("flash", target)
    early = target in ("sm_90", "sm_100", "sm_120")
    assert text.count("launch_pdl=True") == early
    # reading a part before the wait would be a race
    assert ("gdc_wait()" in text) == early
    assert not early or text.index("gdc_wait()") < text.index("tl.load(m_i_parts")


def test_parts_are_one_allocation_a_dtype():
    text = source("flash", "sm_90")
    assert re.findall(r"\w+ = \w+\.new_empty\(\(cells \* (\d+),\), dtype=([\w.]+)\)", text) == [
        ("130", "torch.float32")  # 128 columns, a maximum, a sum
    ]
    assert "m_i_parts = parts + cells.to(tl.int64) * 128" in text
    assert "l_i_parts = parts + cells.to(tl.int64) * 129" in text


def test_sorted_lists_have_a_buffer_of_their_own():
    text = source("knn", "sm_90")
    assert "i64_parts = x.new_empty((cells * 16,), dtype=torch.int64)" in text
    assert "torch.float32" not in text.split("def knn(")[1].split("i64_parts =")[1]

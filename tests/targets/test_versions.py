"""The same files under another release of Triton: OTHER_TRITON is a folder that holds one.

pip install --no-deps --target /tmp/triton36 triton==3.6.0
OTHER_TRITON=/tmp/triton36 python -m pytest -m slow tests/targets/test_versions.py
"""

import os

import pytest

from attngen.core.target import find_target
from attngen.runtime.cache import Cache
from attngen.runtime.crosscompile import compile_for
from tests.targets.build import FORWARD, emitted

OTHER = os.environ.get("OTHER_TRITON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OTHER, reason="OTHER_TRITON names no folder with another Triton"),
]
HOPPER = find_target("sm_90")


@pytest.mark.parametrize("form", ["tile", "split"])
@pytest.mark.parametrize("example", FORWARD)
def test_it_fits_there_too(example, form, tmp_path, monkeypatch):
    made = emitted(example, "sm_90", form=form)
    here = compile_for(made, HOPPER, Cache(tmp_path / "here"))
    monkeypatch.syspath_prepend(OTHER)  # a worker's path begins with ours
    there = compile_for(made, HOPPER, Cache(tmp_path / "there"))
    for one, other in zip(here, there, strict=True):
        print(f"{one.kernel}: registers {one.registers} {other.registers}")
        assert other.spills_bytes == one.spills_bytes == 0
        assert other.shared_bytes <= HOPPER.shared_memory
    assert [b.data for b in here] != [b.data for b in there], "it was the same compiler"

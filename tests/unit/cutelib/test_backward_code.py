"""Backward kernels compiled for sm_90a: no spills, and products that are not serialised."""

import json
import re
import subprocess
import sys

import pytest

from tests.unit.backend.test_cute_backward import emitted, example

pytest.importorskip("cutlass")

WAITS = 4  # of a step: S, dP, then dV and dQ, then dK


def compiled(source: str) -> dict:
    """The kernel of tiles of a file: what it uses and its disassembly."""
    done = subprocess.run(
        [sys.executable, "-m", "attngen.runtime.cute_worker"],
        input=json.dumps({"source": source}),
        capture_output=True,
        text=True,
        check=True,
    )
    (found,) = json.loads(done.stdout.splitlines()[-1])["binaries"]
    return found


@pytest.mark.parametrize(
    ("name", "sizes", "tile_m", "loops"),
    [
        ("flash", {}, 64, 2),
        ("flash", {"D": 64, "Dv": 64}, 128, 2),
        ("sinks_gated", {}, 64, 3),
    ],
)
def test_registers_and_waits(name, sizes, tile_m, loops):
    found = compiled(emitted(example(name), sizes, tile_m=tile_m).source)
    if not found["assembly"]:
        pytest.skip("no disassembler")
    assert found["spills_bytes"] == 0
    assert not re.search(r"\b(LDL|STL)\b", found["assembly"])
    assert found["assembly"].count("WARPGROUP.DEPBAR") == WAITS * loops
    assert "UTMAREDG" in found["assembly"]

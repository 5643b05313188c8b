"""What the compiler makes of CuTe kernels for sm_100a, read from their machine code: no GPU."""

from pathlib import Path

import pytest

import attngen
from attngen.core.diagnostics import SpecError
from attngen.core.target import find_target
from attngen.runtime.cache import Cache
from attngen.runtime.crosscompile import compile_for
from attngen.runtime.sass import disassemble
from attngen.runtime.specialise import generate

ROOT = Path(__file__).parents[2]
BLACKWELL = find_target("sm_100")
# file, columns -> kernels
CASES = {
    ("examples/flash", 128): 1,
    ("examples/differential", 128): 2,
    ("examples/gemma2", 128): 1,
    ("bench/specs/full", 128): 1,
    ("bench/specs/softcap", 128): 1,
    ("bench/specs/alibi", 128): 1,
    ("bench/specs/window", 128): 1,
    ("bench/specs/causal", 64): 1,
}


def made(name, size=128):
    kernel = attngen.compile(ROOT / f"{name}.attn", "sm_100", "cute")
    return kernel.specialise({"D": size, "Dv": size})


@pytest.mark.parametrize(("name", "size"), CASES)
def test_products_and_tensor_memory_are_used_and_nothing_is_spilled(name, size, tmp_path):
    pytest.importorskip("cutlass")
    emitted = made(name, size).emitted
    binaries = compile_for(emitted, BLACKWELL, Cache(tmp_path))
    assert len(binaries) == CASES[name, size] == len(emitted.kernels)
    for binary in binaries:
        (report,) = disassemble(binary.data)
        assert (report.spills, report.stack) == (0, 0)
        assert report.registers == 128  # as launched, for 512 threads; the roles then trade them
        steps = size // 16
        # scores of two tiles before the loop and in it; weights are 128 keys deep
        assert report.count("UTCHMMA") == 2 * (2 * steps + 128 // 16)
        assert report.count("UTMALDG") == 4 * -(-size // 64)  # two tiles of Q, a block of K, of V
        assert report.count("LDTM") >= 2 * 128 // 32 + 2 * size // 32  # scores; sums at the end
        assert report.count("STTM") >= 2 * 128 // 32  # weights
        assert binary.shared_bytes <= BLACKWELL.shared_memory
        assert binary.warps == 16


def test_sums_are_rescaled_in_tensor_memory_unless_scores_are_bounded(tmp_path):
    pytest.importorskip("cutlass")
    counts = {}
    for reference in ("lazy", "fixed"):
        found = made("bench/specs/softcap")
        emitted = generate(found.spec, found.request, {"reference": reference}).emitted
        (binary,) = compile_for(emitted, BLACKWELL, Cache(tmp_path))
        (report,) = disassemble(binary.data)
        counts[reference] = report.count("STTM")
    assert counts["lazy"] - counts["fixed"] == 2 * 128 // 32


def test_the_file_and_explain_say_that_it_was_not_run():
    found = made("examples/flash")
    assert "never run" in found.emitted.source.split('"""')[1]
    assert "never run" in found.reason
    assert "arch='sm_100'" in found.emitted.source


@pytest.mark.parametrize(
    ("name", "size", "word"),
    [
        ("bench/specs/documents", 128, "searched"),
        ("bench/specs/causal", 256, "values of 256 columns"),
    ],
)
def test_what_its_memories_cannot_hold_is_an_error(name, size, word):
    with pytest.raises(SpecError, match="E408") as caught:
        made(name, size)
    assert word in str(caught.value)

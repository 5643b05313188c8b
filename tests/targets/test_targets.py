"""Every default schedule compiles for every target, fits, and spills nothing."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from attngen.core.diagnostics import SpecError
from attngen.core.target import TARGETS, find_target
from attngen.runtime.cache import Cache
from attngen.runtime.crosscompile import compile_for
from tests.targets.build import FORWARD, emitted

GPUS = [t.name for t in TARGETS if t.family != "interpreter"]
QUICK = [(e, t) for e in ("flash", "gemma2") for t in GPUS]
QUICK += [(e, t) for e in ("parallax", "mla") for t in ("sm_90", "sm_80")]

# (example, target) -> bytes a thread may spill at D 128; docs/schedules.md says why
ALLOWED = {
    ("differential", "gfx1100"): 128,
    ("parallax", "gfx1100"): 128,
    ("boruvka", "gfx1100"): 128,
    ("relative_bias", "gfx1100"): 64,
    ("kmeans_assign", "gfx1100"): 64,
    ("mla", "gfx1100"): 2048,
    ("knn", "gfx90a"): 64,
    ("knn", "gfx942"): 64,
    ("varlen", "sm_100"): 16,
}
TOO_LARGE = {("mla", "sm_75")}  # a row of keys and one of queries exceed Turing's 64 KiB


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return Cache(tmp_path_factory.mktemp("binaries"))


def check(example, target, cache, size=128, half=None, allowed=0):
    gpu = find_target(target)
    for binary in compile_for(emitted(example, target, size, half), gpu, cache):
        assert binary.shared_bytes <= gpu.shared_memory
        assert binary.spills_bytes <= allowed, f"{binary.registers} registers"


@pytest.mark.parametrize(("example", "target"), QUICK)
def test_defaults_fit_and_spill_nothing(example, target, cache):
    check(example, target, cache)


@pytest.mark.slow
@pytest.mark.parametrize("target", GPUS)
@pytest.mark.parametrize("example", FORWARD)
def test_every_example(example, target, cache):
    if (example, target) in TOO_LARGE:
        with pytest.raises(SpecError, match="E310"):
            check(example, target, cache)
        return
    check(example, target, cache, allowed=ALLOWED.get((example, target), 0))


@pytest.mark.slow
@pytest.mark.parametrize("target", GPUS)
@pytest.mark.parametrize("example", ["flash", "gemma2"])
def test_float32(example, target, cache):
    check(example, target, cache, half="f32")


@pytest.mark.slow
@pytest.mark.parametrize("target", GPUS)
def test_narrow_heads(target, cache):
    check("flash", target, cache, size=64)


def test_hopper_uses_its_units(cache):
    (binary,) = compile_for(emitted("flash", "sm_90"), find_target("sm_90"), cache)
    assert "wgmma.mma_async" in binary.assembly
    assert "cp.async.bulk.tensor" in binary.assembly
    assert re.search(r"\.param .*\.align 64", binary.assembly)  # tensor maps are parameters


def test_the_disassembly_has_tensor_copies(cache, tmp_path):
    triton = pytest.importorskip("triton")
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    if not tool.is_file() and not shutil.which("nvdisasm"):
        pytest.skip("no nvdisasm")
    (binary,) = compile_for(emitted("flash", "sm_90"), find_target("sm_90"), cache)
    (tmp_path / "flash.cubin").write_bytes(binary.data)
    command = [str(tool) if tool.is_file() else "nvdisasm", "-c", str(tmp_path / "flash.cubin")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "HGMMA" in text
    assert "UTMALDG" in text
    assert "STL" not in text
    assert "LDL" not in text


def test_a_schedule_that_cannot_fit_is_refused(cache):
    large = emitted("flash", "sm_86", block_q=128, block_k=128, stages=3)
    with pytest.raises(SpecError, match=r"E310.*shared memory for sm_86"):
        compile_for(large, find_target("sm_86"), cache)

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

# example -> target -> head size -> bytes a thread may spill; docs/schedules.md says why
ALLOWED = {
    "alibi_documents": {
        "sm_75": {256: 864},
        "sm_80": {256: 16},
        "gfx1100": {256: 64},
    },
    "sinks_gated": {
        "sm_100": {256: 16},
    },
    "relative_bias": {
        "sm_90": {256: 16},
        "gfx90a": {256: 48},
        "gfx942": {256: 48},
        "gfx1100": {64: 16, 128: 64, 256: 416},
    },
    "forgetting": {
        "gfx90a": {256: 48},
        "gfx942": {256: 64},
        "gfx1100": {256: 336},
        "sm_100": {64: 32},
    },
    "sigmoid": {
        "gfx1100": {256: 320},
    },
    "differential": {
        "sm_75": {64: 16, 256: 896},
        "gfx1100": {64: 272, 128: 112, 256: 944},
    },
    "parallax": {
        "sm_90": {256: 464},
        "gfx90a": {256: 128},
        "gfx942": {256: 432},
        "gfx1100": {128: 144, 256: 1040},
        "sm_86": {64: 16},
        "sm_89": {64: 16},
    },
    "mla": {
        "gfx1100": {64: 1536, 128: 1536, 256: 1536},
    },
    "dropout": {
        "gfx1100": {256: 128},
        "sm_100": {64: 32},
    },
    "kmeans_assign": {
        "sm_100": {256: 32},
        "gfx1100": {128: 64, 256: 208},
    },
    "knn": {
        "sm_100": {256: 48},
        "gfx1100": {256: 336},
        "gfx90a": {64: 16, 128: 16, 256: 32},
        "gfx942": {64: 16, 128: 64, 256: 32},
    },
    "boruvka": {
        "sm_75": {256: 144},
        "sm_80": {256: 144},
        "sm_86": {256: 144},
        "sm_89": {256: 144},
        "sm_90": {256: 128},
        "sm_100": {256: 176},
        "sm_120": {256: 176},
        "gfx90a": {256: 304},
        "gfx942": {256: 432},
        "gfx1100": {128: 112, 256: 1136},
    },
    "varlen": {
        "sm_100": {128: 16},
    },
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
@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("example", FORWARD)
def test_every_example(example, size, target, cache):
    if (example, target) in TOO_LARGE:
        with pytest.raises(SpecError, match="E310"):
            check(example, target, cache, size)
        return
    allowed = ALLOWED.get(example, {}).get(target, {}).get(size, 0)
    check(example, target, cache, size, allowed=allowed)


@pytest.mark.slow
@pytest.mark.parametrize("target", GPUS)
@pytest.mark.parametrize("example", ["flash", "gemma2"])
def test_float32(example, target, cache):
    check(example, target, cache, half="f32")


@pytest.mark.parametrize("target", ["sm_90", "sm_80", "gfx942"])
@pytest.mark.parametrize("example", ["flash", "gemma2"])
def test_the_split_form(example, target, cache):
    gpu = find_target(target)
    split, merge = compile_for(emitted(example, target, form="split"), gpu, cache)
    assert (split.spills_bytes, merge.spills_bytes) == (0, 0)
    assert ("griddepcontrol.wait" in merge.assembly) == gpu.dependent_launch


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

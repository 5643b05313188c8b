"""The real compiler, for GPUs that are not here."""

import dataclasses
import os
import subprocess
import sys

import pytest

from attngen.core.diagnostics import SpecError
from attngen.core.resources import PACKAGE
from attngen.core.target import TARGETS, find_target
from attngen.runtime import crosscompile
from attngen.runtime.binary import hsaco_report, ptxas_report
from attngen.runtime.cache import Cache
from attngen.runtime.crosscompile import compile_for, compile_many
from tests.unit.runtime.standin_kernel import EMITTED


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "binaries")


def changed(**facts):
    kernel = dataclasses.replace(EMITTED.kernels[0], **facts)
    return dataclasses.replace(EMITTED, kernels=(kernel,))


def test_every_target_without_a_gpu(cache):
    targets = [t for t in TARGETS if t.family != "interpreter"]
    done = []
    found = compile_many([(EMITTED, t) for t in targets], cache, done.append)
    assert sorted(t.name for t in done) == sorted(t.name for t in targets)
    for target, (binary,) in zip(targets, found, strict=True):
        assert binary.data[:4] == b"\x7fELF"
        assert binary.kind == {"cuda": "cubin", "hip": "hsaco"}[target.family]
        assert 0 < binary.registers < 64
        assert (binary.spills_bytes, binary.kernel) == (0, "scale_rows")
        assert str(target.arch) in binary.assembly


def test_the_second_time_nothing_is_compiled(cache, monkeypatch):
    target = find_target("sm_80")
    first = compile_for(EMITTED, target, cache)
    monkeypatch.setattr(crosscompile, "_ask", None)
    assert compile_for(EMITTED, target, Cache(cache.folder)) == first


def test_keys_tell_targets_and_options_apart():
    kernel = EMITTED.kernels[0]
    others = [changed(warps=8), changed(constants={"WIDTH": 64}), changed(divisible=())]
    keys = {crosscompile.binary_key(e, e.kernels[0], find_target("sm_90")) for e in others}
    keys |= {crosscompile.binary_key(EMITTED, kernel, target) for target in TARGETS}
    assert len(keys) == len(others) + len(TARGETS)


def test_too_much_shared_memory(cache):
    small = dataclasses.replace(find_target("sm_80"), shared_memory=-1)
    with pytest.raises(SpecError, match=r"E310.*scale_rows needs 0 bytes"):
        compile_for(EMITTED, small, cache)


def test_the_interpreter_has_no_binaries(cache):
    with pytest.raises(SpecError, match="E302"):
        compile_for(EMITTED, find_target("interpreter"), cache)


@pytest.mark.parametrize(
    ("emitted", "words"),
    [
        (changed(name="absent"), "absent"),
        (changed(signature={"q_ptr": "*bf16"}), "sm_80"),
        (dataclasses.replace(EMITTED, source="import os"), "E390"),
    ],
)
def test_a_failing_compiler_is_an_error_not_a_traceback(cache, emitted, words):
    with pytest.raises(SpecError, match="E311") as caught:
        compile_for(emitted, find_target("sm_80"), cache)
    assert words in str(caught.value)


def test_a_worker_that_dies_is_an_error(cache, monkeypatch):
    dead = subprocess.CompletedProcess([], -11, stdout="", stderr="")
    monkeypatch.setattr(crosscompile.subprocess, "run", lambda *a, **k: dead)
    with pytest.raises(SpecError, match=r"E311.*exit status -11"):
        compile_for(EMITTED, find_target("sm_80"), cache)


def test_the_worker_does_not_import_torch_or_see_the_interpreter(cache, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert compile_for(changed(warps=2), find_target("sm_90"), cache)[0].warps == 2


def test_a_file_named_triton_beside_the_user_is_not_imported(cache, tmp_path, monkeypatch):
    (tmp_path / "triton.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    compile_for(EMITTED, find_target("sm_89"), cache)


def test_reports():
    log = (
        "ptxas info : 0 bytes gmem\n    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill"
    )
    log += " loads\nptxas info    : Used 168 registers, used 1 barriers\n"
    assert ptxas_report(log) == (168, 16)
    assert hsaco_report("  .vgpr_count:     244\n  .vgpr_spill_count: 3\n") == (244, 12)
    assert ptxas_report("") == hsaco_report("") == (0, 0)


NO_GPU = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}


def test_the_real_kernel_runs_in_the_interpreter(tmp_path):
    code = """
import sys
sys.path[:0] = sys.argv[1:3]
from attngen.runtime.settings import prepare_interpreter
assert "triton" not in sys.modules
assert prepare_interpreter()
import torch
from attngen.runtime.load import load_module
from tests.unit.runtime.standin_kernel import EMITTED
q = torch.arange(256.0).reshape(2, 128)
assert torch.equal(load_module(EMITTED).scale(q, 2)[0], q * 2)
"""
    here = __file__.rsplit("/", 1)[0]
    command = [sys.executable, "-c", code, str(PACKAGE.parent), here]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=NO_GPU)
    assert done.returncode == 0, done.stderr


def test_triton_imported_too_early_says_what_to_type():
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import triton
from attngen.runtime.device import target_of
try:
    target_of("cpu")
except ValueError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(PACKAGE.parent)]
    environment = {k: v for k, v in NO_GPU.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "E516" in done.stdout
    assert "TRITON_INTERPRET=1 python" in done.stdout

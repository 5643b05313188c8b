"""Tuning: the fastest candidate that is right wins, is used and is remembered."""

import dataclasses
import sys
from types import ModuleType

import pytest
import torch

from attngen.core.diagnostics import SpecError
from attngen.core.target import find_target
from attngen.runtime import kernel as kernel_module
from attngen.runtime import tune as module
from attngen.runtime.kernel import Kernel
from attngen.runtime.tune import tune
from attngen.runtime.tuned import tuned
from attngen.schedule.schedule import Schedule
from tests.unit.runtime.runtime_specs import flash, spec
from tests.unit.runtime.test_checks import tensors

DEFAULT = Schedule(64, 64, 4, 2, "pointer")
SLOW, FAST, WRONG, BROKEN = (dataclasses.replace(DEFAULT, warps=w) for w in (1, 2, 8, 16))
MILLISECONDS = {SLOW: 3.0, FAST: 1.0, WRONG: 0.1}
SOURCE = "import torch\n\n\ndef flash(q, k, v):\n    return torch.full({}), torch.zeros({})\n"


@pytest.fixture
def kernel(stages, monkeypatch):
    monkeypatch.setattr(kernel_module, "target_of", lambda device: find_target("sm_90"))

    def emit(program, schedule, target):
        if schedule == BROKEN:
            raise RuntimeError("out of resource: shared memory")
        value = 2.0 if schedule == WRONG else 1.0
        out = f"q.shape, {value}, dtype=q.dtype"
        text = SOURCE.format(out, f"q.shape[:{-1}]") + f"# {schedule.warps}\n"
        return dataclasses.replace(stages.emitted, source=text)

    fake = ModuleType("emit")
    fake.emit = emit
    monkeypatch.setitem(sys.modules, "attngen.backend.triton.emit", fake)
    kernel = Kernel(spec(flash()))
    clock = {1: 3.0, 2: 1.0, 8: 0.1, 4: 2.0}
    monkeypatch.setattr(module, "_milliseconds", lambda call: clock[kernel.last.schedule.warps])
    return kernel


def call_sets_last(kernel, given):
    kernel(**given)
    return kernel.last.schedule


def test_the_fastest_right_candidate_wins(kernel):
    given, seen = tensors(), []
    best = tune(kernel, given, [SLOW, WRONG, BROKEN, FAST], seen.append)
    assert best == FAST
    assert [m.milliseconds for m in seen] == [3.0, None, None, 1.0]
    assert "results differ" in seen[1].problem
    assert "shared memory" in seen[2].problem
    assert call_sets_last(kernel, given) == FAST


def test_a_later_kernel_finds_it(kernel):
    given = tensors()
    tune(kernel, given, [SLOW, FAST])
    later = Kernel(spec(flash()))
    request = later.request(**given)
    assert tuned(later.spec, request, later.cache) == FAST
    assert tuned(later.spec, request, later.cache, "another GPU") is None
    assert call_sets_last(later, given) == FAST
    again = Kernel(spec(flash()))
    assert call_sets_last(again, given) == FAST  # the file itself comes from the cache now


def test_another_gpu_keeps_the_default(kernel, monkeypatch):
    given = tensors()
    tune(kernel, given, [SLOW, FAST])
    monkeypatch.setattr("attngen.runtime.tuned.device_name", lambda: "another GPU")
    assert call_sets_last(Kernel(spec(flash())), given) == DEFAULT


def test_no_candidate_left(kernel):
    with pytest.raises(SpecError, match="E321"):
        tune(kernel, tensors(), [WRONG, BROKEN])


def test_a_failed_search_leaves_the_default_in_use(kernel):
    given = tensors()
    with pytest.raises(SpecError):
        tune(kernel, given, [WRONG])
    assert call_sets_last(kernel, given) == DEFAULT


def test_the_cpu_is_not_tuned(stages):
    with pytest.raises(SpecError, match="E320"):
        tune(Kernel(spec(flash())), tensors(), [FAST])


def test_close_results():
    close, base = module._close, torch.tensor([1.0, float("inf"), float("nan"), 0.0])
    assert close(base, base)
    assert close(base * 1.001, base)
    assert not close(torch.tensor([1.0, 2.0, float("nan"), 0.0]), base)
    assert not close(base * 1.1, base)

"""The stages before the runtime, replaced by stand-ins that count what they are asked for."""

import sys
from types import ModuleType

import pytest

import attngen.runtime.device
from attngen.backend.emitted import Emitted
from attngen.schedule.schedule import Schedule

SOURCE = '''"""Stand-in for attention: zeros."""

import torch


def flash(q, k, v, *scalars):
    """Results in the layout of q."""
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype, device=q.device)
    lse = torch.zeros(q.shape[:-1], dtype=torch.float32, device=q.device)
    return out, lse
'''


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test touches the user's cache."""
    monkeypatch.setenv("ATTNGEN_CACHE", str(tmp_path / "cache"))


class Stages:
    """What the stand-ins answer with, and what they were asked."""

    def __init__(self) -> None:
        self.emitted = Emitted(SOURCE, "flash", ("q", "k", "v"), ("out", "lse"), ())
        self.schedule = Schedule(64, 64, 4, 2, "pointer")
        self.asked = []


@pytest.fixture
def stages(monkeypatch) -> Stages:
    found = Stages()

    def build_program(attention, sizes, half):
        found.asked.append((dict(sizes), half))
        return "program"

    def choose(program, target, options=None, *, short=False):
        return found.schedule

    def emit(program, schedule, target):
        return found.emitted

    for name, function in {
        "attngen.passes.pipeline": build_program,
        "attngen.schedule.choose": choose,
        "attngen.backend.triton.emit": emit,
    }.items():
        module = ModuleType(name)
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(attngen.runtime.device, "prepare_interpreter", lambda: True)
    return found

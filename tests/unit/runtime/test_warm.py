"""The thread that prepares Triton: one, with a GPU, not in the interpreter, never an error."""

import sys
import threading
from types import ModuleType, SimpleNamespace

import pytest

from attngen.runtime import settings, warm


@pytest.fixture
def fresh(monkeypatch):
    """A process with a GPU, Triton not imported yet; the runs of the thread are counted."""
    done = []
    monkeypatch.setattr(warm, "_threads", [])
    monkeypatch.setattr(warm, "gpu_present", lambda: True)
    monkeypatch.setattr(warm, "_prepare", lambda: done.append(threading.current_thread().name))
    monkeypatch.delenv(settings.INTERPRET, raising=False)
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    return done


def test_it_runs_once_and_beside(fresh):
    warm.start()
    warm.start()
    warm.finish()
    assert fresh == ["attngen-warm"]


@pytest.mark.parametrize("reason", ["imported", "interpreted", "no GPU"])
def test_it_does_not_run(fresh, monkeypatch, reason):
    if reason == "imported":
        monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    if reason == "interpreted":
        monkeypatch.setenv(settings.INTERPRET, "1")
    if reason == "no GPU":
        monkeypatch.setattr(warm, "gpu_present", lambda: False)
    warm.start()
    warm.finish()
    assert fresh == []


def test_what_goes_wrong_in_it_is_no_error(monkeypatch, recwarn):
    broken = ModuleType("triton")  # no such submodule
    monkeypatch.setitem(sys.modules, "triton", broken)
    monkeypatch.delitem(sys.modules, "triton.compiler", raising=False)
    warm._prepare()
    assert not recwarn.list


@pytest.mark.parametrize("initializing", [True, None])
def test_before_triton_is_imported_the_environment_decides(monkeypatch, initializing):
    monkeypatch.delenv(settings.INTERPRET, raising=False)
    if initializing is None:
        monkeypatch.delitem(sys.modules, "triton", raising=False)
    else:
        half = ModuleType("triton")
        half.__spec__ = SimpleNamespace(_initializing=True)
        monkeypatch.setitem(sys.modules, "triton", half)
    assert not settings.interpreter_active()

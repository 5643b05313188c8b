"""A thread without a GPU context gets one, once."""

import threading

import pytest
import torch

from attngen.runtime import launch


@pytest.fixture
def calls(monkeypatch):
    """What is asked of torch's CUDA in a thread of its own."""
    made = []

    class Device:
        def __init__(self, place):
            made.append(str(place))

        __enter__ = __exit__ = lambda *_: None

    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "set_device", lambda place: made.append("bound"))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    return made


def in_a_thread(run):
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def plan(device):
    call = launch.Call({}, {}, None, device, 1, 1, 1, 1)
    return launch.Plan(call, lambda *x: x, single=False, plain=True)


def test_each_thread_is_bound_once(calls):
    def twice():
        assert plan("cuda:0").run((1, 2)) == (1, 2)
        plan("cuda:0").run(())

    in_a_thread(twice)
    assert calls == ["cuda:0", "bound"]
    in_a_thread(twice)
    assert calls == ["cuda:0", "bound"] * 2


def test_on_the_cpu_nothing_is_asked(calls):
    in_a_thread(lambda: plan("cpu").run(()))
    assert calls == []

"""Launch keys tell apart all that Triton tells apart; what goes wrong falls back to Triton."""

from types import SimpleNamespace

import pytest
import torch
import triton
from triton.compiler import ASTSource
from triton.runtime.cache import get_cache_manager
from triton.tools.tensor_descriptor import TensorDescriptor

from attngen.runtime import remember
from attngen.runtime.cache import Cache
from attngen.runtime.remember import Memory, launch_key

OPTIONS = {"num_warps": 4, "num_stages": 2}
BYTES = torch.zeros(256, dtype=torch.int8)
HALF = torch.zeros(4, 16, dtype=torch.float16)


class Function:
    """Stands for a jit function of a generated file."""

    def __init__(self, module="attngen_kernel_0", name="run"):
        self.__module__, self.__name__, self.pre_run_hooks = module, name, []


@pytest.fixture(autouse=True)
def gpu(monkeypatch, tmp_path):
    """A GPU to name in keys, and a Triton cache of its own."""
    active = SimpleNamespace(get_current_target=lambda: "sm_90")
    monkeypatch.setattr(triton.runtime, "driver", SimpleNamespace(active=active))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path / "triton"))
    return active


def key(*arguments, function=None, **options):
    return launch_key(function or Function(), arguments, OPTIONS | options)


def test_different_launches_have_different_keys(gpu, monkeypatch):
    described = [
        TensorDescriptor(HALF, [4, 16], [16, 1], [2, 16]),
        TensorDescriptor(HALF, [4, 16], [16, 1], [4, 16]),
        TensorDescriptor(HALF.bfloat16(), [4, 16], [16, 1], [2, 16]),
        TensorDescriptor(HALF, [4, 16], [16, 1], [2, 16], padding="nan"),
    ]
    tensors = [HALF, HALF.bfloat16(), HALF[:, 1:], BYTES]
    numbers = [1, 2, 16, 2**31, 2**31 + 1, -(2**31) - 1, -5, True, 1.0]
    keys = [key(a) for a in (*described, *tensors, *numbers)]
    keys += [key(1, 2), key(2, 1), key(2, num_warps=8), key(2, function=Function(name="other"))]
    keys += [key(2, function=Function("attngen_kernel_1"))]
    gpu.get_current_target = lambda: "sm_100"
    keys += [key(2)]
    monkeypatch.setenv("DISABLE_PTXAS_OPT", "1")
    keys += [key(2)]
    assert len(set(keys)) == len(keys)
    assert None not in keys


def test_lengths_share_a_key():
    assert key(17, HALF) == key(33, HALF[1:])
    assert key(TensorDescriptor(HALF, [4, 16], [16, 1], [2, 16])) == key(
        TensorDescriptor(HALF, [2, 16], [16, 1], [2, 16])
    )


def test_no_key_where_triton_is_watched(monkeypatch):
    assert key(1, function=Function("somebody")) is None
    hooked = Function()
    hooked.pre_run_hooks.append(print)
    assert key(1, function=hooked) is None
    for group, name in remember.OBSERVERS:
        with monkeypatch.context() as patch:
            patch.setattr(getattr(triton.knobs, group), name, lambda *a: None)
            assert key(1) is None
    assert key(1) is not None


def stored(folder="abcd" * 16, constants=None):
    """What Triton gives back from a launch, with its files in Triton's cache."""
    manager = get_cache_manager(folder)
    group = {"run.json": manager.put("{}", "run.json", binary=False)}
    manager.put_group("run.json", group)
    function = SimpleNamespace(__name__="run", arg_names=["b", "a"])
    source = ASTSource(function, {"b": "i32", "a": "*fp16"}, constants)
    return SimpleNamespace(src=source, hash=folder)


@pytest.fixture
def loads(monkeypatch):
    """CompiledKernel replaced by its arguments."""
    made = []

    def compiled(source, group, name):
        made.append((list(source.signature.items()), source.constants, sorted(group), name))
        return made[-1]

    monkeypatch.setattr(triton.compiler, "CompiledKernel", compiled)
    return made


def test_another_process_finds_what_was_launched(tmp_path, loads):
    compiled = stored(constants={(0,): 1})
    first = Memory(Cache(tmp_path / "shared"))
    assert first.find(Function(), (1, HALF), OPTIONS) is None
    first.keep(Function(), (1, HALF), OPTIONS, compiled)
    assert first.find(Function(), (1, HALF), OPTIONS) is compiled
    other = Memory(Cache(tmp_path / "shared"))
    expected = ([("b", "i32"), ("a", "*fp16")], {(0,): 1}, ["run.json"], "abcd" * 16)
    assert other.find(Function(), (1, HALF), OPTIONS) == expected
    assert other.find(Function(), (1, HALF), OPTIONS) is not None
    assert len(loads) == 1
    assert other.find(Function(), (2, HALF), OPTIONS) is None


def test_devices_load_their_own_kernel(tmp_path, loads, monkeypatch):
    Memory(Cache(tmp_path / "shared")).keep(Function(), (1,), OPTIONS, stored())
    memory = Memory(Cache(tmp_path / "shared"))
    for device in (0, 1, 0, 1):
        monkeypatch.setattr(torch.cuda, "current_device", lambda device=device: device)
        assert memory.find(Function(), (1,), OPTIONS) is not None
    assert len(loads) == 2


def test_an_emptied_triton_cache_is_no_harm(tmp_path, loads, monkeypatch):
    Memory(Cache(tmp_path / "shared")).keep(Function(), (1,), OPTIONS, stored())
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path / "empty"))
    assert Memory(Cache(tmp_path / "shared")).find(Function(), (1,), OPTIONS) is None
    assert loads == []


def test_what_is_not_understood_goes_through_triton(tmp_path, monkeypatch):
    memory = Memory(Cache(tmp_path / "shared"))
    memory.keep(Function(), (object(),), OPTIONS, stored())
    memory.keep(Function(), (1,), OPTIONS, SimpleNamespace())
    memory.keep(Function(), (1,), OPTIONS, stored(constants={(0,): HALF}))
    assert memory.loaded == {}
    assert memory.find(Function(), (object(),), OPTIONS) is None
    memory.keep(Function(), (1,), OPTIONS, stored())
    monkeypatch.delattr(triton.compiler, "ASTSource")
    assert Memory(Cache(tmp_path / "shared")).find(Function(), (1,), OPTIONS) is None

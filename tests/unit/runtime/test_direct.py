"""Repeated calls: the compiled kernel is launched directly, and only where that is the same."""

import threading

import pytest
import torch
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from attngen.core.dtype import Dtype
from attngen.core.target import find_target
from attngen.ir.attention import Attention
from attngen.runtime.direct import Descriptors, Launcher, direct, fixed_by_signature
from attngen.runtime.kernel import Kernel
from tests.unit.runtime.runtime_specs import flash, spec, tensor, windowed
from tests.unit.runtime.test_checks import tensors


class Compiled:
    """Stands for Triton's CompiledKernel."""

    def __init__(self, log):
        self.log = log

    def __getitem__(self, grid):
        assert len(grid) == 3
        return lambda *arguments: self.log.append(("direct", grid, arguments))


class Function(JITFunction):
    """Stands for a jit function of two parameters; a launch gives the compiled kernel."""

    def __init__(self):
        self.log, self.params = [], ["a", "b"]

    def __getitem__(self, grid):
        def launch(*arguments, **options):
            self.log.append(("jit", grid, arguments, options))
            return Compiled(self.log)

        return launch


class NoMemory:
    """Remembers nothing, and notes what it was asked to keep."""

    known = None

    def __init__(self):
        self.kept = []

    def find(self, function, arguments, options):
        return self.known

    def keep(self, function, arguments, options, compiled):
        self.kept.append((arguments, options))


def test_the_first_launch_of_a_grid_goes_through_triton():
    function, memory = Function(), NoMemory()
    launcher = Launcher(function, memory)
    for value in (1, 2, 3):
        launcher[(7,)](value, 0, num_warps=4)
    launcher[(7, 2)](4, 0, num_warps=4)
    assert [entry[:3] for entry in function.log] == [
        ("jit", (7,), (1, 0)),
        ("direct", (7, 1, 1), (2, 0)),
        ("direct", (7, 1, 1), (3, 0)),
        ("jit", (7, 2), (4, 0)),
    ]
    assert memory.kept == [((1, 0), {"num_warps": 4}), ((4, 0), {"num_warps": 4})]


def test_a_remembered_kernel_is_launched_at_once():
    function, memory = Function(), NoMemory()
    memory.known = Compiled(function.log)
    launcher = Launcher(function, memory)
    launcher[(7,)](1, 0, num_warps=4)
    launcher[(7,)](2, 0, num_warps=4)
    assert [entry[0] for entry in function.log] == ["direct", "direct"]


def test_constants_by_name_stay_with_triton():
    function, memory = Function(), NoMemory()
    launcher = Launcher(function, memory)
    for _ in range(2):
        launcher[(7,)](1, b=16)
    assert [entry[0] for entry in function.log] == ["jit", "jit"]
    assert memory.kept == []


def test_where_nothing_was_compiled_nothing_is_kept():
    class Hooked(Function):
        def __getitem__(self, grid):
            return lambda *arguments, **options: None

    launcher = Launcher(Hooked(), NoMemory())
    launcher[(1,)](1, 2)
    assert (launcher.ready, launcher.memory.kept) == ({}, [])


def test_threads_share_a_launcher():
    function = Function()
    launcher, start = Launcher(function, NoMemory()), threading.Barrier(4)

    def work():
        start.wait()
        for _ in range(200):
            launcher[(7,)](1, 2)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kinds = [entry[0] for entry in function.log]
    assert len(kinds) == 800
    assert 1 <= kinds.count("jit") <= 4


HOST = """
def host(q):
    tiles = TensorDescriptor(q, [4, 16], [16, 1], [2, 16])
    kernel[(len(q),)](tiles, q, num_warps=4)
    return (q,)
"""


def host(kernel):
    names = {"TensorDescriptor": TensorDescriptor, "kernel": kernel}
    exec(HOST, names)
    return names["host"], names


def test_a_host_function_is_copied_and_the_file_stays_as_it_is():
    function = Function()
    entry, names = host(function)
    first, later = direct(entry, NoMemory())
    q = torch.zeros(4, 16)
    for call in (first, later, later):
        assert call(q) == (q,)
    assert [log[0] for log in function.log] == ["jit", "direct", "direct"]
    assert names["kernel"] is function
    assert names["TensorDescriptor"] is TensorDescriptor
    descriptors = [log[2][0] for log in function.log]
    assert descriptors[0] == descriptors[1] == descriptors[2]
    assert all(type(d) is TensorDescriptor for d in descriptors)


def test_the_first_call_checks_descriptors():
    first, _ = direct(host(Function())[0], NoMemory())
    with pytest.raises(AssertionError, match="aligned"):
        first(torch.zeros(100, dtype=torch.int8)[1:65].view(4, 16))


@pytest.mark.parametrize("entry", [len, lambda q: (q,), Launcher])
def test_other_functions_are_left_alone(entry):
    assert direct(entry, NoMemory()) == (entry, entry)


def test_descriptors_equal_tritons():
    q = torch.zeros(2, 3, 32, 16, dtype=torch.float16)
    made = Descriptors(TensorDescriptor)
    assert made.from_tensor(q, [1, 1, 8, 16]) == TensorDescriptor.from_tensor(q, [1, 1, 8, 16])


def test_where_the_signature_fixes_the_kernel():
    wide = Attention("w", (tensor("n", "input", dtype=Dtype.I64),), None, ())
    cases = [("sm_90", flash()), ("sm_90", windowed()), ("sm_90", wide), ("gfx942", flash()),
             ("interpreter", flash())]  # fmt: skip
    found = [fixed_by_signature(find_target(t), a.tensors) for t, a in cases]
    assert found == [True, True, False, False, False]


def test_stand_ins_of_the_interpreter_are_not_replaced(stages):
    kernel = Kernel(spec(flash()))
    kernel(**tensors())
    (plan,) = kernel._plans.values()
    assert plan.entry is kernel.last.entry

"""Host functions of files with CuTe kernels: as data they do what they do as text.

What a plan launches is compiled code, and test_cute.py's matter; here a call of a plan is one
launch that takes address, sizes and strides of everything. Needs no CuTe DSL.
"""

import ctypes
from types import FunctionType, SimpleNamespace

import pytest
import torch

import attngen
from attngen.aot.launcher import ready
from attngen.aot.launcher.prepare import Preparation
from attngen.core.diagnostics import SpecError
from attngen.core.dtype import Dtype
from attngen.core.target import find_target
from attngen.cutelib.launch import Forward
from attngen.runtime.load import load_module
from attngen.runtime.specialise import Request
from tests.packages.test_plans import (
    ROOT,
    Described,
    Driver,
    Torch,
    entry_of,
    examples,
    inputs,
    number_of,
    pattern,
    seen,
)

WORD = 8


def files(name):
    """(kernel, form, file, wiring) of the files of a spec that hold kernels of CuTe."""
    target = find_target("sm_90")
    kernel = attngen.compile(ROOT / "examples" / f"{name}.attn", target="sm_90", backend="cute")
    made = kernel.specialise()
    yield kernel, "forward", made.emitted, None
    pair = kernel.training(Request(made.request.sizes, Dtype.BF16, target))
    for form, file in (("training", pair.forward), ("backward", pair.backward)):
        if file.backend == "cute":
            yield kernel, form, file, pair.wiring


def able():
    for name in examples():
        try:
            path = ROOT / "examples" / f"{name}.attn"
            attngen.compile(path, target="sm_90", backend="cute").specialise()
        except SpecError:
            continue
        yield name


def run_host(file, values):
    """(launches, results) of the generated host function: (name, grid or None, arguments)."""
    module = load_module(file)
    entry, launches = getattr(module, file.entry), []

    class Kernel:
        def __init__(self, name):
            self.name = name

        def __getitem__(self, grid):
            return lambda *given, **_: launches.append((self.name, tuple(grid), given))

        def __call__(self, *given):
            launches.append((self.name, None, given))

    names = {k.name: Kernel(k.name) for k in file.kernels}
    plans = {n: x for n, x in vars(module).items() if isinstance(x, Forward)}
    names |= {n: Kernel(x.plan.name) for n, x in plans.items()}
    names |= {"torch": Torch(), "TensorDescriptor": Described}
    copy = FunctionType(entry.__code__, entry.__globals__ | names, entry.__name__)
    return launches, copy(*values), {x.plan.name: x.plan for x in plans.values()}


def axes(kind):
    """Rank of an argument of a plan; 0 for a number."""
    return 0 if " " not in kind else int(kind.split()[1])


def types_of(plan):
    kinds = [(axes(kind), kind) for _, kind in plan.arguments]
    return [
        " ".join(["ptr", *["i64"] * 2 * n]) if n else {"f32": "fp32"}.get(k, k) for n, k in kinds
    ]


def launch_of(step, plans):
    """A call of a plan as one launch."""
    if step[0] != "call":
        return step
    _, plan, given = step
    fields = []
    for (_, kind), name in zip(plans[plan].arguments, given, strict=True):
        rank = axes(kind)
        sizes = [["shape", name, i] for i in range(rank)]
        strides = [["stride", name, i] for i in range(rank)]
        fields.append([["address", name, 0], *sizes, *strides] if rank else [name])
    return ["launch", plan, [1], fields]


class Reader(Driver):
    """Reads parameters that are structs too."""

    def read(self, kernel, parameters):
        if kernel["backend"] == "triton":
            return super().read(kernel, parameters)
        out = []
        for i, type_ in enumerate(kernel["parameters"]):
            kinds = type_.split()
            at = parameters[i]
            words = [ctypes.c_uint64.from_address(at + WORD * j).value for j in range(len(kinds))]
            out.append(tuple(words))
        return out


def run_plan(file, plans, values, monkeypatch):
    driver = Reader()
    kernels = {k.name: entry_of(k) for k in file.kernels if k.signature}
    for name, plan in plans.items():
        kernels[name] = {"backend": "cute", "parameters": types_of(plan), "divisible": []}
        kernels[name] |= {"symbol": name, "clusters": 1}
    host = [launch_of(step, plans) for step in file.host]
    program = {"arguments": list(file.arguments), "host": host}
    monkeypatch.setattr(ready, "torch", Torch())
    monkeypatch.setattr(ready, "stream_of", lambda device: 0)
    declared = [
        (n, None if isinstance(v, torch.Tensor) else ("k", number_of(v)))
        for n, v in zip(file.arguments, values, strict=True)
    ]

    def make(tensors):
        load = lambda name: (0, kernels[name])  # noqa: E731
        return Preparation(driver, program, tensors, load, torch.device("cpu"))

    made = ready.prepare(make, declared, values, single=False)
    made.arrays = tuple((shape, dtype, pattern) for shape, dtype, _ in made.arrays)
    return driver.launches, made.run(values)


def require_same(given, words, own):
    """An argument of a plan as both saw it."""
    if not isinstance(given, torch.Tensor):
        assert len(words) == 1
        return
    pointer, *rest = words
    assert rest == [*given.shape, *given.stride()]
    assert given.data_ptr() == pointer or not any(given is x for x in own)


@pytest.mark.parametrize("name", list(able()))
def test_steps_do_what_the_text_does(name, monkeypatch):
    for kernel, form, file, wiring in files(name):
        values = inputs(kernel, form, wiring)
        theirs, results, plans = run_host(file, values)
        mine, found = run_plan(file, plans, values, monkeypatch)
        assert [n for n, _, _ in theirs] == [n for n, _, _ in mine]
        types = {k.name: list(k.signature.values()) for k in file.kernels}
        for (own, grid, given), (_, other, read) in zip(theirs, mine, strict=True):
            assert grid is None or (*grid, 1, 1)[:3] == other
            for i, (a, b) in enumerate(zip(given, read, strict=True)):
                if grid is None:
                    require_same(a, b, values)
                    continue
                want = seen(a, types[own][i], values)
                pair = (want, b) if isinstance(want, tuple) else ((want,), (b,))
                assert pair[0][1:] == pair[1][1:] and pair[0][0] in (None, pair[1][0])
        for a, b in zip(results, found, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            if form == "backward" and torch.equal(a, a):
                torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_ends_of_runs_are_what_torch_finds(monkeypatch):
    """The sorted argument is looked at in every call: its numbers are not part of a signature."""
    program = {
        "arguments": ["doc"],
        "host": [["ends", "after", "doc"], ["return", ["after"]]],
    }
    monkeypatch.setattr(ready, "stream_of", lambda device: 0)
    first = torch.tensor([[0, 0, 1, 1, 1, 4]], dtype=torch.int32)
    made = ready.prepare(
        lambda t: Preparation(SimpleNamespace(), program, t, None, torch.device("cpu")),
        [("doc", None)],
        [first],
        single=False,
    )
    for doc in (first, first.flip(0) + torch.tensor([0, 1, 1, 1, 2, 2], dtype=torch.int32)):
        (found,) = made.run([doc])
        wanted = torch.searchsorted(doc, doc, right=True, out_int32=True)
        assert found.dtype is torch.int32 and torch.equal(found, wanted)

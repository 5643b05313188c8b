"""What a package's launcher does is what the generated host function does, for every example.

The host function runs with stand-ins for its kernels, the launcher with a stand-in for the driver;
both must launch the same kernels with the same grids, numbers, descriptors and tensors, and finish
with the same sums. Arrays are filled with a pattern, so that sums of them can be compared.
"""

import ctypes
import dataclasses
import math
from pathlib import Path
from types import FunctionType, SimpleNamespace

import pytest
import torch

import attngen
from attngen.aot.launcher import ready
from attngen.aot.launcher.prepare import Preparation, bits
from attngen.core.diagnostics import SpecError
from attngen.core.dtype import Dtype
from attngen.core.target import find_target
from attngen.ir.attention import Attention
from attngen.reference.inputs import fill_sizes, make_inputs
from attngen.runtime.load import load_module
from attngen.runtime.specialise import Request

ROOT = Path(__file__).resolve().parents[2]
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "i32": torch.int32, "i64": torch.int64}
TYPES |= {"i1": torch.bool, "i8": torch.int8}
CODES = {"i32": "<i", "i64": "<q", "fp32": "<f", "i1": "<b"}


def examples():
    for path in sorted((ROOT / "examples").glob("*.attn")):
        try:
            attngen.compile(path)
        except SpecError:
            continue
        yield path.stem


def emitted(name, target, form):
    kernel = attngen.compile(ROOT / "examples" / f"{name}.attn", target=target)
    request = Request(kernel.specialise().request.sizes, Dtype.BF16, find_target(target))
    if form in ("forward", "decode"):
        short = dataclasses.replace(request, short=form == "decode")
        return kernel, kernel.made(short).emitted, None
    training = kernel.training(request)
    file = training.forward if form == "training" else training.backward
    return kernel, file, training.wiring


def pattern(shape, dtype=torch.float32, device="cpu"):
    count = math.prod(shape)
    return (torch.arange(count) % 17 - 8).to(dtype).reshape(tuple(shape))


class Torch:
    """torch, but for arrays filled with the pattern."""

    empty = zeros = staticmethod(pattern)

    def __getattr__(self, name):
        return getattr(torch, name)


class Described:
    """Stands for TensorDescriptor."""

    def __init__(self, base, shape, strides, block):
        self.base, self.shape, self.strides, self.block = base, shape, strides, block


def run_host(file, values):
    """(launches, results) of the generated host function; a launch: name, grid, arguments."""
    entry = getattr(load_module(file), file.entry)
    launches = []

    def stand_in(kernel):
        def at(grid):
            return lambda *given, **_: launches.append((kernel.name, tuple(grid), given))

        return SimpleNamespace(at=at)

    class Kernels:
        def __init__(self, kernel):
            self.at = stand_in(kernel).at

        def __getitem__(self, grid):
            return self.at(grid)

    names = {k.name: Kernels(k) for k in file.kernels}
    names |= {"torch": Torch(), "TensorDescriptor": Described}
    copy = FunctionType(entry.__code__, entry.__globals__ | names, entry.__name__)
    return launches, copy(*values)


class Driver:
    """Stands for the driver: a launch reads its parameters as a GPU would."""

    version = 13020

    def __init__(self):
        self.launches = []
        self.library = SimpleNamespace(cuTensorMapEncodeTiled=self.encode)
        self.maps = {}

    def check(self, status, doing):
        assert status == 0, doing

    def encode(self, place, kind, rank, pointer, sizes, steps, box, *_):
        self.maps[place] = (pointer, list(sizes)[::-1], list(steps)[::-1], list(box)[::-1])
        return 0

    def launcher(self, function, grid, kernel, parameters):
        def launch(stream):
            self.launches.append((kernel["symbol"], grid, self.read(kernel, parameters)))

        return launch

    def read(self, kernel, parameters):
        """Each parameter of the kernel as 64 bits, descriptors as what they hold."""
        out, at = [], 0
        for type_ in kernel["parameters"]:
            if not type_.startswith("tensordesc"):
                out.append(ctypes.c_uint64.from_address(parameters[at]).value)
                at += 1
                continue
            pointer, sizes, steps, _ = self.maps[parameters[at]]
            rank = len(sizes)
            slots = parameters[at + 1 : at + 1 + 2 * rank]
            rest = [ctypes.c_uint64.from_address(slot).value for slot in slots]
            out.append((pointer, sizes, steps, rest))
            at += 1 + 2 * rank
        assert at + 2 == len(parameters)  # two pointers to scratch memory
        return out


def entry_of(kernel):
    names = list(kernel.signature)
    meta = {
        "elem_size": 2,
        "elem_type": 10,
        "swizzle": 3,
        "fp4_padded": False,
        "block_size": [1] * 4,
    }
    descriptors = []
    for type_ in kernel.signature.values():
        if type_.startswith("tensordesc"):
            size = 4 if "fp32" in type_ else 2
            rank = type_.count(",") + 1
            descriptors.append(meta | {"elem_size": size, "block_size": [1] * rank})
    return {
        "backend": "triton",
        "symbol": kernel.name,
        "parameters": list(kernel.signature.values()),
        "divisible": [names.index(n) for n in kernel.divisible],
        "descriptors": descriptors,
        "clusters": 1,
        "scratch": [0, 1],
        "profile_scratch": 0,
    }


def run_plan(file, values, monkeypatch):
    driver = Driver()
    kernels = {k.name: entry_of(k) for k in file.kernels}
    program = {"arguments": list(file.arguments), "host": list(file.host)}
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


def number_of(value):
    kinds = {bool: "bool", int: "i64", float: "f32"}
    return {"name": "x", "dtype": kinds[type(value)], "clamp": False}


def seen(given, type_, arguments):
    """An argument of a stand-in kernel as the driver sees it; None: memory of the host's own."""
    if isinstance(given, Described):
        own = given.base.data_ptr() if any(given.base is a for a in arguments) else None
        size = given.base.element_size()
        steps = [s * size for s in given.strides[:-1]]
        rest = [bits("<i", s) for s in given.shape] + [bits("<q", s) for s in given.strides]
        return own, list(given.shape), steps, rest
    if isinstance(given, torch.Tensor):
        return given.data_ptr() if any(given is a for a in arguments) else None
    return bits(CODES[type_], given)


def require_type(given, type_):
    """A kernel compiled ahead of time reads what it was declared to read."""
    tensor = given.base if isinstance(given, Described) else given
    if isinstance(tensor, torch.Tensor):
        element = type_.removeprefix("tensordesc<").removeprefix("*").split("[")[0]
        assert TYPES[element] is tensor.dtype


def compare(file, values, monkeypatch):
    theirs, results = run_host(file, values)
    mine, found = run_plan(file, values, monkeypatch)
    assert [(n, (*g, 1, 1)[:3]) for n, g, _ in theirs] == [(n, g) for n, g, _ in mine]
    types = {k.name: list(k.signature.values()) for k in file.kernels}
    for (name, _, given), (_, _, read) in zip(theirs, mine, strict=True):
        for wanted, got, type_ in zip(given, read, types[name], strict=True):
            require_type(wanted, type_)
            want = seen(wanted, type_, values)
            if isinstance(want, tuple):
                assert want[1:] == got[1:]
                assert want[0] in (None, got[0])
            else:
                assert want in (None, got)
    for a, b in zip(results, found, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if file.outputs[0].startswith("d_"):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    return theirs


def inputs(kernel, form, wiring):
    attention = kernel.spec.attention
    assert isinstance(attention, Attention)
    positions = {"decode": (3, 512)}.get(form, (77, 130))
    sizes = dict(kernel.specialise().request.sizes)
    for t in attention.tensors:
        for a in t.axes:
            if a.role == "position" and a.name.isidentifier() and t.role != "input":
                sizes[a.name] = positions[t.role != "query"]
    lengths = fill_sizes(attention, sizes)
    made = list(make_inputs(attention, lengths, half=torch.bfloat16).values())
    if form != "backward":
        return made
    call = kernel.checker.check(made)
    from attngen.runtime.autograd import shapes
    from attngen.runtime.empty import result_shape

    saved = [torch.zeros(s, dtype=d) for s, d in shapes(attention, call, wiring, made)]
    results = [
        torch.zeros(s, dtype=d)
        for s, d, _ in (result_shape(attention, call, made, e) for _, e in attention.outputs)
    ]
    picked = [results[i] for i in (*wiring.results, *wiring.seeds)]
    return [*made, *saved, *(torch.zeros_like(r) for r in picked)]


@pytest.mark.parametrize("target", ["sm_90", "sm_80"])
@pytest.mark.parametrize("form", ["forward", "decode", "training", "backward"])
@pytest.mark.parametrize("name", list(examples()))
def test_the_launcher_does_what_the_host_function_does(name, form, target, monkeypatch):
    try:
        kernel, file, wiring = emitted(name, target, form)
    except SpecError as error:
        assert error.diagnostics[0].code == "E430"  # no backward: nothing to package
        return
    assert compare(file, inputs(kernel, form, wiring), monkeypatch)

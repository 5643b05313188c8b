"""What a package launches of CuTe is what the DSL's own host function launches, byte for byte.

That function runs here, compiled as on a GPU's machine, with its calls of the CUDA runtime
recorded; the package's launcher gets the same shapes and hands its launches to a stand-in for the
driver. Tensors are as large as they like: nobody reads them.
"""

import ctypes
import json
import os
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import attngen
from attngen.aot.cute import BYTES, layout
from attngen.aot.launcher import driver
from attngen.aot.launcher.prepare import Preparation
from attngen.aot.matrix import choices, variant
from attngen.core.dtype import Dtype
from attngen.core.target import find_target
from attngen.cutelib.launch import Forward
from attngen.cutelib.objects import _packer
from attngen.runtime.cache import Cache
from attngen.runtime.interface import feature_names
from attngen.runtime.load import load_module
from tests.packages.building import ROOT, built
from tests.packages.clean_record import Record
from tests.packages.conftest import once
from tests.packages.recorded import Recorded

pytest.importorskip("cutlass")
STREAM = 0x5151
SAMPLES = 40
WIDEST = 1 << 40  # bytes of a stride
DTYPES = {"half": torch.bfloat16, "f32": torch.float32, "i32": torch.int32, "i64": torch.int64}
OFTEN = [("gemma2", "forward"), ("alibi_documents", "forward"), ("alibi_documents", "backward")]
SLOW = [("flash", "forward"), ("flash", "training"), ("flash", "backward"), ("gemma2", "backward")]
SLOW += [("differential", "forward"), ("differential", "training"), ("sinks_gated", "training")]
SLOW += [("relative_bias", "forward"), ("forgetting", "forward"), ("prefix_lm", "backward")]
CASES = [*OFTEN, *(pytest.param(*x, marks=pytest.mark.slow) for x in SLOW)]


def path(name):
    return ROOT / "examples" / f"{name}.attn"


def file_of(name, form):
    """A file with kernels of CuTe."""
    spec = attngen.compile(path(name)).spec
    (choice,) = choices(spec, {n: (128,) for n in feature_names(spec.interface)})
    one = variant(choice, Dtype.BF16, [find_target("sm_90")], Cache(), True, "cute")
    (found,) = [f for f in one.files if f.form == form]
    assert found.emitted.backend == "cute"
    return found.emitted


@pytest.fixture
def case(tmp_path_factory, fake_driver, monkeypatch):
    """(name, form) -> the program in a package, and its host functions as the DSL compiles them."""

    def packaged(name):
        def make(folder):
            found = built([path(name)], ["sm_90"], backend="cute")
            (folder / "manifest.json").write_text(json.dumps(found.manifest))

        return once(tmp_path_factory, f"cute-{name}", make)

    def compiled(name, form, file):
        def make(folder):
            command = [sys.executable, "-m", "tests.packages.recorded", folder]
            own = {"CUTE_DSL_ARCH": "sm_90a", "PYTHONPATH": str(ROOT)}
            environment, text = {**os.environ, **own}, json.dumps([file.source])
            subprocess.run(command, input=text, text=True, check=True, env=environment, cwd=ROOT)

        return once(tmp_path_factory, f"cute-{name}-{form}", make)

    def made(name, form):
        file = file_of(name, form)
        manifest = json.loads((packaged(name) / "manifest.json").read_text())
        monkeypatch.setattr(driver, "CUDA_LIBRARY", str(fake_driver))
        ctypes.CDLL(str(fake_driver)).fake_reset(9, 0, 232448)  # as no test before has left it
        monkeypatch.setattr(driver, "_made", {})
        return Case(compiled(name, form, file), manifest, file, name, form)

    return made


class Shaped:
    """Stands for a tensor of which nothing is read but what a launch is made of."""

    def __init__(self, address, shape, strides, dtype):
        self.address, self.shape, self.strides, self.dtype = address, tuple(shape), strides, dtype

    def data_ptr(self):
        return self.address

    def stride(self):
        return self.strides

    def element_size(self):
        return self.dtype.itemsize


def lengths(rng, spec):
    """A size for every axis of the arguments; heads of keys divide those of queries."""
    group = rng.choice([1, 2, 5])
    found = {}
    for argument in spec["arguments"]:
        for axis, role, size in argument["axes"]:
            if axis not in found:
                found[axis] = size or {"feature": 128}.get(role) or rng.choice([1, 3, 129, 5000])
    heads = {a: r for x in spec["arguments"] for a, r, _ in x["axes"] if r == "head"}
    query = next(a for a, r, _ in spec["arguments"][0]["axes"] if r == "head")
    for name in heads:
        found[name] = rng.choice([1, 4]) * (group if name == query else 1)
    if any(found[query] % found[n] for n in heads):
        found |= {n: found[query] // group for n in heads if n != query}
    return found


def shaped(rng, shape, dtype, plain=False):
    """A tensor with some address and, unless plain, strides with gaps.

    Some strides take more than 36 bits, none more than the 40 that descriptors hold.
    """
    for gaps in ((1, 1, 3, 1000), (1, 3), (1,)):
        strides, step = [], 1
        for size in reversed(shape):
            strides.append(step)
            step *= size
            if not plain:
                step = -(-(step * rng.choice(gaps) + 8 * rng.choice([0, 0, 5])) // 8) * 8
        if max(strides) * dtype.itemsize < WIDEST:
            break
    return Shaped(256 * rng.randrange(1, 1 << 40), shape, tuple(reversed(strides)), dtype)


def tensors_of(rng, spec, program, wiring):
    """Arguments of a program by name, as large as they like: nobody reads them."""
    sizes = lengths(rng, spec)
    if rng.random() < 0.2:  # a stride that takes more than 36 bits
        sizes = {n: 1 if s == 5000 else s for n, s in sizes.items()}
    found = {}
    for a in spec["arguments"]:
        shape = [sizes[axis] for axis, _, _ in a["axes"]]
        found[a["name"]] = shaped(rng, shape, DTYPES[a["dtype"]])
    first = spec["arguments"][0]
    rows = [sizes[axis] for axis, role, _ in first["axes"] if role != "feature"]
    given = program["arguments"][len(found) :]
    if given:
        kinds = [(width, kind) for width, kind in wiring["saved"]]
        widths = {"half": torch.bfloat16, "float32": torch.float32, "int64": torch.int64}
        outputs = [(128 if o["feature"] else 0, o["dtype"]) for o in spec["outputs"]]
        kinds += [outputs[i] for i in (*wiring["results"], *wiring["seeds"])]
        for name, (width, kind) in zip(given, kinds, strict=True):
            shape = [*rows, *([width] if width else [])]
            found[name] = shaped(rng, shape, widths[kind], plain=True)
    return found


def masked(record, types):
    """The bytes of a launch's parameters without padding and what a descriptor does not use."""
    data, out, at = bytes(record.data[: record.bytes]), [], 0
    for type_, (_, size) in zip(types, layout(types), strict=True):
        own = data[at : at + size]
        at += size
        if type_ == "tensormap":
            out.append((type_, own[:64].hex()))
            continue
        end = 0
        for field in type_.split():
            end = -(-end // BYTES[field]) * BYTES[field] + BYTES[field]
            out.append((field, own[end - BYTES[field] : end].hex()))
    assert at == len(data)
    return out


def seen(record, types):
    name = record.name.decode()
    launch = list(record.grid), list(record.block), record.shared, record.stream
    return (
        name,
        launch,
        (record.dependent, record.cooperative, record.others),
        masked(record, types),
    )


class Case:
    """One program of the package beside the compiled host functions of its plans."""

    def __init__(self, folder, manifest, file, name, form):
        self.manifest, self.file = manifest, file
        self.spec = manifest["specs"][name]
        self.variant = self.spec["variants"][0]
        self.program = self.variant["programs"][form]["sm_90"]
        self.driver = driver.driver("cuda")
        self.fake = self.driver.library
        self.fake.fake_record.restype = ctypes.POINTER(Record)
        module = load_module(file)
        own = {x.plan.name: x.plan for x in vars(module).values() if isinstance(x, Forward)}
        entries = [manifest["kernels"][n] for n in self.program["kernels"].values()]
        self.entries = {e["symbol"]: e for e in entries if e["backend"] == "cute"}
        sizes = {s: [n for _, n in layout(e["parameters"])] for s, e in self.entries.items()}
        self.plans = {
            n: (p, [Recorded(folder / f"0.{part.name}", sizes) for part in p.parts])
            for n, p in own.items()
        }
        for symbol, one in sizes.items():
            self.fake.fake_sizes(symbol.encode(), (ctypes.c_int * len(one))(*one), len(one))

    def compare(self, tensors):
        """Number of launches that are equal."""
        prepared = Preparation(self.driver, self.program, tensors, self.load, torch.device("cpu"))
        prepared.build()
        base = len(prepared.arguments) + len(prepared.made)
        places = prepared.places | {n: base + i for i, (n, _) in enumerate(prepared.scratch)}
        own = {n: 4096 * (i + 1) for n, i in places.items() if n not in tensors}
        addresses = [0] * len(places)
        for name, at in places.items():
            addresses[at] = own.get(name) or tensors[name].address
        self.fake.fake_reset(9, 0, 232448)
        for piece in prepared.pieces:
            piece.run(addresses, [None] * len(addresses), STREAM)
        mine = [self.fake.fake_record(i).contents for i in range(self.fake.fake_launches())]
        mine = [r for r in mine if r.name.decode() in self.entries]
        theirs = []
        for kind, *rest in self.file.host:
            if kind == "call":
                theirs += self.recorded(*rest, prepared.shapes, addresses, places)
        types = {s: e["parameters"] for s, e in self.entries.items()}
        for a, b in zip(theirs, mine, strict=True):
            own_types = types[a.name.decode()]
            assert seen(a, own_types) == seen(b, own_types)
        return len(mine)

    def load(self, name):
        number = self.program["kernels"][name]
        entry = self.manifest["kernels"][number]
        return self.driver.load(1, entry), entry

    def recorded(self, plan, given, shapes, addresses, places):
        own, recorded = self.plans[plan]
        packed = []
        for (_, kind), name in zip(own.arguments, given, strict=True):
            shape = shapes[name]
            stands = SimpleNamespace(
                data_ptr=lambda n=name: addresses[places[n]],
                shape=shape.shape,
                stride=lambda s=shape: s.strides,
            )
            packed.append(_packer(kind)(stands))
        return [record for part in recorded for record in part.run(packed, STREAM)]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_every_launch_is_what_the_compiled_host_function_launches(case, name, form):
    made, rng = case(name, form), random.Random(f"{name} {form}")
    for _ in range(SAMPLES):
        tensors = tensors_of(rng, made.spec, made.program, made.variant["wiring"])
        assert made.compare(tensors) == len(made.entries) > 0


@pytest.mark.parametrize("change", ["threads", "shared", "dependent", "grid", "number", "address"])
def test_a_launch_that_differs_is_noticed(case, change):
    """Of the test above: each part of a launch is part of the comparison."""
    made, rng = case("gemma2", "forward"), random.Random(change)
    (entry,) = made.entries.values()
    launch = next(step for step in made.program["host"] if step[0] == "launch")
    if change == "grid":
        launch[2][1] = 2
    elif change == "number":
        launch[3][-1] = [["add", *launch[3][-1], 1]]
    elif change == "address":
        launch[3][8][0][2] += 16
    else:
        entry[change] = not entry[change] if change == "dependent" else entry[change] + 32
    with pytest.raises(AssertionError):
        made.compare(tensors_of(rng, made.spec, made.program, made.variant["wiring"]))

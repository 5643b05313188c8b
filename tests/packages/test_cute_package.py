"""A package with kernels of CuTe: what is in it, which of them a call takes, what is refused.

Its launches are the matter of test_cute_launches.py.
"""

import base64
import copy
import ctypes
import dataclasses
import hashlib
import json
import lzma
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import torch

from attngen.aot import build
from attngen.aot.cpp import bundle
from attngen.aot.inspection import inspect
from attngen.aot.launcher import arguments, driver, kernel, operators, package, ready, selfcheck
from attngen.aot.launcher.errors import DamagedError, NoBinaryError
from attngen.aot.packing import unpacked as unpack
from attngen.aot.wheel import wheel
from attngen.cli.package_command import command
from attngen.core.diagnostics import SpecError
from attngen.runtime import backends
from tests.packages.building import ROOT, built, unpacked
from tests.packages.clean_record import Record
from tests.packages.conftest import once
from tests.packages.test_build import attngen, folder_for
from tests.packages.test_clean import needed
from tests.packages.test_forms import SCHEMA

pytest.importorskip("cutlass")
SPECS = ("flash", "kmeans_assign")
H100 = (9, 0, 232448)
CUTE = ["flash_forward", "flash_forward_again"]
BACKWARD = ["flash_backward_rows", "flash_backward_queries", "flash_backward_keys"]


def make_package(backend="auto"):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ATTNGEN_BACKEND", raising=False)
        return built([ROOT / "examples" / f"{n}.attn" for n in SPECS], ["sm_90"], backend=backend)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The package in memory: everything is in the cache after the first time."""
    once(tmp_path_factory, "auto", lambda folder: unpacked(make_package(), folder))
    return make_package()


@pytest.fixture(scope="module")
def place(made, tmp_path_factory):
    """The folder of the unpacked wheel."""
    return once(tmp_path_factory, "auto", lambda folder: unpacked(made, folder)) / "acme_kernels"


class Loaded:
    """The package behind a stand-in for the driver."""

    def __init__(self, place, fake):
        self.package = package.Package(place)
        self.flash = kernel.Kernel(self.package, "flash")
        self.fake = ctypes.CDLL(str(fake))
        self.fake.fake_record.restype = ctypes.POINTER(Record)

    def names(self, call):
        """Short names of what a call launches."""
        self.fake.fake_reset(*H100)
        call()
        found = [self.fake.fake_record(i).contents for i in range(self.fake.fake_launches())]
        return [r.name.decode().partition("_kernel_cutlass")[0] for r in found]


@pytest.fixture
def loaded(place, fake_driver, monkeypatch):
    monkeypatch.setattr(driver, "CUDA_LIBRARY", str(fake_driver))
    monkeypatch.setattr(driver, "_made", {})
    monkeypatch.setattr(arguments, "DEVICES", ("cpu",))
    monkeypatch.setattr(ready, "stream_of", lambda device: 5)
    found = Loaded(place, fake_driver)
    found.fake.fake_version(13000)
    yield found
    found.fake.fake_version(13000)


def streams(queries=300, keys=333, heads=4):
    shapes = ((1, heads, queries, 128), (1, heads, keys, 128), (1, heads, keys, 128))
    return [torch.randn(s).to(torch.bfloat16) for s in shapes]


def test_what_compile_would_take_and_why(made):
    found = {(spec, form, backend): why for spec, _, form, backend, why in made.backends}
    assert "the default on sm_90" in found["flash", "forward", "cute"]
    assert "too old" in found["flash", "forward", "triton"]
    assert "backend = cute is asked for" in found["flash", "backward", "triton"]
    assert ("flash", "decode", "triton") in found
    assert "CuTe kernels do not do" in found["kmeans_assign", "forward", "triton"]
    assert ("kmeans_assign", "forward", "cute") not in found


def test_the_manifest_follows_its_schema(made):
    jsonschema.validate(made.manifest, SCHEMA)
    tools = made.manifest["toolchain"]
    assert {"nvidia-cutlass-dsl", "ptxas-cute"} <= set(tools)
    assert tools["least_driver"] == {"sm_90": 525}  # of Triton's, which stand beside


def test_a_kernel_says_what_it_is(made):
    program = made.manifest["specs"]["flash"]["variants"][0]["programs"]["forward"]["sm_90"]
    assert list(program["kernels"]) == CUTE
    one, two = (made.manifest["kernels"][n] for n in program["kernels"].values())
    for entry, dependent in ((one, False), (two, True)):
        assert (entry["backend"], entry["kind"], entry["packing"]) == ("cute", "cubin", "xz")
        assert (entry["threads"], entry["registers"], entry["spills"]) == (384, 168, 0)
        assert entry["cuda"] >= 13 and entry["dependent"] is dependent
        assert entry["shared"] > 100_000 and entry["parameters"][0] == "tensormap"
    fallback = program["fallback"]
    assert [made.manifest["kernels"][n]["backend"] for n in fallback["kernels"].values()] == [
        "triton"
    ]


def test_inspect_reads_every_kernel_of_a_file(place):
    found = inspect(place)
    assert not [f for f in found.found if f.damage]
    rows = [f for f in found.found if f.form == "forward" and f.spec == "flash"]
    assert [f.entry["backend"] for f in rows] == ["cute", "cute", "triton"]
    assert {f.facts.registers for f in rows[:2]} == {168}


def test_a_spec_and_target_cost_less_than_200_kb(made):
    _, data = wheel(made, "acme-kernels")
    assert len(data) / len(SPECS) < 200_000


def test_binaries_hold_no_path_of_this_machine(made):
    marks = [str(Path.home()).encode(), str(ROOT).encode(), b"/tmp/", b".py"]
    for entry in made.manifest["kernels"].values():
        data = unpack(entry, made.files[entry["file"]])
        assert not [m for m in marks if m in data]


def test_a_call_takes_the_kernels_of_cute(loaded):
    assert loaded.names(lambda: loaded.flash(*streams())) == CUTE
    assert loaded.fake.fake_loads() == 2
    assert loaded.names(lambda: loaded.flash(*streams(queries=77))) == CUTE


def test_few_queries_take_the_decode_kernels_of_triton(loaded):
    call = lambda: loaded.flash(*streams(queries=1, keys=4096))  # noqa: E731
    assert loaded.names(call) == ["flash_split", "flash_merge"]


def test_an_older_driver_takes_those_of_triton(loaded):
    loaded.fake.fake_version(12080)
    assert loaded.names(lambda: loaded.flash(*streams())) == ["flash_forward"]


def test_where_there_is_nothing_for_an_older_driver_it_says_so(loaded):
    loaded.fake.fake_version(12080)
    del loaded.flash.spec["variants"][0]["programs"]["forward"]["sm_90"]["fallback"]
    with pytest.raises(NoBinaryError, match=r"needs a driver of CUDA 13, and this is one of 12080"):
        loaded.flash(*streams())


def test_tensors_that_lie_badly_are_copied(loaded):
    q, k, v = streams()
    odd = torch.empty(1 + k.numel(), dtype=k.dtype)[1:].view(k.shape)  # not at 16 bytes
    wide = torch.empty((*v.shape[:-1], 130), dtype=v.dtype)[..., :128]  # rows are not either
    for values in ((q, odd, v), (q, k, wide), (q, k, v.expand(1, 4, -1, -1)[:, :1].expand_as(v))):
        assert loaded.names(lambda given=values: loaded.flash(*given)) == CUTE
    plans = loaded.flash._plans.results.values()
    assert sorted(p.copies for p in plans) == [(1,), (2,), (2,)]


def test_a_gradient_is_made_by_both(loaded):
    leaves = [x.requires_grad_() for x in streams()]
    made = []

    def call():
        values = [x.detach() for x in leaves]
        found = loaded.flash.training(values)
        results, rows = found[:2], found[2:]
        wiring = loaded.flash.spec["variants"][0]["wiring"]
        given = [*rows, *(results[i] for i in (*wiring["results"], *wiring["seeds"]))]
        made.extend(loaded.flash.backward(values, given))

    assert loaded.names(call) == [*CUTE, *BACKWARD]
    assert [x.shape for x in made] == [x.shape for x in leaves]


def test_preload_loads_what_will_be_used(loaded):
    loaded.fake.fake_reset(*H100)
    count = loaded.flash.preload(0)
    assert count == 4 + 2 + 3  # forward, training; decode; backward
    assert loaded.fake.fake_loads() == count


def test_the_selfcheck_runs_those_for_older_drivers_too(loaded):
    said = []
    operators.define("attngen_cute_selfcheck", loaded.flash)
    names = loaded.names(
        lambda: selfcheck.selfcheck([loaded.flash], torch.device("cpu"), said.append)
    )
    assert {*CUTE, *BACKWARD} <= set(names)
    labels = [line.split(",")[0] for line in said if line[7:].startswith("flash bf16")]
    older = [line for line in said if "for older drivers" in line]
    assert len(labels) == 2 * len(older) > 0
    assert loaded.flash.fallback is False


@pytest.mark.parametrize("how", ["cut", "hash", "packing"])
def test_a_damaged_file_never_reaches_the_driver(loaded, tmp_path, how):
    folder = tmp_path / "package"
    subprocess.run(["cp", "-r", loaded.package.root, folder], check=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    program = manifest["specs"]["flash"]["variants"][0]["programs"]["forward"]["sm_90"]
    path = manifest["kernels"][program["kernels"][CUTE[0]]]["file"]
    data = (folder / path).read_bytes()
    (folder / path).write_bytes(data[:-40] if how != "packing" else b"no archive")
    if how != "hash":
        digest = hashlib.sha256((folder / path).read_bytes()).hexdigest()
        for entry in manifest["kernels"].values():
            entry["sha256"] = digest if entry["file"] == path else entry["sha256"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
    made = kernel.Kernel(package.Package(folder), "flash")
    loaded.fake.fake_reset(*H100)
    with pytest.raises(DamagedError):
        made(*streams())
    assert loaded.fake.fake_loads() == 0


def test_cpp_takes_those_of_triton(made):
    files = bundle(made)
    text = files["acme_kernels.cpp"].decode()
    assert "flash_forward" in text and "tensormap" not in text
    assert not [path for path in files if path.endswith(".xz")]
    images = [files[p] for p in files if p.startswith("kernels/")]
    assert all(data[:4] == b"\x7fELF" for data in images)


def test_host_code_that_is_not_understood_leaves_triton(made, monkeypatch):
    """A newer DSL may lower in other words; where CuTe was asked for, that is an error."""
    compiled = build.compile_many

    def changed(*given, **named):
        found = compiled(*given, **named)
        return [[spoilt(b) if "plan" in b.launch else b for b in own] for own in found]

    def spoilt(binary):
        return dataclasses.replace(binary, launch={**binary.launch, "problem": "other words"})

    monkeypatch.setattr(build, "compile_many", changed)
    found = make_package()
    programs = found.manifest["specs"]["flash"]["variants"][0]["programs"]["forward"]
    (number,) = programs["sm_90"]["kernels"].values()
    assert found.manifest["kernels"][number]["backend"] == "triton"
    assert "fallback" not in programs["sm_90"]
    assert ["other words" in note for note in found.notes] == [True, True]
    with pytest.raises(SpecError, match="E313"):
        built([ROOT / "examples" / "flash.attn"], ["sm_90"], backend="cute")


def test_cpp_without_those_of_triton_is_refused(made):
    alone = copy.deepcopy(made)
    for variant in alone.manifest["specs"]["flash"]["variants"]:
        del variant["programs"]["forward"]["sm_90"]["fallback"]
    with pytest.raises(SpecError, match="E441"):
        bundle(alone)


CLEAN = """
import ctypes, sys
sys.path[:0] = sys.argv[1:3]
import torch
import acme_kernels as acme
from acme_kernels._launcher import arguments, driver, ready
driver.CUDA_LIBRARY, arguments.DEVICES, ready.stream_of = sys.argv[3], ("cpu",), lambda device: 7
fake = ctypes.CDLL(sys.argv[3])
fake.fake_reset(9, 0, 232448)
values = [torch.randn(1, 4, n, 128).to(torch.bfloat16) for n in (300, 333, 333)]
out = acme.flash(*values)[0]
others = {"cutlass", "cuda", "triton", "attngen"} & set(sys.modules)
print(fake.fake_launches(), tuple(out.shape), sorted(others))
"""


def test_only_torch_is_needed(place, fake_driver, tmp_path):
    import importlib.metadata

    seen: dict[str, importlib.metadata.Distribution] = {}
    needed("torch", seen)
    for found in seen.values():
        for top in {Path(str(f)).parts[0] for f in found.files or []}:
            source = Path(found.locate_file(top))
            if top not in ("..", "__pycache__") and source.exists():
                (tmp_path / top).exists() or (tmp_path / top).symlink_to(source)
    command_ = [sys.executable, "-I", "-S", "-c", CLEAN, tmp_path, place.parent, fake_driver]
    done = subprocess.run(command_, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2", "(1,", "4,", "300,", "128)", "[]"], done.stderr[-2000:]


def test_two_builds_give_the_same_bytes(tmp_path):
    wheels = []
    for i, name in enumerate(("a", "a-much-longer-name-than-the-other-one")):
        place = folder_for(tmp_path, name)
        options = ("--targets", "sm_90", "--no-backward", "--dtypes", "bf16", "--backend", "cute")
        done = attngen(
            "package", ROOT / "examples" / "gemma2.attn", *options, "--name", "acme-kernels",
            folder=place / "work", cache=place / "cache",
            TMPDIR=str(place / "tmp"), PYTHONHASHSEED=str(i), LANG=("C", "C.UTF-8")[i],
            **({"CUTE_DSL_LINEINFO": "1"} if i else {}),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (file,) = (place / "work" / "dist").iterdir()
        wheels.append(file.read_bytes())
    assert wheels[0] == wheels[1]


def run(options, tmp_path):
    from click.testing import CliRunner

    usual = ["--name", "acme", "-o", str(tmp_path / "dist")]
    return CliRunner().invoke(command, [*usual, *options])


def test_cute_for_another_target_is_refused(tmp_path):
    path = str(ROOT / "examples" / "flash.attn")
    found = run([path, "--backend", "cute", "--targets", "sm_80"], tmp_path)
    said = found.output + str(found.exception)
    assert "error[E440]" in said and "--backend auto" in said


def test_cute_for_a_spec_it_does_not_do_is_refused(tmp_path):
    path = str(ROOT / "examples" / "kmeans_assign.attn")
    found = run([path, "--backend", "cute", "--targets", "sm_90"], tmp_path)
    assert "error[E408]" in found.output + str(found.exception)


def test_where_the_dsl_is_not_installed_all_is_triton(monkeypatch, tmp_path):
    monkeypatch.delenv("ATTNGEN_BACKEND", raising=False)
    monkeypatch.setattr(backends, "cute_installed", lambda: False)
    path = str(ROOT / "examples" / "kmeans_assign.attn")
    found = run([path, "--targets", "sm_90", "--dtypes", "bf16"], tmp_path)
    assert found.exit_code == 0, found.output
    assert "forward of kmeans_assign: the CuTe DSL is not installed" in " ".join(
        found.output.split()
    )


def test_xz_is_told_by_its_entry():
    data = lzma.compress(b"x" * 100)
    assert unpack({"packing": "xz"}, data) == b"x" * 100 and unpack({}, data) == data
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack({"packing": "xz"}, base64.b64decode("AAAA"))

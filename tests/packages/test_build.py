"""Building: same bytes from anywhere, resumed, inspected, refused with a reason."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from attngen.aot.contract import parameter_sizes, require_contract
from attngen.aot.elf import read
from attngen.aot.names import module_name, require_functions, require_version
from attngen.backend.emitted import DeviceKernel
from attngen.core.diagnostics import SpecError
from attngen.core.target import find_target
from attngen.runtime import crosscompile
from attngen.runtime.binary import Binary
from attngen.runtime.cache import Cache
from tests.packages.building import ROOT, built

EXAMPLES = ROOT / "examples"


def attngen(*arguments, folder, cache, **environment):
    """The command in a process of its own."""
    found = {**os.environ, "PYTHONPATH": str(ROOT), "ATTNGEN_CACHE": str(cache), **environment}
    found.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "attngen", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=found, capture_output=True, text=True, check=False
    )


def folder_for(tmp_path, name):
    made = tmp_path / name
    for part in ("work", "tmp"):
        (made / part).mkdir(parents=True)
    (made / "cache").mkdir(mode=0o700)
    return made


def test_two_builds_give_the_same_bytes(tmp_path):
    """Another folder, temporary folder, hash seed and order; sm_100, where ptxas varies most."""
    wheels = []
    for i, name in enumerate(("a", "a-much-longer-name-than-the-other-one")):
        place = folder_for(tmp_path, name)
        options = ("--no-backward", "--dtypes", "bf16", "--name", "acme-kernels", "-o", "dist")
        targets = ("sm_100,gfx942", "gfx942,sm_100")[i]
        done = attngen(
            "package", EXAMPLES / "kmeans_assign.attn", "--targets", targets, *options,
            folder=place / "work", cache=place / "cache",
            TMPDIR=str(place / "tmp"), PYTHONHASHSEED=str(i), LANG=("C", "C.UTF-8")[i],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (wheel,) = (place / "work" / "dist").iterdir()
        wheels.append(wheel.read_bytes())
    assert wheels[0] == wheels[1]


def test_an_interrupted_build_goes_on_where_it_was(monkeypatch, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o700)
    asked = []
    ask = crosscompile._ask

    def counted(request, target, steady):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(target.name)
        return ask(request, target, steady)

    def build():
        cache = Cache(tmp_path / "cache")
        return built([EXAMPLES / "kmeans_assign.attn"], ["sm_80", "sm_90"], cache=cache)

    monkeypatch.setattr(crosscompile, "_ask", counted)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        build()
    assert len(asked) == 2
    monkeypatch.setattr(crosscompile, "_ask", lambda *a: asked.append(a[1].name) or ask(*a))
    package = build()
    assert len(asked) == 4  # forward and decode for two targets: two were there
    assert len(package.manifest["kernels"]) >= 4


@pytest.fixture(scope="module")
def wheel(site, tmp_path_factory):
    """The wheel of `site`, put together again."""
    file = tmp_path_factory.mktemp("wheel") / "acme.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(site.rglob("*")):
            if path.is_file() and path.name != "done" and "__pycache__" not in path.parts:
                archive.write(path, path.relative_to(site))
    return file


def test_inspect_prints_what_every_binary_needs(wheel, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o700)
    done = attngen("inspect", wheel, folder=tmp_path, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert "gemma2(q, k, v) -> out" in done.stdout
    lines = [line.split() for line in done.stdout.splitlines() if " gemma2_forward " in line]
    assert [line[2] for line in lines] == ["forward", "training"]
    assert [line[5] for line in lines] == ["triton", "triton"]
    assert lines[0][6].isdecimal() and int(lines[0][6]) > 32  # registers
    assert "none" in lines[0] and "KiB" in lines[0]


def test_inspect_finds_a_damaged_binary(site, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o700)
    folder = tmp_path / "package"
    subprocess.run(["cp", "-r", site / "acme_kernels", folder], check=True)
    first, second = sorted((folder / "kernels" / "sm_90a").iterdir())[:2]
    first.write_bytes(first.read_bytes()[:-8])
    second.unlink()
    done = attngen("inspect", folder, folder=tmp_path, cache=tmp_path / "cache")
    assert done.returncode == 1
    assert "damaged: sha256 differs" in done.stdout and "missing" in done.stdout


@pytest.mark.parametrize("what", ["absent", "text", "empty zip", "other manifest"])
def test_inspect_refuses_what_is_no_package(what, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o700)
    file = tmp_path / "x.whl"
    if what == "text":
        file.write_text("no")
    elif what != "absent":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("manifest.json" if what == "other manifest" else "x", "{}")
    done = attngen("inspect", file, folder=tmp_path, cache=tmp_path / "cache")
    assert done.returncode == 2 and "error[E330]" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def binaries(site):
    """(entry, bytes) of the forward kernels."""
    manifest = json.loads((site / "acme_kernels" / "manifest.json").read_text())
    return [
        (k, (site / "acme_kernels" / k["file"]).read_bytes()) for k in manifest["kernels"].values()
    ]


def test_a_cubin_says_what_the_manifest_says(binaries):
    for entry, data in binaries:
        facts = read(data)
        assert (facts.symbol, facts.threads) == (entry["symbol"], entry["threads"])
        assert facts.registers == entry["registers"]
        assert [size for _, size in facts.parameters] == parameter_sizes(entry["parameters"])
        assert bool(facts.frame) >= bool(entry["spills"])


def test_a_cut_binary_is_refused_wherever_it_is_cut(binaries):
    _, data = binaries[0]
    for length in range(0, len(data) - 1, 997):
        with pytest.raises(ValueError):
            read(data[:length])


def test_a_hsaco_says_what_its_compiler_said(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o700)
    path = EXAMPLES / "kmeans_assign.attn"
    package = built([path], ["gfx942"], cache=Cache(tmp_path / "cache"), backward=False)
    for entry in package.manifest["kernels"].values():
        facts = read(package.files[entry["file"]])
        assert (entry["kind"], entry["arch"]) == ("hsaco", "gfx942")
        assert (facts.symbol, facts.registers) == (entry["symbol"], entry["registers"])
        assert [size for _, size in facts.parameters] == parameter_sizes(entry["parameters"])


@pytest.mark.parametrize("wrong", ["types", "threads", "scratch", "descriptors", "cut"])
def test_a_binary_that_the_launcher_does_not_fit_is_refused(binaries, wrong):
    entry, data = next(b for b in binaries if b[0]["descriptors"])
    types = dict(enumerate(entry["parameters"]))
    launch = {n: entry[n] for n in ("descriptors", "scratch", "profile_scratch")}
    warps = entry["threads"] // 32
    if wrong == "types":
        types |= {len(types) - 1: "i64"}
    elif wrong == "threads":
        warps += 1
    elif wrong == "scratch":
        launch["scratch"] = [128, 128]
    elif wrong == "descriptors":
        launch["descriptors"] = []
    else:
        data = data[:-100]
    signature = {f"p{i}": t for i, t in types.items()}
    kernel = DeviceKernel("k", signature, {}, (), warps, 2)
    binary = Binary("k", "cubin", data, 1, 0, 0, warps, entry["symbol"], "", launch)
    with pytest.raises(SpecError) as error:
        require_contract(kernel, binary, find_target("sm_90"))
    assert error.value.diagnostics[0].code in ("E312", "E313")


@pytest.mark.parametrize(
    "name",
    ["", "..", "/abs", "a/b", "con", "-rf", "Acme", "a--b", "a_", "torch", "class", "json", "é",
     "x" * 70, "a\n", "1a", "acme.kernels"],
)  # fmt: skip
def test_names_that_cannot_be_those_of_a_package(name):
    with pytest.raises(SpecError, match="E320"):
        module_name(name)


def test_a_name_becomes_a_module():
    assert module_name("acme-kernels") == "acme_kernels"
    assert module_name("a1_b2") == "a1_b2"


@pytest.mark.parametrize("version", ["", "1.", "v1", "1.0-1", "1..2", "01.2", "1.0 ", "1.0\n"])
def test_versions_that_are_none(version):
    with pytest.raises(SpecError, match="E321"):
        require_version(version)


@pytest.mark.parametrize("version", ["0", "1.2.0", "1.0rc1", "2!1.0.post3.dev4", "1.0+cu130"])
def test_versions(version):
    assert require_version(version) == version


@pytest.mark.parametrize(
    "names", [["a", "a"], ["preload"], ["a", "a_training"], ["a_backward", "a"], ["class"]]
)
def test_functions_that_would_hide_each_other(names):
    with pytest.raises(SpecError, match="E322"):
        require_functions(names)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--backend", "cute"], "error[E440]"),
        (["--targets", "sm_91"], "error[E301]"),
        (["--targets", "interpreter"], "a package is for GPUs"),
        (["--dtypes", "f64"], "f64 is no dtype"),
        (["--set", "E=3"], "no spec has a parameter or feature axis named E"),
        (["--set", "cap=1.0,2.0"], "it has one value"),
        (["--name", "../x"], "error[E320]"),
        (["--version", "x"], "error[E321]"),
    ],
)
def test_wrong_options_are_refused_with_a_reason(options, words, tmp_path):
    from click.testing import CliRunner

    from attngen.cli.package_command import command

    usual = ["--name", "acme", "-o", str(tmp_path / "dist")]
    found = CliRunner().invoke(command, [str(EXAMPLES / "gemma2.attn"), *usual, *options])
    said = found.output + str(found.exception)
    assert words in said
    assert not (tmp_path / "dist").exists()


def test_an_output_that_is_a_link_is_refused(tmp_path):
    from attngen.cli.mistake import InputError
    from attngen.cli.packaging import _refuse_links

    (tmp_path / "real").mkdir()
    (tmp_path / "dist").symlink_to(tmp_path / "real")
    with pytest.raises(InputError, match="is a link"):
        _refuse_links(Path(tmp_path / "dist"))

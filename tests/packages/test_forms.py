"""What is written: the wheel, the manifest and its schema, the C++ bundle, the hub's folder."""

import ast
import base64
import copy
import csv
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jsonschema
import pytest

import attngen.aot
from attngen.aot.cpp import bundle
from attngen.aot.hub import hub
from attngen.aot.wheel import wheel
from attngen.core.dtype import Dtype
from tests.packages.building import ROOT, built
from tests.packages.conftest import SPECS

SCHEMA = json.loads((Path(attngen.aot.__file__).parent / "manifest.schema.json").read_text())


@pytest.fixture(scope="module")
def package(site):
    """The package of `site` again: everything is in the cache."""
    assert site
    return built([ROOT / "examples" / f"{name}.attn" for name in SPECS], ["sm_90"])


def test_the_record_lists_every_file_with_its_hash(package, tmp_path):
    name, data = wheel(package, "acme-kernels")
    assert name == "acme_kernels-1.2.0-py3-none-any.whl"
    (tmp_path / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / name) as file:
        rows = list(csv.reader(file.read("acme_kernels-1.2.0.dist-info/RECORD").decode().split()))
        assert {row[0] for row in rows} == set(file.namelist())
        for path, digest, size in rows[:-1]:
            contents = file.read(path)
            wanted = base64.urlsafe_b64encode(hashlib.sha256(contents).digest()).decode()
            assert (digest, int(size)) == (f"sha256={wanted.rstrip('=')}", len(contents))


def test_pip_installs_the_wheel(package, tmp_path):
    name, data = wheel(package, "acme-kernels")
    (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", tmp_path / "site", tmp_path / name], check=True)
    found = (tmp_path / "site" / "acme_kernels-1.2.0.dist-info" / "METADATA").read_text()
    assert "Name: acme-kernels\nVersion: 1.2.0\n" in found and "Requires-Dist: torch>=" in found
    assert "Requires-Dist: triton" not in found
    assert (tmp_path / "site" / "acme_kernels" / "manifest.json").exists()


def test_a_spec_and_target_cost_less_than_200_kb(package):
    _, data = wheel(package, "acme-kernels")
    assert len(data) / len(SPECS) < 200_000


def test_the_manifest_follows_its_schema(package):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(package.manifest, SCHEMA)


def broken(manifest):
    kernel = next(iter(manifest["kernels"]))
    spec = manifest["specs"]["gemma2"]
    program = spec["variants"][0]["programs"]["forward"]["sm_90"]
    yield "a newer schema", lambda: manifest.update(schema=2)
    yield "a path outside", lambda: manifest["kernels"][kernel].update(file="../x.cubin")
    yield "an absolute path", lambda: manifest["kernels"][kernel].update(file="/x.cubin")
    yield "a short hash", lambda: manifest["kernels"][kernel].update(sha256="12")
    yield "no backend", lambda: manifest["kernels"][kernel].pop("backend")
    yield "another key", lambda: manifest.update(script="x")
    yield "an operation", lambda: program["host"].insert(0, ["let", "x", ["system", "ls"]])
    yield "a step", lambda: program["host"].insert(0, ["exec", "x"])
    yield "no variants", lambda: spec.update(variants=[])


def test_the_schema_refuses_what_is_wrong(package):
    count = len(list(broken(package.manifest)))
    for i in range(count):
        manifest = copy.deepcopy(package.manifest)
        what, change = list(broken(manifest))[i]
        change()
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(manifest, SCHEMA)
            pytest.fail(what)


LONG_TABLE = """attention chosen {
  query q : half[B, H, S, D]
  key   k : half[B, H, S, D]
  value v : half[B, H, S, D]
  input c : f32[H, 5000]
  score = dot(q, k) * rsqrt(D) + c[h, min(abs(q_idx - kv_idx), 4999)]
}
"""


def test_what_has_no_backward_is_said(package, tmp_path):
    assert package.manifest["specs"]["kmeans_assign"]["variants"][0]["wiring"] is None  # indices
    assert package.notes == []
    chosen = tmp_path / "chosen.attn"
    chosen.write_text(LONG_TABLE)
    made = built([chosen], ["sm_90"])
    assert [n.split(":")[0] for n in made.notes] == ["chosen (bf16) has no backward"]
    assert made.manifest["specs"]["chosen"]["variants"][0]["wiring"] is None


def test_every_binary_is_described(package):
    used = {
        number
        for spec in package.manifest["specs"].values()
        for variant in spec["variants"]
        for programs in variant["programs"].values()
        for program in programs.values()
        for number in program["kernels"].values()
    }
    assert used == set(package.manifest["kernels"])
    for number, kernel in package.manifest["kernels"].items():
        data = package.files[kernel["file"]]
        assert hashlib.sha256(data).hexdigest() == kernel["sha256"]
        assert kernel["sha256"].startswith(number) and kernel["bytes"] == len(data)
        assert (kernel["backend"], kernel["kind"], kernel["arch"]) == ("triton", "cubin", "sm_90a")
    for spec in package.manifest["specs"].values():
        assert hashlib.sha256(spec["text"].encode()).hexdigest() == spec["sha256"]
        assert package.files[spec["file"]].decode() == spec["text"]


def test_binaries_hold_no_path_of_this_machine(package):
    marks = [str(Path.home()).encode(), str(ROOT).encode(), b"/tmp/", b".py"]
    for path, data in package.files.items():
        assert not [m for m in marks if m in data], path


def test_stubs_and_module_agree(site):
    stub, module = (
        ast.parse((site / "acme_kernels" / name).read_text())
        for name in ("__init__.pyi", "__init__.py")
    )
    signatures = [
        {
            node.name: [a.arg for a in node.args.args]
            for node in tree.body
            if isinstance(node, ast.FunctionDef)
        }
        for tree in (stub, module)
    ]
    assert signatures[0] == signatures[1]
    assert signatures[0]["varlen"] == ["q", "k", "v", "cu_q", "cu_kv"]
    assert (
        "-> tuple[torch.Tensor, torch.Tensor]"
        in (site / "acme_kernels" / "__init__.pyi").read_text()
    )


def test_the_readme_says_how_to_call_it(site):
    text = (site / "acme_kernels" / "README.md").read_text()
    assert "out = acme_kernels.gemma2(q, k, v)" in text and "sm_90a" in text
    assert "distance, index = acme_kernels.knn(x, y, x_norm, y_norm)" in text


def test_a_hub_folder_lists_the_hash_of_each_file(package):
    files = hub(package, "acme-kernels")
    root = "build/torch-cuda/"
    metadata = json.loads(files[f"{root}metadata.json"])
    assert metadata["backend"] == {"type": "cuda", "archs": ["9.0"]}
    assert metadata["id"].startswith("_acme_kernels_cuda_") and metadata["id"].isidentifier()
    listed = metadata["digest"]["files"]
    inside = {p.removeprefix(root) for p in files if p.startswith(root)} - {"metadata.json"}
    assert set(listed) == inside
    for path, digest in listed.items():
        assert base64.b64decode(digest) == hashlib.sha256(files[root + path]).digest()


def test_a_hub_kernel_is_imported_under_the_name_of_its_metadata(package, tmp_path):
    """As the `kernels` package does it: the variant's own `__init__.py`, named by `id`."""
    for path, data in hub(package, "acme-kernels").items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    code = """
import importlib.util, json, sys, torch
from pathlib import Path
place = Path(sys.argv[1]) / "build" / "torch-cuda"
name = json.loads((place / "metadata.json").read_text())["id"]
spec = importlib.util.spec_from_file_location(name, place / "__init__.py")
module = sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(getattr(torch.ops, name).gemma2, module.gemma2.__name__)
"""
    command = [sys.executable, "-c", code, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "gemma2" in done.stdout


@pytest.fixture(scope="module")
def program(package, fake_driver, tmp_path_factory):
    """The C++ bundle and a program that uses it, built with CMake or with g++ alone."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ here")
    folder = tmp_path_factory.mktemp("cpp")
    for path, data in bundle(package).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    shutil.copy(fake_driver, folder / "libcuda.so.1")
    shutil.copy(Path(__file__).with_name("main.cpp"), folder / "main.cpp")
    if shutil.which("cmake"):
        outer = "cmake_minimum_required(VERSION 3.16)\nproject(use LANGUAGES CXX)\n"
        outer += "add_subdirectory(.. acme)\nadd_executable(use ../main.cpp)\n"
        outer += "target_link_libraries(use acme_kernels)\n"
        (folder / "use").mkdir()
        (folder / "use" / "CMakeLists.txt").write_text(outer)
        made = folder / "made"
        subprocess.run(["cmake", "-S", folder / "use", "-B", made], check=True, capture_output=True)
        subprocess.run(["cmake", "--build", made], check=True, capture_output=True)
        return folder, made / "use"
    sources = [folder / n for n in ("main.cpp", "acme_kernels.cpp", "attngen_launcher.cpp")]
    command = ["g++", "-std=c++17", f"-I{folder}", *sources, "-ldl", "-o", folder / "use"]
    subprocess.run(command, check=True)
    return folder, folder / "use"


def test_the_bundle_compiles_without_a_warning(package, program):
    folder, _ = program
    for name in ("acme_kernels.cpp", "attngen_launcher.cpp"):
        flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
        subprocess.run(["g++", *flags, folder / name], check=True)


def test_a_program_calls_the_bundle(program):
    folder, binary = program
    done = subprocess.run(
        [binary, folder],
        env={"LD_LIBRARY_PATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    said = dict(line.split(": ", 1) for line in done.stdout.strip().splitlines())
    assert "no CUDA context is current" in said["no context"]
    assert said["prefill"] == "1 launch, 1 result, 300 rows"
    assert said["decode"] == "3 launches in all"
    assert said["gradients"] == "3, 7 launches in all"
    assert "multiples of 16 bytes" in said["address"]
    assert "no binary for these dtypes and sizes on sm_90" in said["head size"]
    assert "q has 4 axes" in said["rank"]
    assert "missing or damaged" in said["folder"]


def test_dtypes_and_sizes_are_variants_of_one_function():
    path = ROOT / "examples" / "kmeans_assign.attn"
    package = built([path], ["sm_90"], (Dtype.BF16, Dtype.F16), sizes=(64, 128))
    variants = package.manifest["specs"]["kmeans_assign"]["variants"]
    found = [(v["half"], v["sizes"]["D"]) for v in variants]
    assert sorted(found) == [("bf16", 64), ("bf16", 128), ("f16", 64), ("f16", 128)]

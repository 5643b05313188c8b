"""A package where only it and torch are installed: selection, launches, errors, tampering."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

CLEAN = Path(__file__).with_name("clean.py")
CHECKS = re.findall(r"^def (check_\w+)", CLEAN.read_text(), re.MULTILINE)


def needed(name, seen):
    """Distributions that one needs, itself included; not Triton, which torch can do without."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen or key.startswith(("triton", "nvidia-", "cuda-")):
        return
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return
    seen[key] = found
    for text in found.requires or []:
        if "extra ==" not in text:
            needed(re.match(r"[A-Za-z0-9_.-]+", text)[0], seen)


@pytest.fixture(scope="session")
def clean(site, tmp_path_factory):
    """A folder that holds links to the package, to torch and to what torch needs."""
    folder, seen = tmp_path_factory.mktemp("clean"), {}
    needed("torch", seen)
    for found in seen.values():
        for top in {Path(str(f)).parts[0] for f in found.files or []}:
            source = Path(found.locate_file(top))
            if top not in ("..", "__pycache__") and source.exists():
                link = folder / top
                if not link.exists():
                    link.symlink_to(source)
    (folder / "acme_kernels").symlink_to(site / "acme_kernels")
    return folder


def python(*arguments, folder):
    code = f"import sys; sys.path.append({str(folder)!r}); "
    return (
        subprocess.run(
            [sys.executable, "-I", "-S", *arguments], capture_output=True, text=True, check=False
        )
        if not str(arguments[0]).startswith("import")
        else subprocess.run(
            [sys.executable, "-I", "-S", "-c", code + arguments[0]],
            capture_output=True,
            text=True,
            check=False,
        )
    )


@pytest.fixture(scope="session")
def checked(clean, fake_driver):
    done = python(CLEAN, clean, fake_driver, folder=clean)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("name", CHECKS)
def test_in_a_clean_environment(checked, name):
    assert checked[name] == ""


def test_the_checks_were_all_run(checked):
    assert sorted(checked) == sorted(CHECKS)


def test_the_command_lists_what_is_inside(clean):
    run = "import runpy; sys.argv = ['acme_kernels', 'list']; runpy.run_module('acme_kernels')"
    done = python(run, folder=clean)
    assert "gemma2 bf16 D=128: forward, decode, training, backward for sm_90" in done.stdout


def test_without_a_gpu_the_selfcheck_says_so(clean):
    run = "import runpy; sys.argv = ['acme_kernels', 'selfcheck']; runpy.run_module('acme_kernels')"
    done = python(run, folder=clean)
    assert done.returncode == 2 and "no GPU" in done.stderr


COMPILED_AHEAD = """
import sys, tempfile, torch
sys.path.insert(0, sys.argv[1])
import acme_kernels as acme
from acme_kernels._launcher import arguments, driver, ready
driver.CUDA_LIBRARY, arguments.DEVICES, ready.stream_of = sys.argv[2], ("cpu",), lambda device: 7

class Model(torch.nn.Module):
    def forward(self, q, k, v):
        return acme.gemma2(q * 1.0, k, v) + 1

shapes = ((2, 100, 4, 128), (2, 133, 2, 128), (2, 133, 2, 128))
values = [torch.randn(s).to(torch.bfloat16) for s in shapes]
with torch.no_grad():
    program = torch.export.export(Model(), tuple(values))
    path = torch._inductor.aoti_compile_and_package(program, package_path=sys.argv[3])
    print(tuple(torch._inductor.aoti_load_package(path)(*values).shape))
"""


@pytest.mark.slow
def test_a_program_of_aotinductor_calls_the_operator(site, fake_driver, tmp_path):
    command = [sys.executable, "-c", COMPILED_AHEAD, site, fake_driver, tmp_path / "model.pt2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("(2, 100, 4, 128)"), done.stderr[-2000:]

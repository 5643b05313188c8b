"""The checked-in kernels are what the compiler prints today, and are fit to be read."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from attngen.cli.regenerate_command import changed_files, golden_files

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ROOT / "generated"
KERNELS = sorted(GENERATED.glob("*/sm_90/*.py"))
LONGEST_LINE, LONGEST_FILE = 120, 150


def test_regenerating_changes_nothing():
    files = golden_files(sorted((ROOT / "examples").glob("*.attn")))
    assert len(files) >= 16, "forward kernels of the supported examples"
    assert changed_files(GENERATED, files) == [], "run `make golden` and look at the difference"


@pytest.mark.parametrize("seed", ["1", "2"])
def test_a_kernel_does_not_depend_on_the_hashes_of_a_process(seed):
    run = subprocess.run(
        [sys.executable, "-m", "attngen", "regenerate", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("path", KERNELS, ids=lambda p: p.stem)
def test_a_kernel_imports_only_torch_and_triton(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported - {"__future__"} <= {"torch", "triton"}


@pytest.mark.parametrize("path", KERNELS, ids=lambda p: p.stem)
def test_a_kernel_is_marked_and_names_no_date_or_place(path):
    text = path.read_text()
    assert "[attngen:generated]" in text
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b|/home/|/root/|/tmp/|/work/", text)


@pytest.mark.parametrize("path", KERNELS, ids=lambda p: p.stem)
def test_a_kernel_is_short_enough_to_read(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST_FILE
    assert max(map(len, lines)) <= LONGEST_LINE

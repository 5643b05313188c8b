"""ptxas is run the same way whoever asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attngen.core.resources import PACKAGE
from attngen.runtime.settings import worker_environment

STEADY = PACKAGE / "runtime" / "steady.py"
# writes its arguments, its environment and its input where ptxas would write a cubin
TOOL = """#!/bin/sh
for last; do :; done
echo "$@" > "$last"
/usr/bin/env | /bin/grep -v -e '^PWD' -e '^OLDPWD' -e '^_=' -e '^SHLVL' >> "$last"
/bin/cat k.ptx >> "$last"
echo report >&2
"""


@pytest.fixture
def tool(tmp_path):
    path = tmp_path / "tool"
    path.write_text(TOOL)
    path.chmod(0o700)
    return path


def assemble(tool, folder, **environment):
    (folder / "some").mkdir(exist_ok=True)
    source, output = folder / "some" / "name.ptx", folder / "made.o"
    source.write_text(".target sm_100a\ncode\n")
    options = ["-v", "--gpu-name=sm_100a"]
    command = [sys.executable, "-IS", STEADY, tool, *options, source, "-o", output]
    found = {**os.environ, **environment}
    done = subprocess.run(command, env=found, capture_output=True, text=True, check=False)
    return done, output


def test_names_and_environment_are_always_the_same(tool, tmp_path):
    done, output = assemble(tool, tmp_path, SECRET="x")
    assert (done.returncode, done.stderr) == (0, "report\n")
    wanted = "-v --gpu-name=sm_100a k.ptx -o k.cubin\n.target sm_100a\ncode\n"
    assert output.read_text() == wanted


def test_a_family_is_assembled_for_when_asked(tool, tmp_path):
    _, output = assemble(tool, tmp_path, ATTNGEN_FAMILY="1")
    wanted = "-v --gpu-name=sm_100f k.ptx -o k.cubin\n.target sm_100f\ncode\n"
    assert output.read_text() == wanted


def test_a_failure_is_passed_on(tmp_path):
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho no >&2; exit 3\n")
    tool.chmod(0o700)
    done, output = assemble(tool, tmp_path)
    assert (done.returncode, done.stderr) == (3, "no\n")
    assert not output.exists()


def test_a_question_for_the_version_goes_through(tmp_path):
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho release $1\n")
    tool.chmod(0o700)
    command = [sys.executable, "-IS", STEADY, tool, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "release --version\n"


def test_only_steady_workers_are_told_of_it(tmp_path):
    plain, steady = worker_environment(tmp_path), worker_environment(tmp_path, steady=True)
    assert "TRITON_DISABLE_LINE_INFO" not in plain
    assert "TRITON_PTXAS_PATH" not in plain
    assert steady["TRITON_DISABLE_LINE_INFO"] == "1"
    assert Path(steady["TRITON_PTXAS_PATH"]).parent == tmp_path

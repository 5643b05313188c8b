"""Generated text is run only if it holds nothing but kernels; what runs is what was checked."""

from pathlib import Path

import pytest

from attngen.backend.emitted import Emitted
from attngen.core.diagnostics import SpecError
from attngen.runtime.load import check_source, load_module, source_path
from tests.unit.runtime.standin_kernel import EMITTED, SOURCE

HOSTILE = [
    "import os",
    "import torch, subprocess",
    "from os import system",
    "from torch import *",
    "from torch import _C",
    "from . import x",
    "import triton.runtime.cache",
    "x = eval('1')",
    "x = open('/etc/passwd')",
    "x = __import__('os')",
    "x = ().__class__.__bases__",
    "def f(q):\n    return q.__dict__",
    "x = getattr(1, 'real')",
    "x = globals()",
    "def f():\n    exec('1')",
    "def f():\n    return torch.load('x')",
    "def f():\n    torch.hub.load('x')",
    "def f():\n    torch.ops.load_library('x')",
    "def f():\n    return torch.utils",
    "class A:\n    pass",
    "def f():\n    global x\n    x = 1",
    "print('hello')",
    "for x in range(3):\n    pass",
    "with torch.device('cpu'):\n    pass",
    "async def f():\n    pass",
    "def f():\n    yield 1",
    "def __getattr__(name):\n    return 1",
    "x = 1\0",
    "def f(:",
    "def f(q):\n    q._backward_hooks = None",
    "x = [y := 1]",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_no_kernel_is_refused(text):
    with pytest.raises(SpecError, match="E390"):
        check_source(text)


def test_the_line_is_named():
    with pytest.raises(SpecError, match="line 3: os may not be imported"):
        check_source("import torch\n\nimport os\n")


@pytest.mark.parametrize("text", [SOURCE, "from __future__ import annotations\nx = 1.5\n"])
def test_kernels_pass(text):
    check_source(text)


def test_a_module_is_loaded_once():
    assert load_module(EMITTED) is load_module(EMITTED)
    assert callable(load_module(EMITTED).scale)


def test_what_runs_is_the_checked_text_not_the_file():
    text = "import torch\n\n\ndef f():\n    return 1\n"
    path = Path(source_path("planted", text))
    path.write_text("raise SystemExit\n")
    assert source_path("planted", text) == str(path)
    assert path.read_text() == text


def test_a_symlink_in_place_of_the_file_is_replaced(tmp_path):
    path = Path(source_path("linked", "x = 1\n"))
    path.unlink()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim)
    source_path("linked", "x = 1\n")
    assert victim.read_text() == "precious"
    assert not path.is_symlink()


def test_without_a_folder_the_text_still_runs(monkeypatch):
    monkeypatch.setenv("ATTNGEN_CACHE", "/proc/nowhere")
    text = "import torch\n\n\ndef f():\n    return 7\n"
    assert load_module(Emitted(text, "f", (), (), ())).f() == 7
    assert source_path("a", text) == "<a>"

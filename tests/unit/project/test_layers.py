"""The floors hold: the contract itself, and what the light commands may import."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEAVY = {"torch", "triton", "numpy", "rich", "matplotlib", "jinja2"}


def modules_after(code: str) -> set[str]:
    """Top-level modules in `sys.modules` after the code ran in a new interpreter."""
    script = f"import sys\n{code}\nprint('modules', *{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_the_floors_hold():
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


@pytest.mark.parametrize(
    "arguments", [["check", "examples/gemma2.attn"], ["--help"], ["compile", "--help"]]
)
def test_light_commands_import_nothing_heavy(arguments):
    code = f"from attngen.cli import main\ntry: main({arguments!r})\nexcept SystemExit as e: pass"
    assert modules_after(code) & HEAVY == set()


def test_importing_attngen_imports_nothing_heavy():
    assert modules_after("import attngen") & HEAVY == set()

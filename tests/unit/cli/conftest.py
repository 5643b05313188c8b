"""Runs commands in this process, the way `main` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from attngen.cli import main

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Result:
    status: int
    out: str
    err: str


@pytest.fixture
def attngen(capsys, monkeypatch):
    """`attngen("check", "spec.attn")` -> status and what was printed; run in the repository."""
    monkeypatch.chdir(ROOT)

    def run(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Result(stop.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def spec(tmp_path):
    """Writes a spec and returns its path."""

    def write(text: str, name: str = "spec.attn") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write

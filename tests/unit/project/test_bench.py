"""The benchmark runs end to end at tiny sizes, every row checked, without a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("rows", ["window", "decode B16"])
def test_a_dry_run_checks_and_reports_its_rows(rows, tmp_path):
    command = [sys.executable, "bench/forward.py", "--dry-run", "--rows", rows]
    report = tmp_path / "report.md"
    done = subprocess.run(
        [*command, "--out", str(report)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "FAILED" not in report.read_text()
    assert f"| {rows}" in report.read_text()

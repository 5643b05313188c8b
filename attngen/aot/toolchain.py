"""Which compilers made the binaries, and the oldest drivers that load them."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attngen.aot.cute import compiler_of
from attngen.core.target import Target
from attngen.runtime.binary import Binary

BLACKWELL = 100
LEAST_DRIVER = {11: 450, 12: 525, 13: 580}  # CUDA's minor version compatibility, by major version


def toolchain(
    targets: Sequence[Target], attngen: str, cute: Sequence[Binary], backend: str
) -> dict[str, Any]:
    """Versions by name, attngen's own given; the driver that the binaries of each target need.

    cute: binaries of the CuTe DSL, which brings a ptxas of its own. backend: what was asked for;
    if not `cute`, Triton's kernels stand beside CuTe's, and an older driver takes those.
    """
    versions: dict[str, Any] = {
        "attngen": attngen,
        "triton": importlib.metadata.version("triton"),
    }
    drivers = {}
    for target in targets:
        if target.family == "cuda":
            version = ptxas_version("ptxas-blackwell" if _is_new(target) else "ptxas")
            drivers[target.name] = LEAST_DRIVER.get(int(version.split(".")[0]), 0)
            versions["ptxas-blackwell" if _is_new(target) else "ptxas"] = version
    if cute:
        versions["nvidia-cutlass-dsl"] = importlib.metadata.version("nvidia-cutlass-dsl")
        version = versions["ptxas-cute"] = max(compiler_of(b.data) for b in cute)
        if backend == "cute":
            least = LEAST_DRIVER.get(int(version.split(".")[0]), 0)
            drivers = {name: max(least, driver) for name, driver in drivers.items()}
    return {**versions, "least_driver": drivers}


@functools.cache
def ptxas_version(tool: str) -> str:
    """Such as "12.8.93", of a tool that Triton brings; "0" if it is not there."""
    spec = importlib.util.find_spec("triton")
    folder = Path(spec.origin or "").parent if spec else Path()
    try:
        done = subprocess.run(
            [folder / "backends" / "nvidia" / "bin" / tool, "--version"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "0"
    found = re.search(r"V(\d+\.\d+\.\d+)", done.stdout)
    return found[1] if found else "0"


def _is_new(target: Target) -> bool:
    return isinstance(target.arch, int) and target.arch >= BLACKWELL

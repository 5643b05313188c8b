"""The package that the tests share, and the stand-in for the driver: made once per run."""

import fcntl
import subprocess
from pathlib import Path

import pytest

from tests.packages.building import ROOT, built, unpacked

SPECS = ("gemma2", "varlen", "knn", "kmeans_assign")


def once(tmp_path_factory, name, make):
    """A folder that one worker fills, for all workers of a run."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if root.name.startswith("popen-") else root
    folder = root / f"shared-{name}"
    with (root / f"shared-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory):
    """The compiled stand-in for libcuda."""

    def make(folder):
        source = Path(__file__).with_name("fakecuda.c")
        command = ["gcc", "-shared", "-fPIC", "-O1", "-w", "-o", folder / "libfake.so", source]
        subprocess.run(command, check=True)

    return once(tmp_path_factory, "driver", make) / "libfake.so"


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A folder with acme_kernels: four specs for sm_90 in bfloat16."""
    specs = [ROOT / "examples" / f"{name}.attn" for name in SPECS]
    return once(tmp_path_factory, "site", lambda folder: unpacked(built(specs, ["sm_90"]), folder))

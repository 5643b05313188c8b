"""Binaries for AMD: which are chosen, and what the launcher hands to a stand-in for ROCm."""

import ctypes
import struct

import pytest
import torch

from attngen.aot.launcher import arguments, driver, kernel, package, ready
from attngen.aot.launcher.errors import NoBinaryError
from tests.packages.building import ROOT, built, unpacked
from tests.packages.clean_record import Record


@pytest.mark.parametrize(
    ("target", "arch", "fits"),
    [
        ("sm_80", "sm_80", True),
        ("sm_80", "sm_86", True),
        ("sm_80", "sm_89", True),
        ("sm_86", "sm_80", False),
        ("sm_75", "sm_80", False),
        ("sm_90", "sm_90", True),
        ("sm_100", "sm_103", True),
        ("sm_120", "sm_121", True),
        ("sm_100", "sm_120", False),
        ("gfx942", "gfx942", True),
        ("gfx942", "gfx950", False),
        ("gfx942", "sm_90", False),
    ],
)
def test_which_binary_runs_where(target, arch, fits):
    assert kernel.runs(target, arch) is fits


class Rocm(driver.Hip):
    """ROCm with a GPU that is not there."""

    arch = "gfx942"

    def describe(self, device):
        return self.arch, 65536


@pytest.fixture
def kernels(fake_driver, tmp_path, monkeypatch):
    folder = unpacked(built([ROOT / "examples" / "kmeans_assign.attn"], ["gfx942"]), tmp_path)
    monkeypatch.setattr(driver, "HIP_LIBRARY", str(fake_driver))
    monkeypatch.setattr(driver, "Hip", Rocm)
    monkeypatch.setattr(driver, "_made", {})
    monkeypatch.setattr(kernel, "family", lambda: "hip")
    monkeypatch.setattr(arguments, "DEVICES", ("cpu",))
    monkeypatch.setattr(ready, "stream_of", lambda device: 5)
    found = package.Package(folder / "acme_kernels")
    return kernel.Kernel(found, "kmeans_assign"), found.manifest["kernels"]


def call(made):
    x, y = (torch.randn(n, 128).to(torch.bfloat16) for n in (100, 40))
    rest = [torch.randn(n) for n in (40,) if len(made.declared) > 2]
    return (x, y), made(x, y, *rest[: len(made.declared) - 2])


def test_a_launch_on_amd(kernels, fake_driver):
    made, entries = kernels
    fake = ctypes.CDLL(str(fake_driver))
    fake.fake_record.restype = ctypes.POINTER(Record)
    for entry in entries.values():
        sizes = [8 if t.startswith("*") else 4 for t in entry["parameters"]]
        name = entry["symbol"].encode()
        fake.fake_sizes(name, (ctypes.c_int * len(sizes))(*sizes), len(sizes))
    fake.fake_reset(9, 0, 0)
    (x, _), result = call(made)
    assert fake.fake_launches() == 1
    record = fake.fake_record(0).contents
    entry = next(e for e in entries.values() if e["symbol"] == record.name.decode())
    assert list(record.block) == [entry["threads"], 1, 1]
    assert entry["threads"] % 64 == 0  # a wavefront
    assert record.shared == entry["shared"]
    assert record.stream == 5
    pointers = struct.unpack_from("<2Q", bytes(record.data))
    assert pointers[0] == x.data_ptr()
    assert result.dtype == torch.int64


def test_another_gpu_of_amd_has_no_binary(kernels, monkeypatch):
    monkeypatch.setattr(Rocm, "arch", "gfx1100")
    with pytest.raises(NoBinaryError, match="gfx1100"):
        call(kernels[0])

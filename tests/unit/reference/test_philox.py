import subprocess
import sys

import pytest
import torch

from attngen.reference.philox import philox, uniform

# known answers of the reference implementation of Philox-4x32-10 (Random123, kat_vectors)
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]

TRITON = """
import torch, triton, triton.language as tl

@triton.jit
def kernel(out, seed, BLOCK: tl.constexpr):
    kv_idx = tl.arange(0, BLOCK)
    word, _, _, _ = tl.philox(seed, kv_idx, kv_idx * 0 + 7, kv_idx * 0 + 3, kv_idx * 0 + 1)
    tl.store(out + kv_idx, (word >> 8).to(tl.float32) * 2.0**-24)

for seed in (5, 2**62 + 12345, -3):
    out = torch.zeros(64)
    kernel[(1,)](out, seed, 64)
    print(" ".join(x.hex() for x in out.tolist()))
"""


@pytest.mark.parametrize("counter,key,answer", VECTORS)
def test_known_answers(counter, key, answer):
    words = philox(key[0] | key[1] << 32, tuple(torch.tensor([c]) for c in counter))
    assert tuple(int(w) for w in words) == answer


def test_equals_triton_bit_for_bit(tmp_path):
    script = tmp_path / "kernel.py"
    script.write_text(TRITON)
    environment = {"TRITON_INTERPRET": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True
    )
    counter = (torch.arange(64), torch.tensor(7), torch.tensor(3), torch.tensor(1))
    for seed, line in zip((5, 2**62 + 12345, -3), run.stdout.strip().split("\n"), strict=True):
        mine = uniform(seed, counter, torch.float64)
        assert [x.hex() for x in mine.tolist()] == line.split()


def test_uniform_numbers():
    counter = torch.meshgrid(*(torch.arange(n) for n in (64, 64, 2, 2)), indexing="ij")
    x = uniform(1, counter, torch.float32)
    assert x.shape == (64, 64, 2, 2)
    assert x.min() >= 0 and x.max() < 1
    assert abs(x.mean() - 0.5) < 0.01 and abs(x.var() - 1 / 12) < 0.005
    assert x.unique().numel() > 0.99 * x.numel()

"""Stored answers: small calls with the results of the definition in float64, at some elements.

A file is: length of the header (8 bytes), the header as JSON, raw numbers. Streams are not stored:
both sides make them from a seed, in whole numbers, so that any version of torch makes the same.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

DTYPES = {
    "float32": torch.float32,
    "int8": torch.int8,
    "int32": torch.int32,
    "int64": torch.int64,
    "bool": torch.bool,
}
MOST = 768  # elements kept of a result
STEP = 1000003  # a prime: the elements kept are spread over the result
LEVELS, SCALE = 128, 32  # of a stream: multiples of 1/32 from -2 to 2, exact in every dtype
TOLERANCE = {"bf16": 0.02, "f16": 0.004, "f32": 0.004}  # RMS error over RMS of the answer
WORST = 16  # times the tolerance: the largest error of one element, over the RMS


@dataclass
class Answers:
    """The cases of one spec: {"lengths", "inputs", "results", "gradients"}, and raw numbers."""

    cases: list[dict[str, Any]]
    raw: bytes

    @classmethod
    def read(cls, data: bytes) -> Answers:
        """From the contents of a file."""
        (length,) = struct.unpack_from("<Q", data)
        return cls(json.loads(data[8 : 8 + length]), data[8 + length :])

    def write(self) -> bytes:
        """The contents of a file."""
        header = json.dumps(self.cases, sort_keys=True, separators=(",", ":")).encode()
        return struct.pack("<Q", len(header)) + header + self.raw

    def tensor(self, entry: dict[str, Any]) -> torch.Tensor:
        """Numbers of the file as a tensor."""
        dtype = DTYPES[entry["dtype"]]
        count = 1
        for size in entry["shape"]:
            count *= size
        flat = torch.frombuffer(bytearray(self.raw), dtype=dtype, count=count, offset=entry["at"])
        return flat.reshape(entry["shape"])


def stream(seed: int, shape: Sequence[int]) -> torch.Tensor:
    """Whole multiples of 1/32 in float32, the same everywhere."""
    count = 1
    for size in shape:
        count *= size
    x = torch.arange(count, dtype=torch.int64) * 2654435761 + seed * 40503 + 12345
    for shift in (15, 13):  # as in xorshift and multiply-with-carry generators
        x = ((x ^ (x >> shift)) * 2246822519) & 0xFFFFFFFF
    x = x ^ (x >> 16)
    return ((x % LEVELS - LEVELS // 2).to(torch.float32) / SCALE).reshape(list(shape))


def kept(result: torch.Tensor) -> torch.Tensor:
    """The elements of a result that an answer holds."""
    flat = result.reshape(-1)
    count = min(MOST, flat.numel())
    at = torch.arange(count, dtype=torch.int64) * STEP % max(1, flat.numel())
    return flat[at.to(flat.device)]


def judge(found: torch.Tensor, answer: torch.Tensor, half: str) -> str:
    """An empty text, or what is wrong."""
    mine = kept(found).cpu()
    if not found.is_floating_point():
        same = float((mine.to(torch.int64) == answer.to(torch.int64)).double().mean())
        return "" if same >= 0.99 else f"{100 - 100 * same:.2g}% of the indices differ"
    mine, answer = mine.double(), answer.double()
    finite = torch.isfinite(answer)
    if not torch.equal(finite, torch.isfinite(mine)):
        return "values that should be finite are not, or the other way round"
    if not torch.equal(mine[~finite], answer[~finite]):
        return "infinite values differ"
    error, size = mine[finite] - answer[finite], float(answer[finite].square().mean().sqrt())
    rms, worst = float(error.square().mean().sqrt()), float(error.abs().max())
    if rms <= TOLERANCE[half] * size + 1e-6 and worst <= WORST * TOLERANCE[half] * size + 1e-5:
        return ""
    return f"RMS error {rms:.3g}, largest {worst:.3g}, beside values of {size:.3g}"

"""Prints the seconds from `attngen.compile` to the end of the first call, in this new process."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch


def main() -> None:
    """Arguments: the spec, and its shape as JSON."""
    b, h, hkv, m, n, d = json.loads(sys.argv[2])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16
    q = torch.randn(b, h, m, d, device=device, dtype=dtype)
    k, v = (torch.randn(b, hkv, n, d, device=device, dtype=dtype) for _ in range(2))
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    import attngen

    attngen.compile(sys.argv[1])(q, k, v)
    if device == "cuda":
        torch.cuda.synchronize()
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()

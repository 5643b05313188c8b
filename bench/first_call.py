"""Seconds from `attngen.compile` to the end of the first call, in a new process.

With a spec and its shape as JSON: this process is the new one, and prints its seconds. With
`--table`: a table of every CuTe kernel of examples/ (or of those named): two processes each, the
first one with nothing in its cache, the second with what the first left there. Nothing is called
there, so no GPU is needed; `import` is that of torch and of the CuTe DSL.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Arguments: the spec, and its shape as JSON; or --table [--repeat N] [NAMES]."""
    if sys.argv[1] == "--table":
        table(sys.argv[2:])
    elif sys.argv[1] == "--one":
        print(json.dumps(one(*sys.argv[2:])))
    else:
        print(first_call(sys.argv[1], json.loads(sys.argv[2])))


def first_call(spec: str, shape: list[int]) -> float:
    import torch

    b, h, hkv, m, n, d = shape
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16
    q = torch.randn(b, h, m, d, device=device, dtype=dtype)
    k, v = (torch.randn(b, hkv, n, d, device=device, dtype=dtype) for _ in range(2))
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    import attngen

    attngen.compile(spec)(q, k, v)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def one(spec: str, what: str) -> dict[str, float]:
    """Seconds of this process for a file; what: "forward" or "backward"."""
    start = time.perf_counter()
    import cutlass  # noqa: F401
    import torch  # noqa: F401

    imported = time.perf_counter()
    import attngen

    kernel = attngen.compile(spec, target="sm_90", backend="cute")
    made = kernel.specialise()
    if what == "backward":
        made = kernel.training(made.request)
        if made.backward.backend != "cute":
            return {}
    emitted = time.perf_counter()
    _ = made.entry if what == "forward" else made.backward_entry
    end = time.perf_counter()
    return {"import": imported - start, "passes": emitted - imported, "compile": end - emitted}


def table(arguments: list[str]) -> None:
    """Markdown: the least of each kind in `--repeat` (default 3) pairs of processes."""
    repeat = int(arguments[1]) if arguments[:1] == ["--repeat"] else 3
    names = arguments[2:] if arguments[:1] == ["--repeat"] else arguments
    found = sorted(x.parent.name for x in ROOT.glob("generated/*/sm_90_cute"))
    print(f"{os.cpu_count()} CPU cores, seconds, the least of {repeat}\n")
    print("| kernel | import | passes | compile, cold | compile, cached |")
    print("|---|---|---|---|---|")
    for name in names or found:
        for what in ("forward", "backward"):
            pairs = [pair(str(ROOT / "examples" / f"{name}.attn"), what) for _ in range(repeat)]
            if not pairs[0][0]:
                continue
            cold, cached = ([p[i] for p in pairs] for i in (0, 1))
            columns = [min(x[k] for x in cold) for k in ("import", "passes", "compile")]
            columns.append(min(x["compile"] for x in cached))
            cells = " | ".join(f"{x:.2f}" for x in columns)
            print(f"| {name}, {what} | {cells} |", flush=True)


def pair(spec: str, what: str) -> list[dict[str, float]]:
    """What two processes say, one after the other, with a new cache."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", spec, what]
        environment = {**os.environ, "ATTNGEN_CACHE": f"{folder}/cache"}
        runs = [
            subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            for _ in range(2)
        ]
        return [json.loads(x.stdout.splitlines()[-1]) for x in runs]


if __name__ == "__main__":
    main()

"""A package beside the kernels compiled here: loading, first calls, host time, kernel time.

    python bench/packages.py FOLDER [--output FILE]

FOLDER holds acme_kernels, unpacked from a wheel of about twenty kernels that was built with
`attngen package examples/flash.attn examples/gemma2.attn examples/alibi_documents.attn --targets
sm_90 --dtypes bf16 --name acme-kernels`. The same specs are compiled here by attngen, by the
backend that --backend names (default: what attngen chooses: CuTe where the DSL is installed).
"""

from __future__ import annotations

import argparse
import compileall
import datetime
import functools
import importlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from measure import host_us, median_ms

import attngen
from attngen.core.target import find_target

SPECS = ("gemma2", "flash", "alibi_documents")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
GOALS = {"load": 50.0, "first call": 10.0, "host": 20.0, "kernel": 1.02}

FRESH = """
import json, sys, time, torch
sys.path.insert(0, sys.argv[1])
q, k, v = (torch.randn(2, 1024, h, 128, device="cuda", dtype=torch.bfloat16) for h in (8, 2, 2))
torch.cuda.synchronize()
clock = time.perf_counter
a = clock(); import acme_kernels; b = clock()
first = []
if sys.argv[2] == "call":
    acme_kernels.gemma2(q, k, v); torch.cuda.synchronize(); first.append(clock() - b)
    t = clock(); acme_kernels.gemma2(q[:, :1], k, v); torch.cuda.synchronize()
    first.append(clock() - t)
c = clock(); count = acme_kernels.preload(); d = clock()
names = [n for n in ("triton", "attngen") if n in sys.modules]
print(json.dumps([1e3 * (b - a), 1e3 * (d - c), count, [1e3 * x for x in first], names]))
"""


def fresh(folder: Path, what: str, rounds: int) -> list[list]:
    """Milliseconds in new processes."""
    out = []
    for _ in range(rounds):
        command = [sys.executable, "-c", FRESH, str(folder), what]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        out.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return out


def load_rows(folder: Path, rounds: int) -> list[str]:
    """Import and preload, then first calls without one."""
    loaded, called = fresh(folder, "load", rounds), fresh(folder, "call", rounds)
    imports, loads = ([r[i] for r in loaded] for i in (0, 1))
    both = statistics.median(a + b for a, b in zip(imports, loads, strict=True))
    prefill, decode = (statistics.median(r[3][i] for r in called) for i in (0, 1))
    count = loaded[0][2]
    assert not loaded[0][4], loaded[0][4]
    half = f"{statistics.median(imports):.1f} + {statistics.median(loads):.1f}"
    return [
        f"| import and load {count} kernels | {half} = {both:.1f} ms | below {GOALS['load']:.0f} |",
        f"| first call, prefill | {prefill:.2f} ms | below {GOALS['first call']:.0f} |",
        f"| first call, decode | {decode:.2f} ms | below {GOALS['first call']:.0f} |",
    ]


def tensors(batch: int, queries: int, keys: int, heads: int, groups: int) -> list[torch.Tensor]:
    """Streams [B, S, H, D] in bfloat16."""
    shapes = ((queries, heads), (keys, groups), (keys, groups))
    return [torch.randn(batch, s, h, 128, device="cuda", dtype=torch.bfloat16) for s, h in shapes]


def backends(acme, kernels: dict) -> str:
    """Which backend made the forward kernels of the package, and those compiled here."""
    manifest, shown = acme._package.manifest, []
    for name, kernel in kernels.items():
        programs = manifest["specs"][name]["variants"][0]["programs"]["forward"]
        numbers = programs["sm_90"]["kernels"].values()
        packaged = sorted({manifest["kernels"][n]["backend"] for n in numbers})
        here = kernel.specialise(target=find_target("sm_90")).emitted.backend
        shown.append(f"{name} by {', '.join(packaged)} (here {here})")
    return "; ".join(shown)


def documents(batch: int, length: int, heads: int) -> list[torch.Tensor]:
    """What alibi_documents takes besides its streams: slopes, documents of 1000."""
    slopes = 2.0 ** (-8 * torch.arange(1, heads + 1, device="cuda", dtype=torch.float32) / heads)
    ids = torch.arange(length, device="cuda") // 1000
    return [slopes, ids.to(torch.int32).repeat(batch, 1)]


def host_rows(acme, kernel, calls: int) -> list[str]:
    """Microseconds of the host per call; short kernels, so that the queue never fills."""
    rows = []
    operator = torch.ops.acme_kernels.gemma2
    for name, size in (("prefill", (1, 64, 64, 2, 2)), ("decode", (1, 1, 512, 8, 2))):
        q, k, v = tensors(*size)
        ways = {
            "function": lambda q=q, k=k, v=v: acme.gemma2(q, k, v),
            "operator": lambda q=q, k=k, v=v: operator(q, k, v),
            "compiled here": lambda q=q, k=k, v=v: kernel(q, k, v),
        }
        heads = [x.transpose(1, 2) for x in (q, k, v)]
        shared = [x.repeat_interleave(q.shape[2] // x.shape[1], 1) for x in heads]
        ways["torch SDPA"] = lambda s=shared: torch.nn.functional.scaled_dot_product_attention(*s)
        for call in ways.values():
            call()
        plan = next(reversed(acme._gemma2._plans.results.values()))
        stream = torch.cuda.current_stream().cuda_stream
        bare = host_us(lambda p=plan, s=stream: [x.launch(s) for x in p.pieces], calls)
        shown = ", ".join(f"{way} {host_us(call, calls):.1f}" for way, call in ways.items())
        rows.append(f"| {name} | {shown}, bare launches {bare:.1f} | below {GOALS['host']:.0f} |")
    return rows


def kernel_rows(acme, kernels: dict, quick: bool) -> list[str]:
    """Milliseconds of the package beside those compiled here, in turns."""
    rows = []
    for label, name, size, backward in (
        ("gemma2, 4096 x 4096", "gemma2", (4, 4096, 4096, 16, 4), False),
        ("gemma2, 16384 x 16384", "gemma2", (1, 16384, 16384, 16, 4), False),
        ("gemma2, decode 1 x 8192", "gemma2", (16, 1, 8192, 32, 8), False),
        ("gemma2 with gradients", "gemma2", (4, 4096, 4096, 16, 4), True),
        ("flash, 4096 x 4096", "flash", (4, 4096, 4096, 16, 16), False),
        ("flash with gradients", "flash", (4, 4096, 4096, 16, 16), True),
        ("alibi_documents, 8192", "alibi_documents", (2, 8192, 8192, 16, 16), False),
        ("alibi_documents with gradients", "alibi_documents", (2, 8192, 8192, 16, 16), True),
    ):
        values = tensors(*size)
        if name != "gemma2":
            values = [x.transpose(1, 2).contiguous() for x in values]
        values = [x.requires_grad_() for x in values] if backward else values
        if name == "alibi_documents":
            values += documents(size[0], size[1], size[3])
        calls = [
            stepping(f, values) if backward else functools.partial(f, *values)
            for f in (getattr(acme, name), kernels[name])
        ]
        times = [[median_ms(call, quick) for call in calls] for _ in range(3)]
        packaged, here = (statistics.median(t[i] for t in times) for i in (0, 1))
        ratio = packaged / here
        rows.append(f"| {label} | {packaged:.4f} | {here:.4f} | {ratio:.3f} | {GOALS['kernel']} |")
    return rows


def stepping(function, values):
    """Forward and backward of a function, through its first result."""

    def first():
        found = function(*values)
        return found[0] if isinstance(found, tuple) else found

    seed = torch.ones_like(first())

    def step():
        for x in values:
            x.grad = None
        first().backward(seed)

    return step


def main() -> None:
    """Print the report, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--backend", choices=["triton", "cute"], help="what compiles here")
    parser.add_argument("--tables", default="load,host,kernels", help="which, between commas")
    options = parser.parse_args()
    sys.path.insert(0, str(options.folder))
    acme = importlib.import_module("acme_kernels")
    asked = {"backend": options.backend} if options.backend else {}
    kernels = {n: attngen.compile(EXAMPLES / f"{n}.attn", **asked) for n in SPECS}
    import triton

    tools = acme._package.manifest["toolchain"]
    compileall.compile_dir(options.folder, quiet=2)  # as pip does when it installs a wheel
    head = [
        "# Packages",
        "",
        f"- {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}, {torch.cuda.get_device_name()}",
        f"- torch {torch.__version__}, triton here {triton.__version__}; package built with triton "
        f"{tools['triton']}",
        f"- forward kernels: {backends(acme, kernels)}",
        "- command: `python bench/packages.py FOLDER`; medians",
        "",
    ]
    rounds, calls = (2, 300) if options.quick else (5, 2000)
    tables = (
        ("load", "loading, in new processes | | goal", lambda: load_rows(options.folder, rounds)),
        (
            "host",
            "host, microseconds a call | | goal (function)",
            lambda: host_rows(acme, kernels["gemma2"], calls),
        ),
        (
            "kernels",
            "GPU, ms | package | compiled here | ratio | goal",
            lambda: kernel_rows(acme, kernels, options.quick),
        ),
    )
    lines = list(head)
    print("\n".join(head), flush=True)
    for name, title, rows in tables:
        if name not in options.tables.split(","):
            continue
        table = ["", f"| {title} |", "|" + "---|" * (title.count("|") + 1), *rows()]
        print("\n".join(table), flush=True)
        lines += table
    if options.output:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

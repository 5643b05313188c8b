"""Clocks: GPU medians, host time per call, first calls in fresh processes, peak memory."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import torch

FIRST_CALL = Path(__file__).parent / "first_call.py"


def median_ms(call: Callable[[], Any], quick: bool) -> float:
    """Median time of a call on the GPU (on a CPU: one call), milliseconds."""
    if not torch.cuda.is_available():
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3
    from triton.testing import do_bench

    warmup, rep = (10, 30) if quick else (25, 100)
    return float(do_bench(call, warmup=warmup, rep=rep, return_mode="median"))


def clean_median_ms(call: Callable[[], Any], quick: bool) -> float:
    """The same with a last-level cache emptied by reading: no old lines are left to write back.

    do_bench fills the cache with zeros; writing them back (some 40 MB) is then part of a call.
    """
    if not torch.cuda.is_available():
        return median_ms(call, quick)
    big = torch.zeros(64 << 20, device="cuda")  # 256 MiB
    pairs = []
    for _ in range(30 if quick else 100):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        big.sum()
        events[0].record()
        call()
        events[1].record()
        pairs.append(events)
    torch.cuda.synchronize()
    times = sorted(start.elapsed_time(end) for start, end in pairs)
    return float(times[len(times) // 2])


def copy_rate(size: int, quick: bool) -> float:
    """GB/s of a copy that reads and writes `size` bytes together."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = torch.ones(size // 4, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    return size / median_ms(lambda: target.copy_(source), quick) / 1e6


def host_us(call: Callable[[], Any], calls: int, rounds: int = 5) -> float:
    """Microseconds the host spends per call; best of some rounds, the queue drained between."""
    best = float("inf")
    for _ in range(rounds):
        _drain()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        best = min(best, time.perf_counter() - start)
    _drain()
    return best / calls * 1e6


def peak_beyond(call: Callable[[], Any]) -> int:
    """Bytes allocated at the peak of a call beyond what was there before and what it returns."""
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    results = result if isinstance(result, tuple) else (result,)
    # the allocator hands out multiples of 512 bytes
    return peak - before - sum((r.numel() * r.element_size() + 511) // 512 * 512 for r in results)


def load_emitted(source: str, folder: str):
    """The generated file as a module of its own, without attngen around it."""
    path = Path(folder) / "emitted_kernel.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("emitted_kernel", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["emitted_kernel"] = module
    spec.loader.exec_module(module)
    return module


class Recorder:
    """Stands in for a `@triton.jit` function: launches it and remembers how."""

    def __init__(self, kernel) -> None:
        self.kernel = kernel
        self.launch: Callable[[], Any] | None = None

    def __getitem__(self, grid):
        bound = self.kernel[grid]

        def call(*args, **options):
            self.launch = lambda: bound(*args, **options)
            return bound(*args, **options)

        return call

    def __getattr__(self, name: str):
        return getattr(self.kernel, name)


def record_launches(module, call: Callable[[], Any]) -> list[Callable[[], Any]]:
    """The bare launches that `call` makes through the jit functions of the module."""
    # launches of the host functions; steps and helpers are called by kernels and must stay
    launched = {
        name
        for f in vars(module).values()
        if isinstance(f, FunctionType)
        for name in f.__code__.co_names
    }
    kernels = {
        n: f for n, f in vars(module).items() if n in launched and type(f).__name__ == "JITFunction"
    }
    recorders = {name: Recorder(kernel) for name, kernel in kernels.items()}
    vars(module).update(recorders)
    try:
        call()
    finally:
        vars(module).update(kernels)
    return [r.launch for r in recorders.values() if r.launch is not None]


def first_calls(spec: Path, shape: tuple[int, ...]) -> dict[str, list[float]]:
    """Seconds of the first call in a new process, twice: with empty caches, then with full ones.

    Python's own byte code is there, as an installation leaves it: a process before them writes it.
    """
    with tempfile.TemporaryDirectory() as folder:
        # two caches, ours and Triton's, and nothing in them
        environment = dict(os.environ, PYTHONPYCACHEPREFIX=f"{folder}/bytecode")
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, str(FIRST_CALL), str(spec), json.dumps(shape)]

        def called(caches: str) -> float:
            ours = Path(folder, caches, "attngen")
            ours.mkdir(mode=0o700, parents=True, exist_ok=True)
            theirs = {"ATTNGEN_CACHE": str(ours), "TRITON_CACHE_DIR": f"{folder}/{caches}/triton"}
            return _first_call(command, environment | theirs)

        called("bytecode only")
        rounds = [(called(f"{i}"), called(f"{i}")) for i in range(2)]
        empty, full = map(list, zip(*rounds, strict=True))
        return {"empty cache": empty, "full cache": full}


def _first_call(command: list[str], environment: dict[str, str]) -> float:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1])
    return float(done.stdout.strip().splitlines()[-1])


def _drain() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

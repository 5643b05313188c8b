"""Measuring one row: first calls, set-up, peak memory, then medians over alternating rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from rivals.rows import Row, inputs
from rivals.systems import Ready, System
from rivals.truth import Truth

BURST_MS = 15.0  # launches in a row between two events: long enough that a launch costs nothing


@dataclass
class Cell:
    """What one system did on one row. Times in ms, first call in s, memory in MiB.

    note: why there is no number (missing, no such formula, failed, wrong), or what it stands for.
    """

    forward: float | None = None
    backward: float | None = None
    first: float | None = None
    set_up: float | None = None
    peak: float | None = None
    error: float | None = None
    gradient_error: float | None = None
    note: str = ""
    bursts: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Prepared:
    """A row whose systems have been called once and checked: what is left is to time them."""

    cells: dict[str, Cell]
    calls: dict[tuple[str, str], Callable[[], Any]]

    def timed(self, rounds: int) -> dict[str, Cell]:
        """Systems take turns, a burst each; medians."""
        for _ in range(rounds):
            for (name, what), call in self.calls.items():
                _guarded(self.cells[name], partial(_burst, self.cells[name], what, call))
        for cell in self.cells.values():
            for what, times in cell.bursts.items():
                setattr(cell, what, statistics.median(times))
        return self.cells


def prepare(row: Row, columns: list[System], backward: bool) -> Prepared:
    """Every system on one row. A system that fails or is wrong costs only its own cell."""
    values = inputs(row, "cuda", torch.bfloat16)
    shape = (row.batch, row.heads, row.length, row.features)
    seed = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    truth = Truth(row, values, seed)
    cells: dict[str, Cell] = {}
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    for system in columns:
        cell = cells[system.name] = Cell(note=system.missing() or system.skips(row))
        if not cell.note:
            given = (system, row, values, truth, seed, cell, calls, backward)
            _guarded(cell, partial(_prepare, *given))
    torch.cuda.empty_cache()
    return Prepared(cells, calls)


class LostContextError(Exception):
    """A system left the GPU's context unusable: nothing more can be measured in this process."""


def _guarded(cell: Cell, act: Callable[[], None]) -> None:
    """LostContextError if not even an empty queue can be awaited after a failure."""
    try:
        act()
        torch.cuda.synchronize()
    except Exception as error:  # a peer may raise anything
        words = " ".join(f"{type(error).__name__}: {error}".split())
        cell.note = cell.note or words[:160].replace("|", "/")
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except Exception:
            raise LostContextError(cell.note) from error


def _prepare(system, row, values, truth, seed, cell, calls, backward) -> None:
    start = time.perf_counter()
    ready: Ready = system.prepare(row, values)
    poison = torch.full(seed.shape, float("nan"), device="cuda", dtype=seed.dtype)
    del poison  # the next result of this size lands on it
    with torch.no_grad():
        out = ready.call()
    torch.cuda.synchronize()
    cell.first = time.perf_counter() - start
    if ready.stands_in:
        cell.note = "time of two calls"
    else:
        cell.error = truth.result_error(out)
    del out
    with torch.no_grad():
        cell.peak = _peak(ready.call)

    def forward() -> None:
        with torch.no_grad():
            ready.call()

    calls[system.name, "forward"] = forward
    if ready.set_up is not None:
        cell.set_up = _set_up(ready.set_up)
    if backward:
        _guarded_backward(system, ready, truth, seed, cell, calls)


def _guarded_backward(system, ready, truth, seed, cell, calls) -> None:
    """A backward that fails leaves the forward's numbers."""
    try:
        out = ready.call()

        def gradients():
            return torch.autograd.grad(out, list(ready.leaves), seed, retain_graph=True)

        found = gradients()
        if not ready.stands_in:
            cell.gradient_error = truth.gradient_error(found)
        calls[system.name, "backward"] = gradients
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        cell.note = f"backward: {words[:120]}".replace("|", "/")


def _peak(call: Callable[[], Any]) -> float:
    """MiB at the peak of a call beyond what was there before, its result included."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _set_up(build: Callable[[], Any]) -> float:
    """Median ms of building masks or plans, the first time not counted."""
    times = []
    for _ in range(3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        build()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def _burst(cell: Cell, what: str, call: Callable[[], Any]) -> None:
    """One burst of launches; its ms per launch are kept."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    count = max(2, min(50, round(BURST_MS / max(begin.elapsed_time(end), 1e-3))))
    begin.record()
    for _ in range(count):
        call()
    end.record()
    torch.cuda.synchronize()
    cell.bursts.setdefault(what, []).append(begin.elapsed_time(end) / count)

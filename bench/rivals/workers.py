"""Rows in processes of their own: compiling side by side, timing one after the other.

Most of a run is compilation, on one core. So the processes of a batch prepare their rows at once;
when all are ready they are timed in turn, while the others hold memory and do nothing. A system
that loses the GPU's context, or ends its process, costs its row only.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from rivals.clocks import Cell
from rivals.rows import Row


@dataclass(frozen=True)
class Task:
    """What a process is to do. columns: names of systems; rounds: bursts of each."""

    row: Row
    columns: tuple[str, ...]
    rounds: int
    backward: bool


def measure(tasks: Sequence[Task]) -> Iterator[tuple[Row, dict[str, Cell]]]:
    """Cells of each row of a batch, in their order."""
    context = get_context("spawn")
    batch = []
    for task in tasks:
        here, there = context.Pipe()
        process = context.Process(target=work, args=(there, task))
        process.start()
        there.close()
        batch.append((task, process, here))
    failures = [_answer(pipe) for _, _, pipe in batch]  # waits until every row is ready
    for (task, process, pipe), failure in zip(batch, failures, strict=True):
        if failure is None:
            pipe.send("go")
        yield task.row, failure or _answer(pipe) or {}
        process.join(timeout=20)
        process.kill()


def work(pipe: Connection, task: Task) -> None:
    """The process of a row: prepares, says so (None), waits for its turn, sends its cells."""
    with tempfile.TemporaryDirectory() as folder:
        _empty_caches(Path(folder))
        from rivals import clocks
        from rivals.systems import systems

        columns = [s for s in systems() if s.name in task.columns]
        try:
            prepared = clocks.prepare(task.row, columns, task.backward)
            pipe.send(None)
            pipe.recv()
            pipe.send(prepared.timed(task.rounds))
        except Exception as error:  # such as no memory for the inputs, a lost context
            pipe.send(_nothing(f"{type(error).__name__}: {error}"))


def _empty_caches(folder: Path) -> None:
    """So that a first call is one."""
    os.environ.update(ATTNGEN_CACHE=f"{folder}/attngen", TRITON_CACHE_DIR=f"{folder}/triton")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/inductor"
    (folder / "attngen").mkdir(mode=0o700)


def _answer(pipe: Connection) -> dict[str, Cell] | None:
    """What a process sends; a note if it ended without a word."""
    try:
        return pipe.recv()
    except EOFError:
        return _nothing("its process ended")


def _nothing(words: str) -> dict[str, Cell]:
    note = " ".join(f"not measured, {words}".split())
    return {"all": Cell(note=note[:160].replace("|", "/"))}

"""Compiled CuTe kernels: from the cache, or compiled by several processes at a time.

The compiler of the CuTe DSL keeps one core busy for seconds, most of them under the lock of the
interpreter: threads would not help. So the kernels of a file, and the ones that redo tiles, are
shared between this process and others. What they give are object files, which the cache keeps and
which take milliseconds to load.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from attngen.backend.emitted import Emitted
from attngen.cutelib.launch import Forward, compiled, loaded, object_of
from attngen.runtime.cache import Cache, Entry
from attngen.runtime.fingerprint import digest, generator, toolchain
from attngen.runtime.settings import worker_environment

PROCESSES = 4  # at most, this one among them: a file has two kernels, seldom four
PATIENCE = 600  # seconds for another process

Run = Callable[..., Any]


@dataclass(frozen=True)
class Part:
    """One kernel to compile. forward: its name in the file; number: of the plan's parts."""

    forward: str
    number: int


def prepare(module: ModuleType, emitted: Emitted, cache: Cache) -> None:
    """Put compiled functions in place for the kernels of a file, before it is first called."""
    forwards = {n: x for n, x in vars(module).items() if isinstance(x, Forward) and not x.ready}
    parts = [Part(n, i) for n, x in forwards.items() for i in range(len(x.plan.parts))]
    if not parts:
        return
    keys = {part: object_key(emitted, part) for part in parts}
    stored = {part: cache.get(key) for part, key in keys.items()}
    runs = {
        part: loaded(entry.blobs["object"], _name(forwards, part))
        for part, entry in stored.items()
        if entry is not None
    }
    missing = [part for part in parts if part not in runs]
    for part, run, data in _compiled(forwards, emitted, missing):
        runs[part] = run
        cache.put(keys[part], Entry({}, {"object": data}))
    for name, forward in forwards.items():
        forward.use(*(runs[Part(name, i)] for i in range(len(forward.plan.parts))))


def object_key(emitted: Emitted, part: Part) -> str:
    """Key of an object: the text, this library, the compiler, and what its calls go through."""
    return digest(
        "cute object",
        source=emitted.source,
        forward=part.forward,
        number=part.number,
        toolchain=toolchain("cute"),
        generator=generator(),
    )


def shares(parts: Sequence[Part], processes: int) -> list[list[Part]]:
    """What each process compiles, this one first: kernels in turn, then the ones that redo."""
    ordered = sorted(parts, key=lambda part: part.number)
    count = max(1, min(processes, len(ordered)))
    return [ordered[i::count] for i in range(count)]


def _compiled(
    forwards: dict[str, Forward], emitted: Emitted, parts: Sequence[Part]
) -> Iterator[tuple[Part, Run, bytes]]:
    """(part, its function, its object file) of each; another process may fail: then here."""
    own, *others = shares(parts, min(PROCESSES, os.cpu_count() or 1))
    with _workers(emitted, others) as answers:
        for part in own:
            yield part, *_here(forwards, part)
        for share, answer in zip(others, answers, strict=True):
            found = answer()
            for i, part in enumerate(share):
                if found is None:
                    yield part, *_here(forwards, part)
                else:
                    yield part, loaded(found[i], _name(forwards, part)), found[i]


def _here(forwards: dict[str, Forward], part: Part) -> tuple[Run, bytes]:
    run = compiled(forwards[part.forward].plan.parts[part.number])
    return run, object_of(run, _name(forwards, part))


def _name(forwards: dict[str, Forward], part: Part) -> str:
    return forwards[part.forward].plan.parts[part.number].name


@contextmanager
def _workers(
    emitted: Emitted, shares: Sequence[Sequence[Part]]
) -> Iterator[list[Callable[[], list[bytes] | None]]]:
    """A process for each share; for each a function that waits for its objects, or None."""
    with tempfile.TemporaryDirectory(prefix="attngen_") as folder:
        processes = [_start(emitted, share, Path(folder)) for share in shares]
        try:
            yield [partial(_answer, process) for process in processes]
        finally:
            for process in filter(None, processes):
                process.kill()
                process.communicate()


def _start(emitted: Emitted, share: Sequence[Part], folder: Path) -> subprocess.Popen[str] | None:
    parts = [(x.forward, x.number) for x in share]
    request = folder / f"{share[0].forward}_{share[0].number}.json"
    request.write_text(json.dumps({"source": emitted.source, "parts": parts}))
    try:
        with request.open() as file:
            # -P: a file of the user's that is called torch.py must not be imported
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "attngen.runtime.cute_worker"],
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=worker_environment(folder),
            )
    except (OSError, ValueError, TypeError):  # no interpreter to start: an embedded one
        return None


def _answer(process: subprocess.Popen[str] | None) -> list[bytes] | None:
    """Its objects; None if it failed in any way: the error is met again, and shown, here."""
    if process is None:
        return None
    try:
        text, _ = process.communicate(timeout=PATIENCE)
        return [base64.b64decode(x) for x in json.loads(text)["objects"]]
    except (OSError, ValueError, KeyError, subprocess.TimeoutExpired):
        return None

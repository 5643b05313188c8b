"""Compiles emitted files to cubin or hsaco for targets that are not in this machine."""

from __future__ import annotations

import base64
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from attngen.backend.emitted import DeviceKernel, Emitted
from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.target import Target
from attngen.runtime.binary import Binary, require_fit
from attngen.runtime.cache import Cache, Entry
from attngen.runtime.fingerprint import digest, library, toolchain
from attngen.runtime.settings import worker_environment

WORKERS = 2
PATIENCE = 600  # seconds for one file and one target
FAMILIES = (100, 120)  # their binaries in a package run on later members of the family


def compile_for(
    emitted: Emitted, target: Target, cache: Cache, steady: bool = False
) -> list[Binary]:
    """Every device function of the file, compiled for the target, from the cache where possible.

    steady: for a package: the same source gives the same bytes, and no line numbers.
    SpecError: E302 the target has no binaries, E310 too much shared memory, E311 the compiler
    failed.
    """
    if target.family not in ("cuda", "hip"):
        message = f"target {target.name} runs kernels from their source; it has no binaries"
        raise SpecError(Diagnostic("E302", message, help="--target sm_90"))
    keys = {kernel.name: binary_key(emitted, kernel, target, steady) for kernel in emitted.kernels}
    found = {name: _binary(cache.get(key)) for name, key in keys.items()}
    missing = [kernel for kernel in emitted.kernels if found[kernel.name] is None]
    for binary in _compile(emitted, missing, target, steady) if missing else []:
        cache.put(keys[binary.kernel], _entry(binary))
        found[binary.kernel] = binary
    binaries = [b for kernel in emitted.kernels if (b := found[kernel.name]) is not None]
    for binary in binaries:
        require_fit(binary, target)
    return binaries


def compile_many(
    jobs: Sequence[tuple[Emitted, Target]],
    cache: Cache,
    done: Callable[[Target], object] = lambda target: None,
    steady: bool = False,
    workers: int = WORKERS,
) -> list[list[Binary]]:
    """Several files or targets at a time; `done` is called after each (for progress bars)."""

    def one(job: tuple[Emitted, Target]) -> list[Binary]:
        binaries = compile_for(*job, cache, steady)
        done(job[1])
        return binaries

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, jobs))


def binary_key(emitted: Emitted, kernel: DeviceKernel, target: Target, steady: bool = False) -> str:
    """The key of a binary: the emitted text, how it is compiled, and the toolchain.

    A kernel of CuTe is made of attngen's own library too; a file may hold some of Triton's.
    """
    compiler = "triton" if kernel.signature else emitted.backend
    return digest(
        "steady binary" if steady else "binary",
        source=emitted.source,
        kernel=_request(kernel),
        target=target.name,
        toolchain=toolchain(compiler),
        library=library() if compiler == "cute" else "",
    )


def _request(kernel: DeviceKernel) -> dict[str, Any]:
    return dataclasses.asdict(kernel) | {
        "signature": dict(kernel.signature),
        "constants": dict(kernel.constants),
    }


def _compile(
    emitted: Emitted, kernels: Iterable[DeviceKernel], target: Target, steady: bool
) -> list[Binary]:
    """Triton's kernels are asked for one by one; plans of CuTe, without signatures, come whole."""
    found: list[Binary] = []
    wanted = list(kernels)
    own = [kernel for kernel in wanted if kernel.signature or emitted.backend == "triton"]
    if own:
        request = {
            "source": emitted.source,
            "target": {"family": target.family, "arch": target.arch, "warp": target.warp},
            "kernels": [_request(kernel) for kernel in own],
        }
        found += _binaries(_ask(json.dumps(request), target, steady))
    if len(own) < len(wanted):
        answer = _ask(json.dumps({"source": emitted.source}), target, steady, "cute_worker")
        found += _binaries(answer)
    return found


def _binaries(answer: dict[str, Any]) -> list[Binary]:
    return [
        Binary(**{**fields, "data": base64.b64decode(fields["data"])})
        for fields in answer["binaries"]
    ]


def _ask(
    request: str, target: Target, steady: bool, worker: str = "compile_worker"
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="attngen_") as folder:
        # -P: a file of the user's that is called triton.py must not be imported
        process = subprocess.run(
            [sys.executable, "-P", "-m", f"attngen.runtime.{worker}"],
            input=request,
            capture_output=True,
            text=True,
            env=_environment(Path(folder), target, steady),
            timeout=PATIENCE,
            check=False,
        )
    try:
        answer: dict[str, Any] = json.loads(process.stdout)
    except ValueError:
        answer = {"error": process.stderr[-2000:] or f"exit status {process.returncode}"}
    if "error" in answer:
        message = f"the compiler failed for {target.name}: {answer['error'].strip()}"
        raise SpecError(Diagnostic("E311", message, help="try another schedule or target"))
    return answer


def _environment(folder: Path, target: Target, steady: bool) -> dict[str, str]:
    environment = worker_environment(folder, steady)
    if steady and target.arch in FAMILIES:
        environment["ATTNGEN_FAMILY"] = "1"
    return environment


def _entry(binary: Binary) -> Entry:
    meta = dataclasses.asdict(binary)
    blobs = {"data": meta.pop("data"), "assembly": meta.pop("assembly").encode()}
    return Entry(meta, blobs)


def _binary(entry: Entry | None) -> Binary | None:
    if entry is None:
        return None
    return Binary(**entry.meta, data=entry.blobs["data"], assembly=entry.blobs["assembly"].decode())

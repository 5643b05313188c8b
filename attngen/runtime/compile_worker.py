"""Compiles kernels in a process of its own: `python -m attngen.runtime.compile_worker`.

Reads one JSON request from standard input and writes one JSON answer to standard output. A process
of its own because the caller may have the interpreter on, and because compilers may crash.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import sys
from types import ModuleType
from typing import Any

from attngen.backend.emitted import Emitted
from attngen.runtime.binary import hsaco_report, ptxas_report
from attngen.runtime.load import load_module
from attngen.runtime.steady import NOT_FIXED


class _Stub(ModuleType):
    """Stands for torch: generated files name it in their host functions, which are not run here."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Stub(name)


def main() -> int:
    """Answer one request: {"source", "target", "kernels"} -> {"binaries"} or {"error"}."""
    request = json.load(sys.stdin)
    answer: dict[str, Any]
    try:
        answer = {"binaries": _compile_all(request)}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    json.dump(answer, sys.stdout)
    return 0


def _compile_all(request: dict[str, Any]) -> list[dict[str, Any]]:
    # importing the real one takes longer than compiling; Triton itself needs it only to launch
    sys.modules["torch"] = _Stub("torch")
    source = request["source"]
    module = load_module(Emitted(source, entry="", arguments=(), outputs=(), kernels=()))
    return [_compile(getattr(module, k["name"]), k, request["target"]) for k in request["kernels"]]


def _compile(function: Any, kernel: dict[str, Any], target: dict[str, Any]) -> dict[str, Any]:
    import triton  # noqa: PLC0415 - after the stub
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    position = {name: i for i, name in enumerate(function.arg_names)}
    source = ASTSource(
        fn=function,
        signature=kernel["signature"],
        constexprs={(position[name],): value for name, value in kernel["constants"].items()},
        attrs={(position[name],): [["tt.divisibility", 16]] for name in kernel["divisible"]},
    )
    options = {"num_warps": kernel["warps"], "num_stages": kernel["stages"]}
    if kernel["max_registers"] and target["family"] == "cuda":
        options["maxnreg"] = kernel["max_registers"]
    if kernel["dependent"] and target["family"] == "cuda":
        options["launch_pdl"] = True
    log = io.StringIO()  # Triton prints ptxas's report to standard output
    with contextlib.redirect_stdout(log):
        gpu = GPUTarget(target["family"], target["arch"], target["warp"])
        compiled = triton.compile(  # type: ignore[no-untyped-call] # untyped in its library
            source, target=gpu, options=options
        )
    return _describe(kernel["name"], compiled, log.getvalue())


def _describe(name: str, compiled: Any, log: str) -> dict[str, Any]:
    kind = "cubin" if "cubin" in compiled.asm else "hsaco"
    assembly = compiled.asm["ptx" if kind == "cubin" else "amdgcn"]
    registers, spills = ptxas_report(log) if kind == "cubin" else hsaco_report(assembly)
    return {
        "kernel": name,
        "kind": kind,
        "data": base64.b64encode(compiled.asm[kind]).decode(),
        "registers": registers,
        "spills_bytes": spills,
        "shared_bytes": compiled.metadata.shared,
        "warps": compiled.metadata.num_warps,
        "symbol": compiled.metadata.name,
        "assembly": assembly,
        "launch": _launch(compiled.metadata, log),
    }


def _launch(metadata: Any, log: str) -> dict[str, Any]:
    """What a launcher must know besides block and shared memory."""
    found = metadata._asdict()  # some are there for one family of targets only
    return {
        "clusters": found.get("num_ctas", 1),
        "scratch": [found.get("global_scratch_size", 0), found.get("global_scratch_align", 1)],
        "profile_scratch": found.get("profile_scratch_size", 0),
        "dependent": bool(found.get("launch_pdl")),
        "cooperative": bool(found.get("launch_cooperative_grid")),
        "descriptors": [dict(d) for d in found.get("tensordesc_meta") or []],
        "steady": NOT_FIXED not in log,
    }


if __name__ == "__main__":
    raise SystemExit(main())

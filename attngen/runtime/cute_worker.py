"""Compiles a CuTe kernel file in a process of its own: `python -m attngen.runtime.cute_worker`.

Reads one JSON request from standard input and writes one JSON answer to standard output; the
architecture and what the compiler keeps are fixed by environment variables read at its import.
torch is not imported: it takes longer than a small kernel, and is not needed to compile one.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from attngen.backend.emitted import Emitted
from attngen.cutelib.backward.plan import BackwardPlan
from attngen.cutelib.host.describe import describe
from attngen.cutelib.host.numbers import HostCodeError
from attngen.cutelib.launch import Forward, compiled, object_of, trace
from attngen.cutelib.plan import Plan
from attngen.runtime.load import load_module
from attngen.schedule.cute import CuteSchedule, shared
from attngen.schedule.cute_blackwell import shared as shared_of_blackwell

PREFIX = "CUTE_DSL_"
LONGEST = 16  # elements of a constant that are printed: the cubin is one


def main() -> int:
    """Answer one request: {"source"} -> {"binaries"} or {"error"}.

    With {"parts": [[kernel, number of its part], ..]}: -> {"objects"}, for this machine's GPU.
    """
    request = json.load(sys.stdin)
    answer: dict[str, Any]
    try:
        if "parts" in request:
            answer = {"objects": objects(request["source"], request["parts"])}
        else:
            answer = {"binaries": binaries(request["source"])}
    except Exception as error:  # the compiler raises many kinds
        answer = {"error": f"{type(error).__name__}: {error}"}
    json.dump(answer, sys.stdout)
    return 0


def binaries(source: str) -> list[dict[str, Any]]:
    """Every device function of the file: its cubin, and what it uses."""
    with tempfile.TemporaryDirectory(prefix="attngen_") as folder:
        forwards = list(_kernels(source).values())
        for name in [n for n in os.environ if n.startswith(PREFIX)]:
            del os.environ[name]  # a user's would change the code
        os.environ |= {  # read when the compiler is imported, by `trace`
            "CUTE_DSL_KEEP": "cubin",
            "CUTE_DSL_DUMP_DIR": folder,
            "CUTE_DSL_NO_CACHE": "1",
        }
        found = []
        for forward in forwards:
            parts: Sequence[Plan | BackwardPlan] = forward.plan.parts
            for number, part in enumerate(parts):
                facts = {"plan": forward.plan.name, "number": number, "steady": True}
                launch = facts | _launch(trace(part), part)
                for path in sorted(Path(folder).glob("*.cubin")):
                    found += _describe(path, part, launch)
                    path.unlink()
        return found


def _launch(made: Any, plan: Plan | BackwardPlan) -> dict[str, Any]:
    """What a launcher without the compiler must know; {"problem"}: why it cannot."""
    text = made.ir_module.operation.get_asm(
        print_generic_op_form=True, large_elements_limit=LONGEST
    )
    try:
        found = describe(text, plan)
    except HostCodeError as error:
        return {"problem": f"its host function has {error}"}
    if len(found) != 1:
        return {"problem": f"its host function launches {len(found)} kernels"}
    names = [name for name, _ in plan.arguments]
    return {**found[0], "arguments": names, "aligned": [n for n in names if n in plan.aligned]}


def objects(source: str, parts: list[tuple[str, int]]) -> list[str]:
    """The parts as objects, base64: (name of the kernel in the file, number of its part) each."""
    kernels = _kernels(source)
    plans = [kernels[name].plan.parts[number] for name, number in parts]
    made = (object_of(compiled(plan), plan.name) for plan in plans)
    return [base64.b64encode(x).decode() for x in made]


def _kernels(source: str) -> dict[str, Forward]:
    """The kernels of a file, by name; from here on there is no torch."""
    sys.modules["torch"] = ModuleType("torch")  # named in the host function, which is not run
    module = load_module(Emitted(source, "", (), (), ()))
    sys.modules["torch"] = None  # type: ignore[assignment] # an import fails, as if not installed
    return {name: x for name, x in vars(module).items() if isinstance(x, Forward)}


def _describe(
    path: Path, plan: Plan | BackwardPlan, launch: Mapping[str, Any]
) -> list[dict[str, Any]]:
    usage = _cuobjdump("-res-usage", path)
    code = _cuobjdump("-sass", path)
    texts = dict(_functions(code))
    out = []
    for symbol, line in re.findall(r"Function (\S+):\s*\n(.*)", usage):
        numbers = {k: int(v) for k, v in re.findall(r"(\w+):(\d+)", line)}
        out.append(
            {
                "kernel": plan.name if isinstance(plan, BackwardPlan) else _name(symbol),
                "kind": "cubin",
                "data": base64.b64encode(path.read_bytes()).decode(),
                "registers": numbers.get("REG", 0),
                "spills_bytes": numbers.get("STACK", 0),
                "shared_bytes": launch.get("shared", _shared(plan)),
                "warps": plan.schedule.warps,
                "symbol": symbol,
                "assembly": texts.get(symbol, ""),
                "launch": dict(launch),
            }
        )
    return out


def _name(symbol: str) -> str:
    return symbol.partition("_kernel_cutlass_")[0]


def _shared(plan: Plan | BackwardPlan) -> int:
    """Bytes of shared memory: it is asked for at the launch, the cubin does not say."""
    if isinstance(plan, BackwardPlan):
        return plan.shared_bytes
    s, query, value = plan.schedule, plan.query.width, plan.value.width
    form = "flat" if s.flat else "tile"
    schedule = CuteSchedule(s.tile_m, s.tile_n, s.stages, form=form)
    if s.arch == "sm_100":
        return shared_of_blackwell(schedule, query, value)
    pairs = sum(4 if x.dtype == "f32" else 2 for x in plan.riders if x.pairs)
    keys = sum(4 if x.dtype == "f32" else 2 for x in plan.riders if not x.pairs)
    return shared(schedule, query, value, pairs, keys)


def _functions(code: str) -> list[tuple[str, str]]:
    parts = re.split(r"\n\s*Function : ", code)[1:]
    return [(part.partition("\n")[0].strip(), part) for part in parts]


def _cuobjdump(option: str, path: Path) -> str:
    """Triton's copy of the tool; empty text where it cannot be run."""
    import triton  # noqa: PLC0415 - for its folder alone

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    done = subprocess.run(
        [str(tool), option, str(path)], capture_output=True, text=True, check=False
    )
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(main())

"""Candidates for the schedules of backward kernels, measured side by side on one GPU.

    python bench/backward_sweep.py [--rows causal] [--quick] [--compile-only]

Every candidate is compiled first, in a pool of processes; its gradients are compared with those of
a dense float64 formula on one head and run to run; a wrong one is named and not timed. Kernels are
launched directly, without autograd, so that only they are compared. `--compile-only` needs no GPU:
it prints registers, spills and shared memory of every kernel instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import torch
from backward import check
from cases import Case, forward_cases, inputs
from check import WrongResultError
from measure import median_ms

from attngen.core.dtype import Dtype
from attngen.core.target import find_target
from attngen.ir.program import Program
from attngen.runtime.kernel import compile as compile_spec
from attngen.runtime.specialise import Request
from attngen.runtime.training import Training, generate_training
from attngen.schedule.backward import BackwardSchedule, choose_backward

SMALL = 512  # length at which a process of the pool runs a candidate, so that Triton compiles it
TARGET = "sm_90"


def candidates(kind: str, chosen: BackwardSchedule) -> Iterator[tuple[str, BackwardSchedule]]:
    """(name, schedule): the default first, then one change at a time, then sums of them."""
    yield "default", chosen
    tall = replace(chosen, keys=replace(chosen.keys, block_k=128, warps=8, stages=3))
    deep = replace(chosen, keys=replace(chosen.keys, stages=3))
    single = replace(chosen, keys=replace(chosen.keys, loops="single"))
    both = replace(single, queries=replace(chosen.queries, loops="single"))
    yield "keys 64x128 w8 s3", tall
    yield "keys s3", deep
    yield "joined", replace(chosen, joined=True)
    if kind == "alibi":
        yield "float positions", replace(chosen, float_positions=True)
        yield "float positions, joined", replace(chosen, float_positions=True, joined=True)
    if kind in ("window", "documents"):
        yield "keys single", single
        yield "keys single, joined", replace(single, joined=True)
        yield "both single", both
        yield "both single, joined", replace(both, joined=True)


def programs(case: Case) -> tuple[Any, Request, Program]:
    """(kernel, request, program) of a row."""
    kernel = compile_spec(str(case.spec))
    sizes = tuple((n, case.shape[-1]) for n in ("D", "Dv") if f" {n}]" in case.spec.read_text())
    request = Request(sizes, Dtype.BF16, find_target(TARGET), False)
    return kernel, request, kernel.spec.program(request)


def trained(case: Case, schedule: BackwardSchedule) -> Training:
    """The pair of files of a row with this backward."""
    from attngen.backend.triton.backward.emit import emit_backward
    from attngen.passes.differentiate import differentiate

    kernel, request, program = programs(case)
    pair = generate_training(kernel.spec, request)
    plan = differentiate(program.attention, program.online)
    return replace(pair, backward=emit_backward(program, plan, schedule, request.target))


def gradients(case: Case, pair: Training, values: dict[str, Any], seed: torch.Tensor) -> Callable:
    """A call of the backward kernels alone."""
    found = pair.forward_entry(*values.values())
    count = len(found) - len(pair.wiring.saved)
    given = [*found[count:], *(found[i] for i in pair.wiring.results), seed]
    return lambda: pair.backward_entry(*values.values(), *given)


def seed_of(case: Case) -> torch.Tensor:
    """The gradient of the result."""
    b, h, _, m, _, d = case.shape
    return torch.randn(b, h, m, d, device="cuda", dtype=torch.bfloat16)


def warm(job: tuple[Case, str, BackwardSchedule]) -> str:
    """Compile a candidate by running it at a small length (in a process of the pool)."""
    case, name, schedule = job
    b, h, hkv, _, _, d = case.shape
    small = replace(case, shape=(b, h, hkv, SMALL, SMALL, d))
    try:
        call = gradients(
            small, trained(small, schedule), inputs(small, "cuda", torch.bfloat16), seed_of(small)
        )
        call()
        torch.cuda.synchronize()
    except Exception as error:
        return f"{case.name}, {name}: {type(error).__name__}: {str(error)[:200]}"
    return ""


def report(case: Case, name: str, schedule: BackwardSchedule) -> Iterator[str]:
    """A line per kernel: what the compiler says."""
    from attngen.runtime.cache import Cache
    from attngen.runtime.crosscompile import compile_for

    for x in compile_for(trained(case, schedule).backward, find_target(TARGET), Cache()):
        yield (
            f"| {case.name} | {name} | {x.kernel} | {x.registers} | {x.spills_bytes} "
            f"| {x.shared_bytes // 1024} |"
        )


def measured(case: Case, jobs: list[tuple[str, BackwardSchedule]], quick: bool) -> Iterator[str]:
    """A line per candidate of a row."""
    values, seed, first = inputs(case, "cuda", torch.bfloat16), seed_of(case), 0.0
    for name, schedule in jobs:
        try:
            call = gradients(case, trained(case, schedule), values, seed)
            one, two = call(), call()
            error = check(case, one, values, seed)
            if not all(torch.equal(x, y) for x, y in zip(one, two, strict=True)):
                raise WrongResultError("two runs differ")
        except Exception as problem:
            yield f"| {case.name} | {name} | {type(problem).__name__}: {str(problem)[:90]} | | |"
            continue
        ms = median_ms(call, quick)
        first = first or ms
        yield f"| {case.name} | {name} | {ms:.4f} | {first / ms:.3f} | {error:.1e} |"


def main() -> int:
    """Prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", default="", help="only rows whose name holds this")
    parser.add_argument("--quick", action="store_true", help="shorter measurements")
    parser.add_argument(
        "--compile-only", action="store_true", help="the compiler's reports; no GPU"
    )
    options = parser.parse_args()
    rows = []
    for case in forward_cases():
        if case.shape[-1] == 128 and options.rows in case.name:
            _, request, program = programs(case)
            chosen = choose_backward(program, request.target)
            rows.append((case, list(candidates(case.kind, chosen))))
    if options.compile_only:
        print("| row | candidate | kernel | registers | spills, bytes | shared, KiB |")
        print("|---|---|---|---|---|---|")
        for case, jobs in rows:
            for name, schedule in jobs:
                print(*report(case, name, schedule), sep="\n", flush=True)
        return 0
    with ProcessPoolExecutor(14, get_context("spawn")) as pool:
        jobs = [(case, name, schedule) for case, some in rows for name, schedule in some]
        print(*filter(None, pool.map(warm, jobs)), sep="\n", flush=True)
    print("| row | candidate | ms | default over it | error |\n|---|---|---|---|---|")
    for case, some in rows:
        for line in measured(case, some, options.quick):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

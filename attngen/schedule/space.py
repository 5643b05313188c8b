"""The points worth measuring for a program on a target: what `--tune` searches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from attngen.core.target import Target
from attngen.ir.program import Program
from attngen.schedule.choose import choose
from attngen.schedule.cost import footprint
from attngen.schedule.families import LIMIT, family_of
from attngen.schedule.schedule import Schedule

Options = Mapping[str, "str | int | bool"]
ROWS = (128, 64, 32, 16)
KEYS = (128, 64, 32, 16)
WARPS = (4, 8)
STAGES = (1, 2, 3, 4)
SLACK = 1.25  # estimates err: a little past the limit is left to the compiler to refuse


def space(
    program: Program, target: Target, options: Options | None = None, *, short: bool = False
) -> Iterator[Schedule]:
    """Every legal schedule, each once: the default one first, then those ever less like it.

    Legal: the fields that `options` fix have their values, shared memory fits, the estimate of
    registers is not far past what there is, and no point is known to give wrong results.
    """
    default, fixed = choose(program, target, options, short=short), dict(options or {})
    fixed.pop("backend", None)
    yield default
    points = {p for p in _legal(program, target, default) if p != default}
    fitting = [p for p in points if all(getattr(p, n) == value for n, value in fixed.items())]
    yield from sorted(fitting, key=lambda p: (distance(p, default), p.describe()))


def distance(a: Schedule, b: Schedule) -> float:
    """How unlike two schedules are: doublings of their numbers, stages, other words."""
    numbers = ((a.block_q, b.block_q), (a.block_k, b.block_k), (a.warps, b.warps))
    doublings = sum(abs(math.log2(x / y)) for x, y in numbers)
    words = (a.loops != b.loops) + (a.max_registers != b.max_registers)
    return doublings + abs(a.stages - b.stages) + words


def _legal(program: Program, target: Target, default: Schedule) -> Iterator[Schedule]:
    found, family = footprint(program), family_of(target)
    rows = (default.block_q,) if default.form == "split" else ROWS
    for block_q, block_k, warps, stages in itertools.product(rows, KEYS, WARPS, STAGES):
        for variant in _variants(default, target):
            point = replace(variant, block_q=block_q, block_k=block_k, warps=warps, stages=stages)
            needed = family.registers.estimate(found, point, target)
            roomy = found.shared(point) <= target.shared_memory and needed <= SLACK * LIMIT
            if roomy and not known_bad(point, target):
                yield point


def known_bad(schedule: Schedule, target: Target) -> bool:
    """Points that were silently wrong, slow by construction, or that no compiler takes.

    A cap of 128 registers is for eight warps only. One masked loop over 128 x 128 tiles was wrong
    on an H200 with Triton 3.6 (with the query tile in registers): never offered. A group of four
    warps multiplies 64 rows at least on sm_90: smaller tiles leave the tensor cores half empty.
    """
    capped = schedule.max_registers is not None
    wrong = schedule.loops == "single" and schedule.block_q == schedule.block_k == 128
    narrow = target.name == "sm_90" and schedule.block_q < 64 and schedule.form == "tile"
    deep = target.family == "hip" and schedule.stages > 2
    return (capped and schedule.warps != 8) or wrong or (narrow and _tensor(schedule)) or deep


def _tensor(schedule: Schedule) -> bool:
    return schedule.loads == "descriptor"


def _variants(default: Schedule, target: Target) -> list[Schedule]:
    """The default's other fields, one loop instead of three, a cap on registers."""
    plain = replace(default, max_registers=None)
    ways = [default.loops] if default.form == "split" else ["split", "joined", "single"]
    loops = [replace(plain, loops=way) for way in ways]
    if target.family != "cuda":
        return loops
    return [*loops, replace(plain, max_registers=128)]

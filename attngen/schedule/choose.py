"""Choosing a schedule without a GPU: the first point of the target's family that fits.

A point fits if its shared memory does (counted) and its registers do (estimated, so that nothing
spills); where a point asks for two programs on a multiprocessor, both must fit twice: two programs
are what overlaps softmax and products. See docs/schedules.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.target import Target
from attngen.ir.index import FirstGe
from attngen.ir.program import Program
from attngen.schedule.cost import Footprint, footprint, row_tensors
from attngen.schedule.families import Point, family_of
from attngen.schedule.schedule import Schedule

RESERVED = 1024  # bytes of shared memory a multiprocessor keeps for itself, per program
# option -> its words; a number has none
FIELDS: dict[str, tuple[str, ...]] = {
    "block_q": (),
    "block_k": (),
    "warps": (),
    "stages": (),
    "max_registers": (),
    "loads": ("descriptor", "pointer"),
    "loops": ("split", "single", "joined"),
    "form": ("tile", "split"),
    "precision": ("tf32", "ieee"),
}


def choose(
    program: Program,
    target: Target,
    options: Mapping[str, str | int | bool] | None = None,
    *,
    short: bool = False,
) -> Schedule:
    """A good point for this program and target; `options` fix some of its fields.

    short: few queries against many keys (decode), where nothing fixes the form. SpecError E3: an
    unknown option or value.
    """
    found, fixed = footprint(program), options or {}
    precision = "tf32" if fixed.get("precision") == "tf32" else "ieee"
    start = _start(program, found, target, precision)
    form = fixed.get("form", "split" if short else "tile")
    chosen = (_split if form == "split" else _tile)(program, found, target, start)
    return _override(chosen, fixed)


def fits(found: Footprint, schedule: Schedule, target: Target, point: Point) -> bool:
    """Whether a point needs no more shared memory and registers than the target has."""
    share = target.shared_memory_sm // point.programs - RESERVED
    room = min(target.shared_memory, share) if point.programs > 1 else target.shared_memory
    if schedule.stages > 1 and found.multiplies_add(schedule, target):
        return False  # operands of ordinary multiply-adds are copied to registers: nothing to stage
    family = family_of(target)
    sorted_tile = (schedule.block_q, max(schedule.block_k, found.slots))  # padded to the list
    if found.sorts and sorted_tile in family.unsorted:
        return False
    registers = family.registers.estimate(found, schedule, target)
    again = found.reused_bytes * schedule.stages * schedule.block_k if family.rereads else 0
    return found.shared(schedule) + again <= room and registers <= point.registers


def _tile(program: Program, found: Footprint, target: Target, start: Schedule) -> Schedule:
    short = found.bounded or short_rows(program)
    schedule = start
    for point in family_of(target).points:
        schedule = at(point, start)
        if (short or not point.short) and fits(found, schedule, target, point):
            break
    # a row of documents has few tiles, most of them masked: one loop that tests starts up once
    hopper = target.name == "sm_90" and schedule.loads == "descriptor"
    return replace(schedule, loops="joined") if hopper and short_rows(program) else schedule


def at(point: Point, start: Schedule) -> Schedule:
    """The schedule of a point, with the loads and the precision of another."""
    return replace(
        start,
        block_q=point.block_q,
        block_k=point.block_k,
        warps=point.warps,
        stages=point.stages,
        max_registers=point.max_registers,
    )


def _start(program: Program, found: Footprint, target: Target, precision: str) -> Schedule:
    """The smallest tile. Descriptors where they pay: not for `mma.sync` or multiply-adds."""
    smallest = Schedule(16, 16, 4, 1, "pointer", precision=precision)
    pays = family_of(target).descriptors and not found.multiplies_add(smallest, target)
    return replace(smallest, loads="descriptor") if pays and _aligned(program) else smallest


def short_rows(program: Program) -> bool:
    """Whether rows keep runs of equal ids (documents): few keys, in the middle of tiles."""
    return any(isinstance(r.lo.term, FirstGe) for r in program.mask.forward.row)


def _split(program: Program, found: Footprint, target: Target, start: Schedule) -> Schedule:
    """Keys stream through once: short tiles, three stages, all queries of a head group together."""
    del program
    start = replace(start, loops="single", form="split")
    for block_k, stages in ((64, 3), (64, 2), (32, 2), (32, 1)):
        schedule = replace(start, block_k=block_k, stages=stages)
        if found.shared(schedule) <= target.shared_memory:
            return schedule
    return start


def _aligned(program: Program) -> bool:
    """Whether descriptors can hold every row tensor: rows of a multiple of 16 bytes."""
    rows = [program.attention.tensor(name) for name in sorted(row_tensors(program))]
    return all((t.axes[-1].size or 0) * t.dtype.bytes % 16 == 0 for t in rows)


def _override(schedule: Schedule, options: Mapping[str, str | int | bool]) -> Schedule:
    changes: dict[str, Any] = {}
    for name, value in options.items():
        if (name, value) == ("backend", "triton") or name in ("numerics", "gradients"):
            continue  # a running maximum and sums in a fixed order are all there is here
        if (problem := _problem(name, value)) is not None:
            raise SpecError(problem)
        changes[name] = value
    return replace(schedule, **changes)


def _problem(name: str, value: str | int | bool) -> Diagnostic | None:
    if name not in FIELDS:
        message = f"unknown schedule option `{name}`; known: {', '.join(FIELDS)}"
        return Diagnostic("E302", message, help="block_q = 128")
    words = FIELDS[name]
    if words:
        known = f"{name} must be one of {', '.join(words)}, found {value!r}"
        return None if value in words else Diagnostic("E303", known, help=f"{name} = {words[0]}")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        message = f"{name} must be a positive integer, found {value!r}"
        return Diagnostic("E303", message, help=f"{name} = 64")
    if name in ("block_q", "block_k", "warps") and value & (value - 1):
        message = f"{name} must be a power of two, found {value}"
        return Diagnostic("E303", message, help=f"{name} = 64")
    return None

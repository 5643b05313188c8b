"""Choosing a schedule without a GPU: rows of a table per target, the first that fits.

Measured on an H200 (rows of sm_90) or read from the compiler's report (the others): take the largest
tile whose program fits twice into a multiprocessor, else once with eight warps. Two programs on one
multiprocessor are what overlaps softmax and products; see docs/schedules.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.dtype import Dtype
from attngen.core.target import Target
from attngen.ir.program import Program
from attngen.schedule.cost import Footprint, footprint
from attngen.schedule.schedule import Schedule

# (most columns, block_q, block_k, warps, stages, max_registers); columns: the wider of the query rows
# and the accumulators, counted twice for fp32
Rows = tuple[tuple[int, int, int, int, int, int | None], ...]
_HOPPER: Rows = (
    (64, 128, 128, 8, 2, 128),
    (128, 128, 64, 4, 2, None),
    (256, 128, 64, 8, 2, None),
    (256, 64, 64, 8, 2, None),
    (512, 64, 32, 8, 2, None),
    (1024, 64, 32, 8, 2, None),
    (2048, 32, 32, 8, 1, None),
    (4096, 16, 16, 4, 1, None),
)
_HOPPER_SHORT_ROWS: Rows = ((128, 64, 64, 4, 3, None),)
_AMPERE: Rows = (
    (64, 128, 64, 4, 3, None),
    (128, 128, 64, 8, 3, None),
    (256, 64, 64, 8, 2, None),
    (512, 32, 32, 8, 2, None),
    (1024, 32, 32, 8, 1, None),
    (4096, 16, 16, 4, 1, None),
)
_SMALL: Rows = (
    (64, 128, 64, 4, 2, None),
    (128, 128, 32, 8, 2, None),
    (256, 64, 32, 8, 2, None),
    (512, 32, 32, 8, 1, None),
    (1024, 32, 16, 8, 1, None),
    (4096, 16, 16, 4, 1, None),
)
_BLACKWELL: Rows = (
    (64, 128, 64, 4, 3, None),
    (128, 128, 64, 4, 3, None),
    (256, 128, 64, 8, 2, None),
    *_HOPPER[3:],
)
_CDNA: Rows = (
    (64, 128, 64, 4, 2, None),
    (128, 128, 64, 8, 1, None),
    (256, 128, 32, 8, 1, None),
    (512, 32, 32, 8, 1, None),
    (1024, 32, 16, 8, 1, None),
    (4096, 16, 16, 4, 1, None),
)
_TABLES: dict[str, Rows] = {
    "sm_90": _HOPPER,
    "interpreter": _HOPPER,
    "sm_80": _AMPERE,
    "sm_100": _BLACKWELL,
    "gfx90a": _CDNA,
    "gfx942": _CDNA,
    "gfx1100": _CDNA,
}
FIELDS = {"block_q": int, "block_k": int, "warps": int, "stages": int, "max_registers": int,
          "loads": ("descriptor", "pointer"), "loops": ("split", "single"), "form": ("tile", "split"),
          "precision": ("tf32", "ieee")}  # fmt: skip


def choose(
    program: Program,
    target: Target,
    options: Mapping[str, str | int | bool] | None = None,
    *,
    short: bool = False,
) -> Schedule:
    """A good point for this program and target; `options` fix some of its fields.

    short: few queries against many keys (decode). Raises SpecError E3 for an unknown option or value.
    """
    found = footprint(program)
    chosen = _split(program, found, target) if short else _tile(program, found, target)
    return _override(chosen, options or {})


def columns(found: Footprint, program: Program) -> int:
    """The number that picks a row: columns of the wider operand, in units of two bytes."""
    wide = any(t.dtype is Dtype.F32 for t in program.attention.tensors if t.is_stream)
    return max(found.query_width, found.accumulator_width) * (2 if wide else 1)


def _tile(program: Program, found: Footprint, target: Target) -> Schedule:
    wanted = columns(found, program)
    rows = _TABLES.get(target.name, _SMALL)
    if target.name in ("sm_90", "interpreter") and bounded_rows(program):
        rows = _HOPPER_SHORT_ROWS + rows
    loads = "descriptor" if target.descriptors and _aligned(program) else "pointer"
    for most, block_q, block_k, warps, stages, registers in rows:
        schedule = Schedule(block_q, block_k, warps, stages, loads, max_registers=registers)
        if wanted <= most and found.shared(schedule) <= target.shared_memory:
            return schedule
    return Schedule(16, 16, 4, 1, loads)


def _split(program: Program, found: Footprint, target: Target) -> Schedule:
    """Keys stream through once: short tiles, three stages, all queries of a head group together."""
    loads = "descriptor" if target.descriptors and _aligned(program) else "pointer"
    for block_q, block_k, stages in ((16, 64, 3), (16, 64, 2), (16, 32, 2), (16, 32, 1), (16, 16, 1)):
        schedule = Schedule(block_q, block_k, 4, stages, loads, loops="single", form="split")
        if found.shared(schedule) <= target.shared_memory:
            return schedule
    return Schedule(16, 16, 4, 1, loads, loops="single", form="split")


def bounded_rows(program: Program) -> bool:
    """Whether a row keeps keys of a range bounded on both sides (windows, documents): few tiles a row."""
    return any(r.lo.constant is None for r in program.mask.forward.row)


def _aligned(program: Program) -> bool:
    """Whether descriptors can hold every row tensor: rows of a multiple of 16 bytes."""
    rows = [t for t in program.attention.tensors if t.axes and t.axes[-1].role == "feature"]
    return all((t.axes[-1].size or 0) * t.dtype.bytes % 16 == 0 for t in rows)


def _override(schedule: Schedule, options: Mapping[str, str | int | bool]) -> Schedule:
    changes: dict[str, Any] = {}
    for name, value in options.items():
        allowed = FIELDS.get(name)
        if name == "backend" and value == "triton":
            continue
        if allowed is None:
            known = ", ".join(FIELDS)
            raise SpecError(Diagnostic("E302", f"unknown schedule option `{name}`; known: {known}", help="block_q = 128"))
        if allowed is int and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise SpecError(Diagnostic("E303", f"{name} must be a positive integer, found {value!r}", help=f"{name} = 64"))
        if isinstance(allowed, tuple) and value not in allowed:
            raise SpecError(Diagnostic("E303", f"{name} must be one of {', '.join(allowed)}, found {value!r}",
                                       help=f"{name} = {allowed[0]}"))  # fmt: skip
        if name in ("block_q", "block_k", "warps") and isinstance(value, int) and value & (value - 1):
            raise SpecError(Diagnostic("E303", f"{name} must be a power of two, found {value}", help=f"{name} = 64"))
        changes[name] = value
    return replace(schedule, **changes)

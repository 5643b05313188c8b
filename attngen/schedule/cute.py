"""The schedule of a CuTe kernel: tiles, rings and what scores are measured from. docs/adr/0009."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from attngen.core.diagnostics import Diagnostic, SpecError

REFERENCES = ("running", "lazy", "first", "fixed")
NUMERICS = ("fast", "exact")
BARRIERS = 2048  # bytes of shared memory kept for barriers and small tables


@dataclass(frozen=True)
class CuteSchedule:
    """One point of the schedule space of the CuTe backend.

    tile_m: queries of a block of threads, 64 for each consumer warpgroup; tile_n: keys of a step;
    stages: of the rings of keys and values; turns: warpgroups take turns issuing products;
    reference: what scores are measured from, see `cutelib.plan.Schedule`; flat: persistent, tiles
    run into each other.
    """

    tile_m: int = 128
    tile_n: int = 128
    stages: int = 2
    turns: bool = True
    reference: str = "lazy"
    flat: bool = False
    loads: ClassVar[str] = "descriptor"  # what the runtime asks of tensors: aligned rows

    def describe(self) -> str:
        """One line for headers and `explain`."""
        form = "flat" if self.flat else "tile"
        order = "turns" if self.turns else "free"
        return (
            f"backend=cute, tile_m={self.tile_m}, tile_n={self.tile_n}, stages={self.stages}, "
            f"warpgroups={self.tile_m // 64} ({order}), reference={self.reference}, form={form}"
        )


def choose_cute(
    query: int,
    value: int,
    *,
    bounded: bool,
    narrow: bool,
    diagonal_first: bool,
    shared_memory: int,
    options: Mapping[str, str | int | bool] | None = None,
) -> CuteSchedule:
    """A good point for rows of `query` columns and values of `value` columns.

    bounded: the score is provably bounded; narrow: weights are float16, whose range is short;
    diagonal_first: the first block a row visits holds a key of the row, so that its maximum is a
    reference. SpecError E302, E303: an unknown option or value.
    """
    fixed = dict(options or {})
    numerics = fixed.pop("numerics", "fast")
    widest = max(query, value)
    if widest <= 64:
        start = CuteSchedule(192, 128, 2, True)
    elif widest <= 128:
        start = CuteSchedule(128, 128, 2, True)
    elif value <= 128:
        start = CuteSchedule(128, 112, 2, True)
    else:
        start = CuteSchedule(128, 80, 2, True)
    reference = "lazy"
    if bounded:
        reference = "fixed"
    elif numerics == "exact":
        reference = "running"
    elif diagonal_first and not narrow:
        reference = "first"
    chosen = _override(replace(start, reference=reference), fixed)
    while chosen.tile_n > 16 and shared(chosen, query, value) > shared_memory:
        chosen = replace(chosen, tile_n=chosen.tile_n - 16)
    return chosen


def shared(s: CuteSchedule, query: int, value: int) -> int:
    """Bytes of shared memory."""
    queries = s.tile_m * max(query, value) * (2 if s.flat else 1)
    return 2 * (queries + s.stages * s.tile_n * (query + value)) + BARRIERS


def _override(schedule: CuteSchedule, options: Mapping[str, Any]) -> CuteSchedule:
    changes: dict[str, Any] = {}
    for name, value in options.items():
        if name == "backend":
            continue
        if (problem := _problem(name, value)) is not None:
            raise SpecError(problem)
        changes[name] = value
    return replace(schedule, **changes)


def _problem(name: str, value: Any) -> Diagnostic | None:
    known = ("tile_m", "tile_n", "stages", "turns", "reference", "flat", "numerics")
    if name not in known:
        message = f"unknown schedule option `{name}` of cute; known: {', '.join(known)}"
        return Diagnostic("E302", message, help="tile_n = 128")
    if name == "reference":
        wrong, expected = value not in REFERENCES, f"one of {', '.join(REFERENCES)}"
    elif name == "numerics":
        wrong, expected = value not in NUMERICS, f"one of {', '.join(NUMERICS)}"
    elif name in ("turns", "flat"):
        wrong, expected = not isinstance(value, bool), "true or false"
    else:
        numbers = {"tile_m": (64, 128, 192), "tile_n": range(16, 257, 16), "stages": range(1, 9)}
        wrong = isinstance(value, bool) or value not in numbers[name]
        expected = f"one of {', '.join(map(str, numbers[name]))}"
    if not wrong:
        return None
    return Diagnostic("E303", f"{name} must be {expected}, found {value!r}", help=f"leave {name} out")

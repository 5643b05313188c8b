"""The schedule of a CuTe kernel for sm_100: sized by its memories, measured nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.target import Target
from attngen.schedule.cute import BARRIERS, CuteSchedule, Traits

BLACKWELL = "sm_100"
NOT_RUN = "Compiled for sm_100a and read as machine code; never run, for want of such a GPU."
QUERIES = 256  # of a block of threads: two tiles of 128, the lanes of tensor memory
NUMBERS = 2048  # bytes: what rows tell the warps that correct their sums
WIDEST = 128  # columns of sums: two tiles of them and two of scores fill tensor memory
PART = 32  # columns of tensor memory that one copy moves
LEGAL: dict[str, Sequence[Any]] = {
    "tile_n": range(PART, WIDEST + 1, PART),
    "stages": range(1, 9),
    "reference": ("running", "lazy", "fixed"),
    "numerics": ("fast", "exact"),
}


def choose_blackwell(
    traits: Traits, target: Target, options: Mapping[str, str | int | bool] | None = None
) -> CuteSchedule:
    """Tiles and rings that fit. SpecError E302, E303: an unknown option or value."""
    own = {n: x for n, x in (options or {}).items() if n != "backend"}
    for name, value in own.items():
        _check(name, value, traits)
    fast = own.pop("numerics", "fast") == "fast"
    reference = ("fixed" if traits.bounded else "lazy") if fast else "running"
    chosen = replace(CuteSchedule(QUERIES, WIDEST, 4, "free", reference), **own)  # type: ignore[arg-type]
    room, query, value = target.shared_memory, traits.query, traits.value
    while "stages" not in own and chosen.stages > 2 and shared(chosen, query, value) > room:
        chosen = replace(chosen, stages=chosen.stages - 1)
    while chosen.tile_n > PART and shared(chosen, query, value) > room:
        chosen = replace(chosen, tile_n=chosen.tile_n - PART)
    return chosen


def shared(s: CuteSchedule, query: int, value: int) -> int:
    """Bytes of shared memory, for so many columns."""
    rings = s.stages * s.tile_n * (query + value)
    return 2 * (s.tile_m * query + rings) + NUMBERS + BARRIERS


def _check(name: str, value: Any, traits: Traits) -> None:
    legal = LEGAL.get(name)
    if legal is None:
        message = f"a CuTe kernel for {BLACKWELL} has no option `{name}`; it has {', '.join(LEGAL)}"
        raise SpecError(Diagnostic("E302", message, help="tile_n = 128"))
    if isinstance(value, bool) or value not in legal:
        message = f"{name} must be one of {', '.join(map(str, legal))}, found {value!r}"
        raise SpecError(Diagnostic("E303", message, help=f"{name} = {legal[0]}"))
    if value == "fixed" and not traits.bounded:
        message = "reference = fixed needs a score that is provably bounded"
        raise SpecError(Diagnostic("E303", message, help="reference = lazy"))

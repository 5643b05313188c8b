"""Which backend makes a kernel file: what was asked for, what the target and the spec allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.target import Target
from attngen.runtime.settings import cute_installed, preferred_backend
from attngen.schedule.cute import CuteSchedule
from attngen.schedule.cute_blackwell import BLACKWELL, NOT_RUN, choose_blackwell
from attngen.schedule.schedule import Schedule

if TYPE_CHECKING:
    from attngen.backend.emitted import Emitted
    from attngen.ir.program import Program

Options: TypeAlias = "Mapping[str, str | int | bool]"
AnySchedule: TypeAlias = "Schedule | CuteSchedule"
CUTE_TARGET = "sm_90"
# options that name a point of one backend's own space; the others both have
OF_TRITON = ("block_q", "block_k", "warps", "max_registers", "loads", "loops", "precision")
OF_CUTE = ("tile_m", "tile_n", "order", "reference")


@dataclass(frozen=True)
class Choice:
    """A backend by name, and why: one sentence for `explain`."""

    name: str
    reason: str


def preference(options: Options, target: Target) -> str:
    """What the choice depends on beside the program: part of the key of a cached file."""
    asked = options.get("backend") or preferred_backend()
    if asked or target.name != CUTE_TARGET:
        return str(asked)
    return "cute" if cute_installed() else "triton"


def choose_backend(
    program: Program, target: Target, options: Options, *, short: bool = False
) -> Choice:
    """The backend for a program. SpecError E408: `cute` was asked for, and cannot do it."""
    asked = options.get("backend")
    if asked == "triton":
        return Choice("triton", "asked for")
    if asked == "cute":
        _require(program, target)  # few queries against many keys too: slower there, but right
        warning = f"; {NOT_RUN[0].lower()}{NOT_RUN[1:-1]}" if target.name == BLACKWELL else ""
        return Choice("cute", f"asked for{warning}")
    return _best(program, target, options, short)


def _best(program: Program, target: Target, options: Options, short: bool) -> Choice:
    if target.name != CUTE_TARGET:
        words = f"; that for {BLACKWELL} was never run" if target.name == BLACKWELL else ""
        return Choice("triton", f"the CuTe kernels are for {CUTE_TARGET}{words}")
    if preferred_backend() == "triton":
        return Choice("triton", "ATTNGEN_BACKEND says so")
    named = [name for name in OF_TRITON if name in options]
    if named:
        return Choice("triton", f"the schedule names {named[0]}, an option of Triton's kernels")
    if not cute_installed() and preferred_backend() != "cute":
        return Choice("triton", "the CuTe DSL is not installed (pip install attngen[cute])")
    if short:
        return Choice("triton", "CuTe kernels do not do few queries against many keys yet")
    problems = _missing(program, target)
    if problems:
        return Choice("triton", f"CuTe kernels do not do {problems[0]} yet")
    if unseen := _unseen(program):
        return Choice("triton", f"CuTe kernels of {unseen} are taken where backend = cute asks")
    return Choice("cute", f"the default on {target.name}, where a spec is one they do")


def _unseen(program: Program) -> str:
    """What of the program has not been timed, nor passed its whole tests, on a GPU."""
    from attngen.backend.cute.shape import unseen  # noqa: PLC0415 - as below

    return unseen(program)


def _missing(program: Program, target: Target) -> list[str]:
    from attngen.backend.cute.shape import missing  # noqa: PLC0415 - not needed on a cache hit

    if target.name == BLACKWELL:
        from attngen.backend.cute.blackwell import missing_on_blackwell  # noqa: PLC0415 - as above

        return missing_on_blackwell(program)
    return missing(program)


def _require(program: Program, target: Target) -> None:
    problems = _missing(program, target)
    if target.name not in (CUTE_TARGET, BLACKWELL):
        problems.insert(0, f"kernels for {target.name}")
    if problems:
        message = f"the cute backend does not do {'; '.join(problems)}"
        raise SpecError(Diagnostic("E408", message, help="leave out the backend: Triton does it"))


def generate_cute(
    program: Program, target: Target, options: Options
) -> tuple[CuteSchedule, Emitted]:
    """Schedule and text. SpecError E302, E303: options."""
    from attngen.backend.cute.emit import emit  # noqa: PLC0415 - not needed on a cache hit
    from attngen.backend.cute.facts import traits  # noqa: PLC0415
    from attngen.schedule.cute import choose_cute  # noqa: PLC0415

    choose = choose_blackwell if target.name == BLACKWELL else choose_cute
    schedule = choose(traits(program), target, options)
    return schedule, emit(program, schedule, target)


def stored_schedule(fields: Mapping[str, Any]) -> AnySchedule:
    """The schedule of a cache entry; each backend's has names of its own."""
    return CuteSchedule(**fields) if "tile_m" in fields else Schedule(**fields)

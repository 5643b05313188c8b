"""From a checked spec to printed kernels, and what the target's compiler says about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attngen.backend.triton.emit import emit
from attngen.cli.input import HALF_DTYPES, Spec
from attngen.cli.mistake import InputError
from attngen.core.target import TARGETS, Target, find_target
from attngen.passes.pipeline import build_program
from attngen.schedule.choose import choose

if TYPE_CHECKING:
    from attngen.backend.emitted import Emitted
    from attngen.ir.program import Program
    from attngen.schedule.schedule import Schedule

DEFAULT_TARGET = "sm_90"


@dataclass(frozen=True)
class Built:
    """One spec compiled for one target."""

    spec: Spec
    target: Target
    dtype: str
    program: Program
    schedule: Schedule
    emitted: Emitted


def build(spec: Spec, target: Target, dtype: str, options: dict[str, str | int | bool]) -> Built:
    """Passes, schedule and printing; raises SpecError when the backend cannot do it."""
    attention = spec.attention
    program = build_program(attention, spec.sizes, HALF_DTYPES[dtype])
    chosen = choose(program, target, {**dict(attention.schedule), **options})
    return Built(spec, target, dtype, program, chosen, emit(program, chosen, target))


def resolve_targets(names: Sequence[str], spec: Spec) -> list[Target]:
    """Targets of the command line, else of the spec, else the default; `all` is every GPU."""
    if "all" in names:
        return [t for t in TARGETS if t.family != "interpreter"]
    chosen = list(names) or list(spec.program.targets) or [DEFAULT_TARGET]
    targets = [find_target(name) for name in dict.fromkeys(chosen)]
    for target in targets:
        if target.family == "interpreter":
            raise InputError(
                "the interpreter is not a GPU to compile for", "--target sm_90, or `attngen run`"
            )
    return targets

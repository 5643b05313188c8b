"""Which backends make the two files of a call with gradients, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from attngen.core.diagnostics import SpecError
from attngen.core.target import Target
from attngen.runtime.backends import CUTE_TARGET, OF_TRITON, Choice, Options
from attngen.runtime.settings import cute_installed, preferred_backend

if TYPE_CHECKING:
    from attngen.backend.emitted import Emitted
    from attngen.backend.triton.backward.program import Backward
    from attngen.ir.backward import BackwardPlan
    from attngen.ir.program import Program
    from attngen.runtime.specialise import Specialisation

EVERY_KERNEL = ("loads", "loops", "precision")  # options of a spec that its backward follows too


def choose_backward_backend(backward: Backward, target: Target, options: Options) -> Choice:
    """The backend of a backward: what was asked for is used where it can do the spec."""
    asked = options.get("backend") or preferred_backend()
    if asked == "triton":
        return Choice("triton", "asked for")
    if target.name != CUTE_TARGET:
        return Choice("triton", f"the CuTe kernels are for {CUTE_TARGET}")
    named = [name for name in OF_TRITON if name in options]
    if named and asked != "cute":
        return Choice("triton", f"the schedule names {named[0]}, an option of Triton's kernels")
    if asked != "cute" and not cute_installed():
        return Choice("triton", "the CuTe DSL is not installed (pip install attngen[cute])")
    from attngen.backend.cute.backward.shape import missing  # noqa: PLC0415 - not on a cache hit

    problems = missing(backward)
    if problems:
        return Choice("triton", f"CuTe backward kernels do not do {problems[0]} yet")
    return Choice("cute", "asked for" if asked == "cute" else f"fastest on {target.name}")


def generate_backward(
    program: Program,
    plan: BackwardPlan,
    backward: Backward,
    target: Target,
    options: Options,
    name: str,
) -> tuple[Emitted, bool]:
    """(the file, whether it loads rows by descriptors)."""
    from attngen.schedule.backward import choose_backward  # noqa: PLC0415 - not on a cache hit

    schedule = choose_backward(program, target)
    if name == "cute":
        from attngen.backend.cute.backward.emit import emit_cute_backward  # noqa: PLC0415
        from attngen.backend.cute.backward.shape import shape_of  # noqa: PLC0415
        from attngen.schedule.cute_backward import choose_cute_backward  # noqa: PLC0415

        shape = shape_of(backward)
        tiles = choose_cute_backward(
            schedule.rows,
            shape.columns,
            carries=shape.carries,
            ordered=options.get("gradients", "ordered") == "ordered",
        )
        return emit_cute_backward(program, plan, tiles, target), True
    from attngen.backend.triton.backward.emit import emit_backward  # noqa: PLC0415 - see above

    fixed: dict[str, Any] = {n: options[n] for n in EVERY_KERNEL if n in options}
    if any(t.packed for t in program.attention.tensors):
        fixed.pop("loads", None)  # the schedule knows why these need pointers
    schedule = replace(
        schedule,
        rows=replace(schedule.rows, **fixed),
        queries=replace(schedule.queries, **fixed),
        keys=replace(schedule.keys, **fixed),
    )
    loads = schedule.queries.loads == "descriptor"
    return emit_backward(program, plan, schedule, target), loads


def backward_notes(made: Specialisation) -> list[str]:
    """For `explain`: which backend the gradients of a CuTe kernel take, and why."""
    asked = made.spec.options.get("backend")
    if made.emitted.backend != "cute" and asked != "cute":
        return []
    from attngen.backend.triton.backward.program import backward_program  # noqa: PLC0415
    from attngen.passes.differentiate import differentiate  # noqa: PLC0415 - only to explain

    program = made.program
    try:
        backward = backward_program(program, differentiate(program.attention, program.online))
    except SpecError as error:
        return [f"no gradients: {error.diagnostics[0].message}"]
    choice = choose_backward_backend(backward, made.request.target, made.spec.options)
    return [f"gradients by {choice.name}: {choice.reason}"]

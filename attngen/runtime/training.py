"""A forward that keeps what its backward needs, and that backward: two files made together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attngen.backend.emitted import Emitted
from attngen.runtime.backends import AnySchedule, choose_backend, generate_cute
from attngen.runtime.cache import Cache, Entry
from attngen.runtime.load import load_module
from attngen.runtime.specialise import Request, Spec, emitted_meta, stored_emitted

if TYPE_CHECKING:
    from attngen.backend.triton.backward.program import Backward
    from attngen.ir.expr import Reduced
    from attngen.ir.program import Program
    from attngen.schedule.backward import BackwardSchedule

EVERY_KERNEL = ("loads", "loops", "precision")  # options of a spec that its backward follows too


@dataclass(frozen=True)
class Wiring:
    """What the two files hand to each other.

    saved: (width, dtype) of what the forward returns after the results; width 0: one number per
    query; dtype: "float32", "int64", or "half" for that of the queries;
    results: which results the backward reads back; seeds: which results have a gradient;
    gradients: positions of the arguments whose gradients the backward returns, in its order;
    rows: positions in (saved, results, seeds) of what has a feature axis.
    """

    saved: tuple[tuple[int, str], ...]
    results: tuple[int, ...]
    seeds: tuple[int, ...]
    gradients: tuple[int, ...]
    rows: tuple[int, ...]


@dataclass
class Training:
    """The pair of files of one request; descriptors: whether forward, backward load with them."""

    request: Request
    forward: Emitted
    backward: Emitted
    wiring: Wiring
    descriptors: tuple[bool, bool]

    @cached_property
    def forward_entry(self) -> Callable[..., tuple[Any, ...]]:
        """Host function: the tensors of the spec -> the results, then the saved rows."""
        return _function(self.forward)

    @cached_property
    def backward_entry(self) -> Callable[..., tuple[Any, ...]]:
        """Host function: tensors, saved rows, results, gradients of results -> gradients."""
        return _function(self.backward)


def train(spec: Spec, request: Request, cache: Cache) -> Training:
    """The pair for a request, from the cache where it was made before.

    SpecError E430: what has no backward yet.
    """
    key = spec.key(request, "training")
    if (entry := cache.get(key)) is not None:
        return _stored(request, entry)
    made = generate_training(spec, request)
    cache.put(key, _entry(made))
    return made


def generate_training(spec: Spec, request: Request) -> Training:
    """Passes, differentiation, schedules, printing."""
    from attngen.backend.triton.backward.emit import (  # noqa: PLC0415 - not needed on a hit
        emit_backward,
        training_program,
    )
    from attngen.backend.triton.backward.program import backward_program  # noqa: PLC0415
    from attngen.passes.differentiate import differentiate  # noqa: PLC0415

    program, target = spec.program(request), request.target
    plan = differentiate(program.attention, program.online)
    backward = backward_program(program, plan)
    kept = training_program(program, backward)
    forward, emitted = _forward(kept, request, spec.options)
    schedule = _backward_schedule(program, request, spec.options)
    return Training(
        request,
        emitted,
        emit_backward(program, plan, schedule, target),
        _wiring(program, backward),
        (forward.loads == "descriptor", schedule.queries.loads == "descriptor"),
    )


def _forward(
    kept: Program, request: Request, options: Mapping[str, str | int | bool]
) -> tuple[AnySchedule, Emitted]:
    """The forward that keeps rows, by the backend that the choice falls on."""
    if choose_backend(kept, request.target, options).name == "cute":
        return generate_cute(kept, request.target, options)
    from attngen.backend.triton.emit import emit  # noqa: PLC0415 - not needed on a hit
    from attngen.schedule.choose import choose  # noqa: PLC0415

    schedule = choose(kept, request.target, {**options, "form": "tile"})
    return schedule, emit(kept, schedule, request.target)


def _backward_schedule(
    program: Program, request: Request, options: Mapping[str, str | int | bool]
) -> BackwardSchedule:
    from attngen.schedule.backward import choose_backward  # noqa: PLC0415 - see above

    chosen = choose_backward(program, request.target)
    fixed: dict[str, Any] = {name: options[name] for name in EVERY_KERNEL if name in options}
    if any(t.packed for t in program.attention.tensors):
        fixed.pop("loads", None)  # the schedule knows why these need pointers
    return replace(
        chosen,
        rows=replace(chosen.rows, **fixed),
        queries=replace(chosen.queries, **fixed),
        keys=replace(chosen.keys, **fixed),
    )


def _wiring(program: Program, backward: Backward) -> Wiring:
    names = [name for name, _ in program.online.outputs]
    declared = [t.name for t in program.attention.tensors if t.view is None]
    saved = tuple((_width(row.feature), _kind(row)) for _, row in backward.saved)
    results = tuple(names.index(output) for _, output in backward.results)
    seeds = tuple(names.index(output) for _, output in backward.seeds)
    widths = [_width(e.feature) for _, e in program.online.outputs]
    given = [*(width for width, _ in saved), *(widths[i] for i in (*results, *seeds))]
    return Wiring(
        saved,
        results,
        seeds,
        tuple(declared.index(name) for name in backward.plan.tensors),
        tuple(i for i, width in enumerate(given) if width),
    )


def _width(feature: str | int | None) -> int:
    return int(feature or 0)  # names became sizes when the program was specialised


def _kind(row: Reduced) -> str:
    """As the forward stores it: moments like results, numbers in float32."""
    if row.what == "indices":
        return "int64"
    return "half" if row.what == "moment" and row.feature else "float32"


def _function(emitted: Emitted) -> Callable[..., tuple[Any, ...]]:
    function: Callable[..., tuple[Any, ...]] = getattr(load_module(emitted), emitted.entry)
    return function


def _entry(made: Training) -> Entry:
    meta = {
        "forward": emitted_meta(made.forward),
        "backward": emitted_meta(made.backward),
        "wiring": dataclasses.asdict(made.wiring),
        "descriptors": list(made.descriptors),
    }
    sources = {"forward": made.forward.source, "backward": made.backward.source}
    return Entry(meta, {name: text.encode() for name, text in sources.items()})


def _stored(request: Request, entry: Entry) -> Training:
    meta = entry.meta
    forward, backward = (stored_emitted(meta[n], entry.blobs[n]) for n in ("forward", "backward"))
    wires = {name: tuple(value) for name, value in meta["wiring"].items()}
    wires["saved"] = tuple((width, kind) for width, kind in wires["saved"])
    first, second = meta["descriptors"]
    return Training(request, forward, backward, Wiring(**wires), (first, second))

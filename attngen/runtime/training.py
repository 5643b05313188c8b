"""A forward that keeps what its backward needs, and that backward: two files made together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attngen.backend.emitted import Emitted
from attngen.core.diagnostics import SpecError
from attngen.core.target import Target
from attngen.runtime.backends import OF_CUTE, Choice, Options, choose_backend, generate_cute
from attngen.runtime.backward_backend import choose_backward_backend, generate_backward
from attngen.runtime.cache import Cache, Entry
from attngen.runtime.entry import entry_of
from attngen.runtime.specialise import Request, Spec, emitted_meta, stored_emitted

if TYPE_CHECKING:
    from attngen.backend.triton.backward.program import Backward
    from attngen.ir.expr import Reduced
    from attngen.ir.program import Program


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
    """The pair of files of one request.

    descriptors: whether forward, backward load with them; reason: why the backward's backend;
    cache: where compiled kernels are kept.
    """

    request: Request
    forward: Emitted
    backward: Emitted
    wiring: Wiring
    descriptors: tuple[bool, bool]
    reason: str = ""
    cache: Cache | None = None

    @cached_property
    def forward_entry(self) -> Callable[..., tuple[Any, ...]]:
        """Host function: the tensors of the spec -> the results, then the saved rows."""
        return entry_of(self.forward, self.cache)

    @cached_property
    def backward_entry(self) -> Callable[..., tuple[Any, ...]]:
        """Host function: tensors, saved rows, results, gradients of results -> gradients."""
        return entry_of(self.backward, self.cache)


def train(spec: Spec, request: Request, cache: Cache) -> Training:
    """The pair for a request, from the cache where it was made before.

    SpecError E430: what has no backward yet.
    """
    key = spec.key(request, "training")
    if (entry := cache.get(key)) is not None:
        made = _stored(request, entry)
    else:
        made = generate_training(spec, request)
        cache.put(key, _entry(made))
    made.cache = cache
    return made


def generate_training(spec: Spec, request: Request) -> Training:
    """Passes, differentiation, backends, schedules, printing."""
    from attngen.backend.triton.backward.emit import training_program  # noqa: PLC0415 - not on a hit
    from attngen.backend.triton.backward.program import backward_program  # noqa: PLC0415
    from attngen.passes.differentiate import differentiate  # noqa: PLC0415

    program, target = spec.program(request), request.target
    plan = differentiate(program.attention, program.online)
    backward = backward_program(program, plan)
    choice = choose_backward_backend(backward, target, spec.options)
    emitted, loads = generate_backward(program, plan, backward, target, spec.options, choice.name)
    forward, forward_loads = _forward(training_program(program, backward), target, spec.options)
    return Training(
        request,
        forward,
        emitted,
        _wiring(program, backward),
        (forward_loads, loads),
        choice.reason,
    )


def _forward(kept: Program, target: Target, options: Options) -> tuple[Emitted, bool]:
    """The forward that keeps rows, by CuTe where it can; whether it loads by descriptors."""
    from attngen.backend.triton.emit import emit  # noqa: PLC0415 - not needed on a hit
    from attngen.schedule.choose import choose  # noqa: PLC0415

    own = {n: x for n, x in options.items() if n != "gradients"}
    try:
        choice = choose_backend(kept, target, own)
    except SpecError:  # what was asked for cannot keep these rows: Triton's forward can
        choice = Choice("triton", "")
        own = {n: x for n, x in own.items() if n not in ("backend", *OF_CUTE)}
    if choice.name == "triton":
        own = {n: x for n, x in own.items() if n not in ("backend", *OF_CUTE)}
    if choice.name == "cute":
        _, emitted = generate_cute(kept, target, own)
        return emitted, True
    forward = choose(kept, target, {**own, "form": "tile"})
    return emit(kept, forward, target), forward.loads == "descriptor"


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


def _entry(made: Training) -> Entry:
    meta = {
        "forward": emitted_meta(made.forward),
        "backward": emitted_meta(made.backward),
        "wiring": dataclasses.asdict(made.wiring),
        "descriptors": list(made.descriptors),
        "reason": made.reason,
    }
    sources = {"forward": made.forward.source, "backward": made.backward.source}
    return Entry(meta, {name: text.encode() for name, text in sources.items()})


def _stored(request: Request, entry: Entry) -> Training:
    meta = entry.meta
    forward, backward = (stored_emitted(meta[n], entry.blobs[n]) for n in ("forward", "backward"))
    wires = {name: tuple(value) for name, value in meta["wiring"].items()}
    wires["saved"] = tuple((width, kind) for width, kind in wires["saved"])
    first, second = meta["descriptors"]
    return Training(request, forward, backward, Wiring(**wires), (first, second), meta["reason"])

"""From a spec and the sizes of its feature axes to a kernel file, through the cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attngen.backend.emitted import DeviceKernel, Emitted
from attngen.core.dtype import Dtype
from attngen.core.source import Source
from attngen.core.target import Target
from attngen.ir.attention import Attention
from attngen.runtime import backends
from attngen.runtime.backends import AnySchedule
from attngen.runtime.cache import Cache, Entry
from attngen.runtime.entry import entry_of
from attngen.runtime.fingerprint import digest, generator
from attngen.runtime.interface import Interface
from attngen.runtime.tuned import tuned
from attngen.runtime.warm import finish, start
from attngen.schedule.cute import CuteSchedule

if TYPE_CHECKING:
    from attngen.ir.program import Program

Options = Mapping[str, "str | int | bool"]


@dataclass(frozen=True)
class Request:
    """What a kernel file depends on: nothing about lengths, batches, scalars or strides.

    short: few queries against many keys, which takes another kernel (split over the keys).
    """

    sizes: tuple[tuple[str, int], ...]
    half: Dtype
    target: Target
    short: bool = False


@dataclass
class Spec:
    """A checked spec (or what the cache knows of it), its text, and options for compiling it."""

    source: Source
    params: Mapping[str, int | float | bool]
    meaning: Attention | Interface
    options: Options

    @cached_property
    def interface(self) -> Interface:
        """Its declarations."""
        return self.meaning if isinstance(self.meaning, Interface) else Interface.of(self.meaning)

    @cached_property
    def attention(self) -> Attention:
        """Its formulas; read from the text when only the declarations came from the cache."""
        if not isinstance(self.meaning, Interface):
            return self.meaning
        from attngen.frontend import load  # noqa: PLC0415 - not needed on a hit
        from attngen.runtime.support import require_supported  # noqa: PLC0415

        return require_supported(load(self.source, self.params))

    @classmethod
    def of(cls, attention: Attention) -> Spec:
        """A spec that was not parsed from a file: its canonical text stands for the source."""
        from attngen.ir.text import spec_text  # noqa: PLC0415 - only for traced specs

        source = Source(f"<{attention.name}>", spec_text(attention))
        # a traced program names axes that its text alone would read as feature axes
        return cls(source, {"traced": True}, attention, dict(attention.schedule))

    def program(self, request: Request) -> Program:
        """The passes' result."""
        from attngen.passes.pipeline import build_program  # noqa: PLC0415 - not needed on a hit

        return build_program(self.attention, dict(request.sizes), request.half)

    def key(self, request: Request, kind: str = "emitted") -> str:
        """Cache key of the emitted file; kind: "training" for a forward and its backward."""
        return digest(
            kind,
            text=self.source.text,
            params=self.params,
            options=self.options,
            sizes=dict(request.sizes),
            half=request.half.value,
            target=request.target.name,
            short=request.short,
            backend=backends.preference(self.options, request.target),
            generator=generator(),
        )


@dataclass
class Specialisation:
    """One kernel file and how it came about; on a cache hit only `program` runs the passes.

    reason: why its backend was taken; cache: where its compiled kernels are kept.
    """

    spec: Spec
    request: Request
    schedule: AnySchedule
    emitted: Emitted
    reason: str = ""
    cache: Cache | None = None

    @cached_property
    def program(self) -> Program:
        """The compiled meaning, for `explain`."""
        return self.spec.program(self.request)

    @cached_property
    def entry(self) -> Callable[..., tuple[Any, ...]]:
        """The host function of the file; imports Triton or the CuTe DSL."""
        finish()
        return entry_of(self.emitted, self.cache)


def specialise(spec: Spec, request: Request, cache: Cache) -> Specialisation:
    """The kernel file for a request, from the cache where it was made before.

    Its schedule is the one that a search on this GPU found, else the model's.
    """
    found = tuned(spec, request, cache)
    key = spec.key(request, f"emitted, {found.describe()}" if found else "emitted")
    if (entry := cache.get(key)) is not None:
        reason = entry.meta.get("reason", "")
        return Specialisation(spec, request, _schedule(entry), _emitted(entry), reason, cache)
    if request.target.family == "cuda":
        start()
    made = with_schedule(spec, request, found) if found else generate(spec, request)
    cache.put(key, _entry(made))
    made.cache = cache
    return made


def generate(spec: Spec, request: Request, options: Options | None = None) -> Specialisation:
    """Passes, schedule, printing; `options` override those of the spec."""
    program = spec.program(request)
    fixed = {**spec.options, **(options or {})}
    choice = backends.choose_backend(program, request.target, fixed, short=request.short)
    schedule: AnySchedule
    if choice.name == "cute":
        schedule, emitted = backends.generate_cute(program, request.target, fixed)
    else:
        schedule, emitted = _triton(program, request, fixed)
    made = Specialisation(spec, request, schedule, emitted, choice.reason)
    made.__dict__["program"] = program
    return made


def _triton(program: Program, request: Request, fixed: Options) -> tuple[AnySchedule, Emitted]:
    from attngen.backend.triton.emit import emit  # noqa: PLC0415 - not needed on a hit
    from attngen.schedule.choose import choose  # noqa: PLC0415

    schedule = choose(program, request.target, fixed, short=request.short)
    return schedule, emit(program, schedule, request.target)


def with_schedule(spec: Spec, request: Request, schedule: AnySchedule) -> Specialisation:
    """The kernel file for a schedule that is known already, such as a tuned one."""
    program = spec.program(request)
    if isinstance(schedule, CuteSchedule):
        from attngen.backend.cute.emit import emit as emit_cute  # noqa: PLC0415 - not needed on a hit

        emitted = emit_cute(program, schedule, request.target)
    else:
        from attngen.backend.triton.emit import emit  # noqa: PLC0415 - not needed on a hit

        emitted = emit(program, schedule, request.target)
    return Specialisation(spec, request, schedule, emitted)


def _entry(made: Specialisation) -> Entry:
    meta = emitted_meta(made.emitted)
    meta["schedule"], meta["reason"] = dataclasses.asdict(made.schedule), made.reason
    return Entry(meta, {"source": made.emitted.source.encode()})


def _schedule(entry: Entry) -> AnySchedule:
    return backends.stored_schedule(entry.meta["schedule"])


def _emitted(entry: Entry) -> Emitted:
    return stored_emitted(entry.meta, entry.blobs["source"])


def emitted_meta(emitted: Emitted) -> dict[str, Any]:
    """What a cache entry holds of a file besides its text."""
    meta = dataclasses.asdict(emitted)
    del meta["source"]
    meta["schedule_text"] = meta.pop("schedule")  # an entry's "schedule" is the whole of it
    for kernel in meta["kernels"]:  # a JSON object does not keep the order of parameters
        kernel["signature"] = list(kernel["signature"].items())
    return meta


def stored_emitted(meta: Mapping[str, Any], source: bytes) -> Emitted:
    """The file of a cache entry."""
    kernels = (
        DeviceKernel(**{**k, "signature": dict(k["signature"]), "divisible": tuple(k["divisible"])})
        for k in meta["kernels"]
    )
    return Emitted(
        source=source.decode(),
        entry=meta["entry"],
        arguments=tuple(meta["arguments"]),
        outputs=tuple(meta["outputs"]),
        kernels=tuple(kernels),
        host=tuple(meta["host"]),
        schedule=meta["schedule_text"],
        backend=meta["backend"],
        aligned=tuple(meta["aligned"]),
    )

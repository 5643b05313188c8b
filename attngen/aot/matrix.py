"""What a package is made of: every spec, dtype, head size, form and target as one kernel file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from attngen.backend.emitted import Emitted
from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.dtype import Dtype
from attngen.core.target import Target
from attngen.ir.attention import Attention
from attngen.runtime.autograd import has_gradient
from attngen.runtime.backends import CUTE_TARGET, OF_CUTE
from attngen.runtime.cache import Cache
from attngen.runtime.specialise import Request, Spec, specialise
from attngen.runtime.training import Wiring, train

FORMS = ("forward", "decode", "training", "backward")
BACKENDS = ("auto", "triton", "cute")
OLD_DRIVERS = "for drivers that are too old for CuTe's"


@dataclass(frozen=True)
class Choice:
    """One spec with a size for each feature axis."""

    spec: Spec
    sizes: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        """Name of the spec."""
        return self.attention.name

    @property
    def attention(self) -> Attention:
        """Its formulas."""
        return self.spec.attention


@dataclass(frozen=True)
class File:
    """One kernel file. fallback: for drivers that are too old for the file of CuTe beside it."""

    form: str
    target: Target
    emitted: Emitted
    reason: str = ""
    fallback: bool = False


@dataclass
class Variant:
    """All files of a spec for one dtype and one set of sizes.

    wiring: what forward and backward hand to each other, None without a backward; why: the reason.
    """

    choice: Choice
    half: Dtype
    files: list[File] = field(default_factory=list)
    wiring: Wiring | None = None
    why: str = ""


def choices(spec: Spec, sizes: Mapping[str, Sequence[int]]) -> list[Choice]:
    """A spec with every combination of the sizes given for its feature axes."""
    lists = [[(name, size) for size in given] for name, given in sizes.items()]
    return [Choice(spec, combination) for combination in itertools.product(*lists)]


def halves(attention: Attention, wanted: Sequence[Dtype]) -> Sequence[Dtype]:
    """The dtypes that make a difference: one if nothing is declared `half`."""
    return wanted if any(t.dtype is Dtype.HALF for t in attention.tensors) else wanted[:1]


def variant(
    choice: Choice,
    half: Dtype,
    targets: Sequence[Target],
    cache: Cache,
    backward: bool = True,
    backend: str = "auto",
) -> Variant:
    """Passes, schedules and printing of all files of a variant; SpecError: what is not built.

    backend: "auto" takes what `attngen.compile` takes, with Triton's kernels beside CuTe's; else
    the one that is named, and decode forms, which are Triton's. E440: `cute` for another target.
    """
    made = Variant(choice, half)
    for target in targets:
        _require_target(backend, target)
        made.files += _inference(choice, half, target, cache, backend)
    if not backward or not has_gradient(choice.attention):
        return made
    try:
        for target in targets:
            made.files += _training(made, target, cache, backend)
    except SpecError as error:
        if error.diagnostics[0].code != "E430":
            raise
        made.wiring, made.why = None, error.diagnostics[0].message
        made.files = [f for f in made.files if f.form in ("forward", "decode")]
    return made


def _require_target(backend: str, target: Target) -> None:
    if backend == "cute" and target.name != CUTE_TARGET:
        message = f"packages hold kernels of the cute backend for {CUTE_TARGET}, not {target.name}"
        fix = f"--targets {CUTE_TARGET}, or --backend auto, which takes Triton elsewhere"
        raise SpecError(Diagnostic("E440", message, help=fix))


def _inference(
    choice: Choice, half: Dtype, target: Target, cache: Cache, backend: str
) -> Iterator[File]:
    request = Request(choice.sizes, half, target)
    made = specialise(_by(choice.spec, backend), request, cache)
    yield File("forward", target, made.emitted, made.reason)
    plain = _by(choice.spec, "triton")
    if made.emitted.backend == "cute" and backend == "auto":
        emitted = specialise(plain, request, cache).emitted
        yield File("forward", target, emitted, OLD_DRIVERS, True)
    short = specialise(plain, replace(request, short=True), cache)
    if short.schedule.form == "split":
        yield File("decode", target, short.emitted)


def _training(made: Variant, target: Target, cache: Cache, backend: str) -> Iterator[File]:
    """The pair of files; their wiring is set, which is the same whatever makes the kernels."""
    spec, request = made.choice.spec, Request(made.choice.sizes, made.half, target)
    pair = train(_by(spec, backend), request, cache)
    made.wiring = pair.wiring
    yield File("training", target, pair.forward)
    yield File("backward", target, pair.backward, pair.reason)
    backends = {pair.forward.backend, pair.backward.backend}
    if backend != "auto" or backends == {"triton"}:
        return
    plain = train(_by(spec, "triton"), request, cache)
    assert plain.wiring == pair.wiring
    if pair.forward.backend == "cute":
        yield File("training", target, plain.forward, OLD_DRIVERS, True)
    if pair.backward.backend == "cute":
        yield File("backward", target, plain.backward, OLD_DRIVERS, True)


def _by(spec: Spec, backend: str) -> Spec:
    """The spec with a backend asked for; options that only CuTe knows are left out for Triton."""
    if backend == "auto":
        return spec
    options = dict(spec.options)
    if backend == "triton":
        options = {n: x for n, x in options.items() if n not in OF_CUTE and x != "flat"}
    return replace(spec, options={**options, "backend": backend})

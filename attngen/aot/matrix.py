"""What a package is made of: every spec, dtype, head size, form and target as one kernel file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from attngen.backend.emitted import Emitted
from attngen.core.diagnostics import SpecError
from attngen.core.dtype import Dtype
from attngen.core.target import Target
from attngen.ir.attention import Attention
from attngen.runtime.autograd import has_gradient
from attngen.runtime.cache import Cache
from attngen.runtime.specialise import Request, Spec, specialise
from attngen.runtime.training import Wiring, train

FORMS = ("forward", "decode", "training", "backward")


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
    """One kernel file."""

    form: str
    target: Target
    emitted: Emitted


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
    choice: Choice, half: Dtype, targets: Sequence[Target], cache: Cache, backward: bool = True
) -> Variant:
    """Passes, schedules and printing of all files of a variant; SpecError: what is not built.

    Packages hold Triton's kernels: their launcher does not know the others yet.
    """
    options = {**choice.spec.options, "backend": "triton"}
    choice = replace(choice, spec=replace(choice.spec, options=options))
    made = Variant(choice, half)
    for target in targets:
        made.files += _inference(choice, half, target, cache)
    if not backward or not has_gradient(choice.attention):
        return made
    try:
        for target in targets:
            training = train(choice.spec, Request(choice.sizes, half, target), cache)
            made.wiring = training.wiring
            for form, emitted in (("training", training.forward), ("backward", training.backward)):
                made.files.append(File(form, target, emitted))
    except SpecError as error:
        if error.diagnostics[0].code != "E430":
            raise
        made.wiring, made.why = None, error.diagnostics[0].message
        made.files = [f for f in made.files if f.form in ("forward", "decode")]
    return made


def _inference(choice: Choice, half: Dtype, target: Target, cache: Cache) -> Iterator[File]:
    request = Request(choice.sizes, half, target)
    made = specialise(choice.spec, request, cache)
    yield File("forward", target, made.emitted)
    short = specialise(choice.spec, replace(request, short=True), cache)
    if short.schedule.form == "split":
        yield File("decode", target, short.emitted)

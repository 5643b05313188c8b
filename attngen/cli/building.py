"""From a checked spec to printed kernels: the command line's view of `attngen.runtime`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attngen.cli.input import HALF_DTYPES, Spec
from attngen.cli.mistake import InputError
from attngen.core.target import TARGETS, Target, find_target
from attngen.runtime.specialise import Request, Specialisation, generate
from attngen.runtime.specialise import Spec as RuntimeSpec
from attngen.runtime.support import require_supported

DEFAULT_TARGET = "sm_90"

Options = Mapping[str, str | int | bool]


@dataclass(frozen=True)
class Built:
    """One kernel file: a spec for one target. short: the variant for few queries and many keys."""

    spec: Spec
    dtype: str
    made: Specialisation

    @property
    def name(self) -> str:
        """Name of the spec."""
        return self.made.spec.attention.name

    @property
    def target(self) -> Target:
        """What it was made for."""
        return self.made.request.target


def build(
    spec: Spec, target: Target, dtype: str, options: Options | None = None, short: bool = False
) -> Built:
    """Passes, schedule and printing; raises SpecError when something is not built yet."""
    request = Request(tuple(spec.sizes.items()), HALF_DTYPES[dtype], target, short)
    return Built(spec, dtype, generate(runtime_spec(spec), request, options or {}))


def runtime_spec(spec: Spec) -> RuntimeSpec:
    """The spec as the runtime takes it; raises SpecError (E4) for what is not built yet."""
    attention = require_supported(spec.program)
    return RuntimeSpec(spec.source, spec.params, attention, dict(attention.schedule))


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

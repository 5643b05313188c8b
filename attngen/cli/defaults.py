"""Lengths for commands that draw random inputs, when the user gave none."""

from __future__ import annotations

from collections.abc import Mapping

from attngen.cli.input import Spec, dynamic_axes
from attngen.cli.mistake import InputError

# a GPU gets a problem worth timing; the interpreter one that takes a second or two
ON_GPU = {"B": 2, "H": 16, "Hq": 16, "Hkv": 4, "Hv": 16, "G": 4, "position": 4096}
INTERPRETED = {"B": 1, "H": 2, "Hq": 2, "Hkv": 1, "Hv": 2, "G": 1, "position": 128}


def axis_sizes(spec: Spec, given: Mapping[str, int], gpu: bool) -> dict[str, int]:
    """A length for every axis of the spec; raises InputError for an axis it does not have."""
    known = [*dynamic_axes(spec.program), *spec.sizes]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InputError(
            f"{spec.source.name} has no axis named {unknown[0]}", f"its axes: {', '.join(known)}"
        )
    table = ON_GPU if gpu else INTERPRETED
    lengths = {name: table.get(name, table["position"]) for name in dynamic_axes(spec.program)}
    return {**lengths, **spec.sizes, **given}

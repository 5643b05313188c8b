"""Runs the compiler of each target on printed kernels and says what it reported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attngen.cli.console import bad, kibibytes, steps
from attngen.runtime.cache import Cache
from attngen.runtime.crosscompile import compile_many

if TYPE_CHECKING:
    from attngen.cli.building import Built
    from attngen.runtime.binary import Binary


def compile_binaries(built: Sequence[Built]) -> list[list[Binary]]:
    """The device functions of each kernel file as cubin or hsaco; raises SpecError."""
    with steps(len(built), "Compiling binaries") as advance:
        return compile_many(
            [(b.made.emitted, b.target) for b in built], Cache(), lambda _: advance()
        )


def describe(binaries: Sequence[Binary]) -> str:
    """`forward 168 registers, 0 spills, 80 KiB shared`, one part per device function."""
    return "; ".join(_one(binary, named=len(binaries) > 1) for binary in binaries)


def _one(binary: Binary, named: bool) -> str:
    spills = f"{binary.spills_bytes} B spilled" if binary.spills_bytes else "no spills"
    parts = [
        f"{binary.registers} registers",
        bad(spills) if binary.spills_bytes else spills,
        f"{kibibytes(binary.shared_bytes)} shared",
    ]
    return (f"{binary.kernel}: " if named else "") + ", ".join(parts)

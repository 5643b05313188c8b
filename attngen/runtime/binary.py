"""A compiled kernel and what its compiler reported about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.target import Target

PTXAS_REGISTERS = re.compile(r"Used (\d+) registers")
PTXAS_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
HSACO_REGISTERS = re.compile(r"^\s*\.vgpr_count:\s*(\d+)", re.MULTILINE)
HSACO_SPILLS = re.compile(r"^\s*\.vgpr_spill_count:\s*(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Binary:
    """One device function for one target.

    kind: "cubin" or "hsaco"; registers: 32-bit registers of a thread; spills_bytes: per thread, the
    larger of stores and loads; shared_bytes: of one program; assembly: PTX or AMD GCN text;
    launch: what a launcher must know besides: clusters, scratch memory, tensor descriptors.
    """

    kernel: str
    kind: str
    data: bytes
    registers: int
    spills_bytes: int
    shared_bytes: int
    warps: int
    symbol: str
    assembly: str = ""
    launch: Mapping[str, Any] = field(default_factory=dict)


def ptxas_report(log: str) -> tuple[int, int]:
    """Registers and spilled bytes from what `ptxas -v` printed; the last entry is the kernel."""
    registers = [int(r) for r in PTXAS_REGISTERS.findall(log)]
    spills = [max(int(a), int(b)) for a, b in PTXAS_SPILLS.findall(log)]
    return (registers or [0])[-1], max(spills, default=0)


def hsaco_report(assembly: str) -> tuple[int, int]:
    """Registers and spilled bytes from the metadata notes that end the assembly text."""
    registers, spills = HSACO_REGISTERS.search(assembly), HSACO_SPILLS.search(assembly)
    return int(registers[1]) if registers else 0, 4 * int(spills[1]) if spills else 0


def require_fit(binary: Binary, target: Target) -> None:
    """SpecError E310 if one program needs more shared memory than the target has."""
    if binary.shared_bytes <= target.shared_memory:
        return
    raise SpecError(
        Diagnostic(
            "E310",
            f"{binary.kernel} needs {binary.shared_bytes:,} bytes of shared memory for "
            f"{target.name}, which has {target.shared_memory:,} for one program",
            help="take a smaller tile or fewer stages: schedule { block_k = 32 stages = 2 }",
        )
    )

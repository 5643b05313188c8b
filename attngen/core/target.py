"""What a kernel is compiled for: the numbers of each GPU that a schedule depends on."""

from __future__ import annotations

from dataclasses import dataclass

from attngen.core.diagnostics import Diagnostic, SpecError


@dataclass(frozen=True)
class Target:
    """One GPU architecture, or the interpreter.

    shared_memory: bytes one program may use; shared_memory_sm: bytes of one multiprocessor;
    registers: 32-bit registers of one multiprocessor; warp: threads of a warp;
    descriptors: hardware tensor descriptors (TMA); tanh_approx: PTX `tanh.approx.f32`;
    l2: bytes of the last-level cache; multiprocessors: of the largest part sold;
    dependent_launch: a kernel can be launched while the one that it waits for ends.
    """

    name: str
    family: str
    arch: int | str
    shared_memory: int
    shared_memory_sm: int
    multiprocessors: int
    l2: int
    warp: int = 32
    registers: int = 65536
    descriptors: bool = False
    tanh_approx: bool = False
    dependent_launch: bool = False


def _cuda(arch: int, block_kib: int, sm_kib: int, sms: int, l2_mib: int) -> Target:
    return Target(
        f"sm_{arch}",
        "cuda",
        arch,
        block_kib * 1024,
        sm_kib * 1024,
        sms,
        l2_mib << 20,
        descriptors=arch >= 90,
        tanh_approx=True,
        dependent_launch=arch >= 90,
    )


def _hip(arch: str, units: int, l2_mib: int, warp: int) -> Target:
    return Target(
        arch, "hip", arch, 64 << 10, 64 << 10, units, l2_mib << 20, warp=warp, registers=131072
    )


# Sources: CUDA C++ Programming Guide, table of technical specifications per compute capability;
# AMD CDNA 2 / CDNA 3 and RDNA 3 instruction set guides.
TARGETS: tuple[Target, ...] = (
    _cuda(75, 64, 64, 72, 6),
    _cuda(80, 163, 164, 108, 40),
    _cuda(86, 99, 100, 84, 6),
    _cuda(89, 99, 100, 142, 72),
    _cuda(90, 227, 228, 132, 50),
    _cuda(100, 227, 228, 148, 126),
    _cuda(120, 99, 100, 170, 96),
    _hip("gfx90a", 104, 8, 64),
    _hip("gfx942", 304, 256, 64),
    _hip("gfx1100", 96, 96, 32),
    # Kernels on CPU tensors run through Triton's interpreter, with Hopper's template and schedules.
    Target("interpreter", "interpreter", 0, 227 << 10, 228 << 10, 132, 50 << 20, descriptors=True),
)


def find_target(name: str) -> Target:
    """The target of that name; raises SpecError E301 naming the known ones."""
    for target in TARGETS:
        if target.name == name:
            return target
    known = ", ".join(t.name for t in TARGETS)
    raise SpecError(
        Diagnostic(
            "E301",
            f"unknown target {name[:40]!r}; known targets are {known}",
            help="--target sm_90",
        )
    )

"""What a backend hands to the runtime: a source file, and how to compile and call it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DeviceKernel:
    """One `@triton.jit` function of the file, as `triton.compile` wants it.

    signature: parameter -> type ("*bf16", "i32", "fp32", "tensordesc<bf16[1, 1, 64, 128]>");
    constants: value of each constexpr parameter; attributes: parameters known divisible by 16;
    dependent: launched while the kernel before it ends (programmatic dependent launch).
    """

    name: str
    signature: Mapping[str, str]
    constants: Mapping[str, int | float | bool | None]
    divisible: tuple[str, ...]
    warps: int
    stages: int
    max_registers: int | None = None
    dependent: bool = False


@dataclass(frozen=True)
class Emitted:
    """A generated file.

    source: complete Python text that imports only torch and triton, or torch and attngen.cutelib
    (backend "cute"); entry: name of its host function, which takes the spec's tensors and scalars
    in declaration order, allocates and returns the results as a tuple in the order of the spec, and
    checks nothing (the runtime has checked); outputs: names of the results; kernels: the device
    functions, for ahead-of-time compilation; host: what the entry does, as plain data for a
    launcher without a compiler (triton/host.py, cute/host.py); schedule: in words; aligned: inputs
    that must be aligned as streams are where the schedule's loads are descriptors.
    """

    source: str
    entry: str
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    kernels: tuple[DeviceKernel, ...]
    host: tuple[Any, ...] = ()
    schedule: str = ""
    backend: str = "triton"
    aligned: tuple[str, ...] = ()

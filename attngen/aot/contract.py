"""Holds a binary to what a launcher will hand over: parameters in order, sizes, threads."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attngen.aot.cute import require_cute_contract
from attngen.aot.elf import read
from attngen.backend.emitted import DeviceKernel
from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.target import Target
from attngen.runtime.binary import Binary

SIZES = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "fp16": 2, "bf16": 2, "fp32": 4, "fp64": 8}
MAP_BYTES = 128


def parameter_sizes(types: Sequence[str]) -> list[int]:
    """Bytes of every parameter of the binary; two pointers to scratch memory come last."""
    out: list[int] = []
    for type_ in types:
        if type_.startswith("tensordesc"):
            shape = re.search(r"\[([^\]]*)\]", type_)
            rank = shape[1].count(",") + 1 if shape else 0
            out += [MAP_BYTES, *[4] * rank, *[8] * rank]
        else:
            out.append(8 if type_.startswith("*") else SIZES[type_])
    return [*out, 8, 8]


def require_contract(kernel: DeviceKernel, binary: Binary, target: Target) -> None:
    """SpecError E312: not what the launcher will hand over; E313: more than it can give.

    That is scratch memory, and tensor descriptors on hardware without them.
    """
    if not kernel.signature:  # a plan of the CuTe DSL
        require_cute_contract(binary, target)
        return
    types = list(kernel.signature.values())
    descriptors = sum(t.startswith("tensordesc") for t in types)
    if descriptors != len(binary.launch["descriptors"]):
        raise _error("E313", binary, target, "takes tensor descriptors that are not hardware's")
    if binary.launch["scratch"][0] or binary.launch["profile_scratch"]:
        raise _error("E313", binary, target, "wants scratch memory")
    try:
        facts = read(binary.data)
    except ValueError as error:
        raise _error("E312", binary, target, str(error)) from None
    sizes = [size for _, size in facts.parameters]
    if facts.symbol != binary.symbol or sizes != parameter_sizes(types):
        what = f"has parameters of {sizes} bytes, expected {parameter_sizes(types)}"
        raise _error("E312", binary, target, what)
    if facts.threads and facts.threads != binary.warps * target.warp:
        what = f"is made for {facts.threads} threads, expected {binary.warps * target.warp}"
        raise _error("E312", binary, target, what)


def _error(code: str, binary: Binary, target: Target, what: str) -> SpecError:
    message = f"{binary.kernel} for {target.name} {what}"
    return SpecError(Diagnostic(code, message, help="try another schedule, or report this"))

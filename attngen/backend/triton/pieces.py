"""Pieces that every generated file has: decorators, signatures, launches, what Triton is told."""

from __future__ import annotations

from collections.abc import Sequence

from attngen.backend.emitted import DeviceKernel
from attngen.backend.triton.host import Launch
from attngen.backend.triton.tensors import Parameters
from attngen.backend.triton.text import call
from attngen.backend.triton.view import Stage
from attngen.backend.value import Value


def stage_piece(s: Stage, tile: str) -> dict[str, str]:
    """A step function, as the file template prints it; tile: such as "64 keys"."""
    told = "partial" if s.condition else "PARTIAL: tl.constexpr"
    flag = [told] if s.flagged else []
    signature = call(f"def {s.name}", [*s.parameters, *flag], ":")
    return {
        "signature": signature,
        "body": s.body,
        "any_kept_function": s.any_kept_function,
        "tile": tile,
    }


def kernel_piece(
    name: str, doc: str, body: str, table: Parameters, parameters: Sequence[str]
) -> dict[str, str]:
    """A kernel, as the file template prints it."""
    used = [table.table[p] for p in parameters]
    free = [p.name for p in used if p.type in ("i32", "i64") and not p.specialised]
    signature = call(f"def {name}", parameters, ":")
    return {"decorator": _decorator(free), "signature": signature, "doc": doc, "body": body}


def function_piece(name: str, doc: str, body: str, parameters: Sequence[str]) -> dict[str, str]:
    """A function that a kernel calls, as the file template prints it."""
    signature = call(f"def {name}", parameters, ":")
    return {"decorator": "@triton.jit", "signature": signature, "doc": doc, "body": body}


def _decorator(free: Sequence[str]) -> str:
    """Lengths and strides take any value: Triton must not compile a variant per value."""
    if not free:
        return "@triton.jit"
    head = "@triton.jit(do_not_specialize="
    return call(head, [f'"{p}"' for p in free], "", 0).replace("=(", "=[", 1)[:-1] + "])"


def launch(
    name: str,
    grid: tuple[Value, ...],
    table: Parameters,
    parameters: Sequence[str],
    options: Sequence[str],
) -> Launch:
    """The launch of a kernel with the parameters that its text uses."""
    given = tuple((p, table.table[p].host) for p in parameters)
    return Launch(name, grid, given, tuple(options))


def device_kernel(
    name: str,
    table: Parameters,
    parameters: Sequence[str],
    warps: int,
    stages: int,
    max_registers: int | None = None,
    dependent: bool = False,
) -> DeviceKernel:
    """What `triton.compile` needs to know about a kernel."""
    return DeviceKernel(
        name,
        {p: table.table[p].type for p in parameters},
        {},
        tuple(p for p in parameters if table.table[p].specialised),
        warps,
        stages,
        max_registers,
        dependent,
    )

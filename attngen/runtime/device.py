"""Which target a tensor's device is."""

from __future__ import annotations

import functools
from typing import Any

from attngen.core.diagnostics import CallError, Diagnostic
from attngen.core.target import TARGETS, Target, find_target
from attngen.runtime.interpreter import mend_interpreter
from attngen.runtime.settings import gpu_present, interpreter_active, prepare_interpreter


def target_of(device: str) -> Target:
    """The target of a device such as "cuda:0" or "cpu".

    CallError: E516 CPU tensors while Triton is set to compile, E517 a GPU nobody wrote numbers for.
    """
    interpreted = prepare_interpreter() if device == "cpu" else interpreter_active()
    if interpreted:
        mend_interpreter()
        return find_target("interpreter")
    if device == "cpu":
        message = "the tensors are on the CPU, but Triton was imported without its interpreter"
        fix = (
            'pass GPU tensors: q.to("cuda")'
            if gpu_present()
            else "set TRITON_INTERPRET=1 before Python starts: TRITON_INTERPRET=1 python ..."
        )
        if gpu_present():
            fix += ", or run TRITON_INTERPRET=1 python ..."
        raise CallError(Diagnostic("E516", message, help=fix))
    return _gpu_target(device)


def compatible(chosen: Target, device: Target) -> bool:
    """Whether code for the chosen target runs there: same family and same major architecture."""
    if chosen.family != device.family:
        return False
    if isinstance(chosen.arch, int) and isinstance(device.arch, int):
        return chosen.arch // 10 == device.arch // 10 and chosen.arch <= device.arch
    return chosen.arch == device.arch


@functools.cache
def _gpu_target(device: str) -> Target:
    import torch  # noqa: PLC0415 - `import attngen` must not import torch

    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return _named(str(properties.gcnArchName).split(":")[0], properties)
    return _cuda_target(properties.major * 10 + properties.minor, properties)


def _cuda_target(arch: int, properties: Any) -> Target:
    """The target itself, or the nearest older one of the same generation."""
    same = [
        t
        for t in TARGETS
        if isinstance(t.arch, int)
        and t.family == "cuda"
        and t.arch // 10 == arch // 10
        and t.arch <= arch
    ]
    return max(same, key=lambda t: int(t.arch)) if same else _named(f"sm_{arch}", properties)


def _named(name: str, properties: Any) -> Target:
    found = next((t for t in TARGETS if t.name == name), None)
    if found is None:
        known = ", ".join(t.name for t in TARGETS if t.family != "interpreter")
        message = f"no target describes {properties.name} ({name}); known targets are {known}"
        raise CallError(
            Diagnostic("E517", message, help="compile(..., target=...) with a near one")
        )
    return found

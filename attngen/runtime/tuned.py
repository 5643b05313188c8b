"""Schedules that a search on this GPU found: later calls there use them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from attngen.runtime.backends import AnySchedule, stored_schedule
from attngen.runtime.cache import Cache, Entry
from attngen.runtime.fingerprint import digest, toolchain
from attngen.runtime.settings import gpu_present

if TYPE_CHECKING:
    from attngen.runtime.specialise import Request, Spec


def tuned(
    spec: Spec, request: Request, cache: Cache, device: str | None = None
) -> AnySchedule | None:
    """What a search found, if any; device: name of the GPU, by default the current one."""
    if request.target.family == "interpreter":
        return None
    entry = cache.get(tuned_key(spec, request, device or device_name()))
    return None if entry is None else stored_schedule(entry.meta["schedule"])


def remember(
    spec: Spec, request: Request, cache: Cache, schedule: AnySchedule, milliseconds: float
) -> None:
    """Keep the result of a search on the current GPU."""
    entry = Entry({"schedule": dataclasses.asdict(schedule), "milliseconds": milliseconds})
    cache.put(tuned_key(spec, request, device_name()), entry)


def tuned_key(spec: Spec, request: Request, device: str) -> str:
    """Key of a search's result: the emitted file's own fields, the device and the toolchain."""
    return digest("tuned", file=spec.key(request), device=device, toolchain=toolchain())


def device_name() -> str:
    """Name of the current GPU, or "none"."""
    import torch  # noqa: PLC0415 - only where kernels run

    return torch.cuda.get_device_name() if gpu_present() else "none"

"""Schedules measured on this GPU: searched only when asked, remembered in the cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from attngen.core.diagnostics import AttngenError, Diagnostic, SpecError
from attngen.runtime.backends import AnySchedule
from attngen.runtime.bind import bind
from attngen.runtime.kernel import Kernel
from attngen.runtime.specialise import Request, with_schedule
from attngen.runtime.tuned import remember

TOLERANCE = 1e-2  # of the root mean square: schedules differ in rounding only


@dataclasses.dataclass(frozen=True)
class Measured:
    """One candidate: median milliseconds, or None and the reason why it cannot be used."""

    schedule: AnySchedule
    milliseconds: float | None
    problem: str = ""


def tune(
    kernel: Kernel,
    tensors: Mapping[str, Any],
    candidates: Iterable[AnySchedule],
    done: Callable[[Measured], object] = lambda measured: None,
) -> AnySchedule:
    """The fastest candidate, used by `kernel` now and by every later process on this device.

    A candidate that does not compile, does not fit or gives other results than the default schedule
    is dropped. SpecError E320 without a GPU, E321 if none is left. `done` is called after each.
    """
    values = bind(kernel.declared, (), tensors)
    request = kernel.request(*values)
    if request.target.family == "interpreter":
        message = "tuning measures kernels on a GPU, and the tensors are on the CPU"
        raise SpecError(Diagnostic("E320", message, help="leave out --tune: no tuning is needed"))
    expected = _results(kernel, values)
    default = kernel.made(request)
    measured: list[tuple[float, AnySchedule]] = []
    for schedule in candidates:
        outcome = _measure(kernel, request, schedule, values, expected)
        done(outcome)
        if outcome.milliseconds is not None:
            measured.append((outcome.milliseconds, schedule))
    kernel.use(request, default)
    if not measured:
        message = f"no schedule that was tried works for {kernel.name} on {request.target.name}"
        raise SpecError(Diagnostic("E321", message, help="report the spec: the default one works"))
    milliseconds, best = min(measured, key=lambda pair: pair[0])
    kernel.use(request, with_schedule(kernel.spec, request, best))
    remember(kernel.spec, request, kernel.cache, best, milliseconds)
    return best


def _measure(
    kernel: Kernel,
    request: Request,
    schedule: AnySchedule,
    values: tuple[Any, ...],
    expected: tuple[torch.Tensor, ...],
) -> Measured:
    try:
        kernel.use(request, with_schedule(kernel.spec, request, schedule))
        found = _results(kernel, values)
        if not all(map(_close, found, expected)):
            return Measured(schedule, None, "its results differ from the default schedule's")
        return Measured(schedule, _milliseconds(lambda: kernel(*values)))
    except AttngenError as error:
        return Measured(schedule, None, error.diagnostics[0].message)
    except Exception as error:  # Triton raises many kinds when a tile does not fit
        return Measured(schedule, None, f"{type(error).__name__}: {error}"[:200])


def _milliseconds(call: Callable[[], Any]) -> float:
    from triton.testing import do_bench  # noqa: PLC0415 - imports Triton

    return float(do_bench(call, return_mode="median"))  # type: ignore[no-untyped-call] # untyped in its library


def _results(kernel: Kernel, values: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    results = kernel(*values)
    return results if isinstance(results, tuple) else (results,)


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    if not expected.is_floating_point():
        return True  # ties may fall either way; values are compared
    a, b = found.double(), expected.double()
    same = (a == b) | (a.isnan() & b.isnan())
    if not bool((same | (a.isfinite() & b.isfinite())).all()):
        return False
    difference = (a - b).masked_fill(same, 0.0)
    scale = b.masked_fill(~b.isfinite(), 0.0)
    return bool(difference.norm() <= TOLERANCE * scale.norm())

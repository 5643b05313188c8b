"""Searches schedules on this GPU: for `attngen tune` and `compile --tune`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict

from attngen.cli.console import steps
from attngen.cli.input import Spec
from attngen.cli.mistake import InputError
from attngen.cli.running import Trial, prepare
from attngen.core.target import Target
from attngen.runtime.backends import AnySchedule
from attngen.runtime.device import compatible
from attngen.runtime.settings import gpu_present
from attngen.runtime.tune import Measured, tune
from attngen.schedule.cute import CuteSchedule, near
from attngen.schedule.space import space

MOST = 40  # schedules that are tried: one takes two or three seconds, nearly all of it compiling


def search(spec: Spec, target: Target, dtype: str) -> dict[str, str | int | bool]:
    """The best schedule on this GPU as options; raises InputError if it is another target."""
    require_gpu()
    trial = prepare(spec, {}, dtype, seed=0)
    here = trial.kernel.request(**trial.tensors).target
    if not compatible(target, here):
        raise InputError(
            f"--tune measures on this GPU, which is {here.name}, not {target.name}",
            f"--target {here.name}",
        )
    best, _ = search_trial(trial, MOST)
    return {name: value for name, value in asdict(best).items() if value is not None}


def search_trial(trial: Trial, most: int) -> tuple[AnySchedule, list[Measured]]:
    """The fastest schedule for these inputs, remembered from now on, and all that were tried."""
    points = candidates(trial, most)
    measured: list[Measured] = []
    with steps(len(points), "Tuning") as advance:

        def done(one: Measured) -> None:
            measured.append(one)
            advance()

        return tune(trial.kernel, trial.tensors, points, done), measured


def candidates(trial: Trial, most: int) -> list[AnySchedule]:
    """The default schedule and those nearest to it, at most so many."""
    spec, request = trial.kernel.spec, trial.kernel.request(**trial.tensors)
    default = trial.kernel.made(request).schedule
    points: Iterator[AnySchedule]
    if isinstance(default, CuteSchedule):
        points = near(default)
    else:
        points = space(spec.program(request), request.target, spec.options, short=request.short)
    return list(itertools.islice(points, most))


def require_gpu() -> None:
    """Raises InputError without a GPU."""
    if not gpu_present():
        raise InputError(
            "no GPU here: tuning measures kernels", "leave it out; the default needs no tuning"
        )

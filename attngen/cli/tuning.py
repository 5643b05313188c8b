"""Searches schedules on this GPU: for `attngen tune` and `compile --tune`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, replace

from attngen.cli.console import steps
from attngen.cli.input import Spec
from attngen.cli.mistake import InputError
from attngen.cli.running import Trial, prepare
from attngen.core.target import Target
from attngen.runtime.backends import AnySchedule
from attngen.runtime.device import compatible
from attngen.runtime.settings import gpu_present
from attngen.runtime.tune import Measured, tune
from attngen.schedule.cute import CuteSchedule

TILES = tuple(itertools.product((64, 128), (32, 64, 128), (4, 8), (2, 3)))


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
    best, _ = search_trial(trial)
    return {name: value for name, value in asdict(best).items() if value is not None}


def search_trial(trial: Trial) -> tuple[AnySchedule, list[Measured]]:
    """The fastest schedule for these inputs, remembered from now on, and all that were tried."""
    request = trial.kernel.request(**trial.tensors)
    points = candidates(trial.kernel.made(request).schedule)
    measured: list[Measured] = []
    with steps(len(points), "Tuning") as advance:

        def done(one: Measured) -> None:
            measured.append(one)
            advance()

        return tune(trial.kernel, trial.tensors, points, done), measured


def candidates(start: AnySchedule) -> Sequence[AnySchedule]:
    """The default schedule and its neighbours in tile size, warps, stages and loops."""
    points: list[AnySchedule] = [start]
    if isinstance(start, CuteSchedule):
        for keys, stages in itertools.product((-32, -16, 0, 16), (2, 3)):
            near = replace(start, tile_n=start.tile_n + keys, stages=stages)
            points += [near, replace(near, order="free")]
        return list(dict.fromkeys(points))
    for block_q, block_k, warps, stages in TILES:
        for loops in ("split", "single"):
            points.append(
                replace(
                    start,
                    block_q=block_q,
                    block_k=block_k,
                    warps=warps,
                    stages=stages,
                    loops=loops,
                    max_registers=128 if warps == 8 and block_q * block_k <= 8192 else None,
                )
            )
    return list(dict.fromkeys(points))


def require_gpu() -> None:
    """Raises InputError without a GPU."""
    if not gpu_present():
        raise InputError(
            "no GPU here: tuning measures kernels", "leave it out; the default needs no tuning"
        )

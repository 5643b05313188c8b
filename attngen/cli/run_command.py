"""`attngen run`: the kernel on random inputs, held against the formula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from attngen.cli.console import bad, columns, faint, good, say, seconds, strong, working
from attngen.cli.input import Value, load_spec, with_sizes
from attngen.cli.options import (
    schedule_option,
    seed_option,
    set_option,
    size_option,
    spec_argument,
    target_option,
    trial_dtype_option,
)

if TYPE_CHECKING:
    from attngen.cli.running import Trial
    from attngen.judge import Judged


@click.command(name="run")
@spec_argument
@size_option
@set_option
@trial_dtype_option
@seed_option
@schedule_option
@target_option(multiple=False)
def command(
    spec: str,
    sizes: dict[str, int],
    settings: dict[str, Value],
    dtype: str | None,
    seed: int,
    schedule: dict[str, str | int | bool],
    target: str | None,
) -> int:
    """Run SPEC on random inputs and compare every result with the float64 formula.

    Runs on the GPU if there is one, else through Triton's interpreter with short default lengths.
    Exit status 1 if a result is wrong.

    \b
    Examples:
      attngen run examples/gemma2.attn
      attngen run examples/gemma2.attn --size Sq=2048,Skv=2048 --set window=256 --dtype f16
    """
    from attngen.cli.running import prepare, seconds_of

    loaded = with_sizes(load_spec(spec, settings), sizes)
    with working("Running"):
        trial = prepare(loaded, sizes, dtype, seed, schedule, target)
        judged = trial.judge()
        elapsed = seconds_of(trial)
    report(trial, judged, elapsed)
    return 0 if all(j.verdict for j in judged) else 1


def report(trial: Trial, judged: Sequence[Judged], elapsed: float) -> None:
    """What ran, where, how long, and how far from the formula."""
    from attngen.cli.running import describe_sizes

    say(f"{strong(trial.kernel.name)}  {faint(describe_sizes(trial))}")
    say(f"  ran on {trial.place} in {seconds(elapsed)}")
    for line in columns([_row(j) for j in judged]):
        say(line)


def _row(judged: Judged) -> list[str]:
    verdict = judged.verdict
    mark = good("right") if verdict else bad("WRONG")
    unit = "wrong indices" if "wrong" in verdict.figures else "largest error"
    told = verdict.message if not verdict else f"{unit} {judged.error:.2g}"
    return [mark, judged.name, told]

"""`attngen bench`: how fast a kernel is on this GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from attngen.cli.console import bad, columns, faint, say, seconds, strong, working
from attngen.cli.input import Value, load_spec, with_sizes
from attngen.cli.mistake import InputError
from attngen.cli.options import (
    dtype_option,
    schedule_option,
    seed_option,
    set_option,
    size_option,
    spec_argument,
)

if TYPE_CHECKING:
    from attngen.cli.running import Trial

CHECKED = 512  # positions


@click.command(name="bench")
@spec_argument
@size_option
@set_option
@dtype_option
@seed_option
@schedule_option
def command(
    spec: str,
    sizes: dict[str, int],
    settings: dict[str, Value],
    dtype: str,
    seed: int,
    schedule: dict[str, str | int | bool],
) -> int:
    """Time SPEC on this GPU: median of many calls, after checking that the result is right.

    \b
    Examples:
      attngen bench examples/flash.attn --size B=2,H=16,Sq=8192,Skv=8192
      attngen bench examples/gemma2.attn --schedule block_q=64,block_k=64,warps=4
    """
    from attngen.cli.running import prepare, seconds_of
    from attngen.runtime.settings import gpu_present

    if not gpu_present():
        raise InputError("no GPU here; times of the interpreter mean nothing", "`attngen run`")
    loaded = with_sizes(load_spec(spec, settings), sizes)
    with working("Timing"):
        trial = prepare(loaded, sizes, dtype, seed, schedule)
        # the formula needs every score in memory, so it is asked at a size where they fit
        short = {name: min(size, CHECKED) for name, size in trial.sizes.items()}
        judged = prepare(loaded, {**short, **loaded.sizes}, dtype, seed, schedule).judge()
        elapsed = seconds_of(trial)
    wrong = [j for j in judged if not j.verdict]
    for one in wrong:
        say(f"{bad('WRONG')} {one.name}: {one.verdict.message}")
    if not wrong:
        report(trial, elapsed)
    return 1 if wrong else 0


def report(trial: Trial, elapsed: float) -> None:
    """The time, and the traffic it means for inputs and results."""
    from attngen.cli.running import describe_sizes, traffic

    say(f"{strong(trial.kernel.name)}  {faint(describe_sizes(trial))}")
    moved = traffic(trial)
    rows = [
        ["time", seconds(elapsed), faint(f"median of a call on {trial.place}")],
        ["traffic", f"{moved / elapsed / 1e9:.0f} GB/s", faint("inputs and results, once each")],
    ]
    for line in columns(rows):
        say(line)

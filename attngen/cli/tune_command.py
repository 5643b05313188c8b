"""`attngen tune`: the fastest schedule on this GPU, remembered."""

from __future__ import annotations

import click

from attngen.cli.console import columns, faint, good, say, seconds, strong
from attngen.cli.input import Value, load_spec, with_sizes
from attngen.cli.options import (
    dtype_option,
    schedule_option,
    seed_option,
    set_option,
    size_option,
    spec_argument,
)

SHOWN = 5


@click.command(name="tune")
@spec_argument
@size_option
@set_option
@dtype_option
@seed_option
@schedule_option
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=40,
    show_default=True,
    help="How many schedules to try, those nearest to the default first.",
)
def command(
    spec: str,
    sizes: dict[str, int],
    settings: dict[str, Value],
    dtype: str,
    seed: int,
    schedule: dict[str, str | int | bool],
    most: int,
) -> int:
    """Measure schedules for SPEC on this GPU and remember the best in the cache.

    Never needed: without it the schedule comes from a model. A candidate that gives other
    results than the default one is dropped.

    \b
    Examples:
      attngen tune examples/flash.attn --size B=2,H=16,Sq=8192,Skv=8192
      attngen tune examples/flash.attn --schedule block_q=128 --most 100
    """
    from attngen.cli.running import describe_sizes, prepare
    from attngen.cli.tuning import require_gpu, search_trial

    require_gpu()
    trial = prepare(with_sizes(load_spec(spec, settings), sizes), sizes, dtype, seed, schedule)
    best, measured = search_trial(trial, most)
    usable = sorted(
        (m.milliseconds, m.schedule.describe()) for m in measured if m.milliseconds is not None
    )
    say(f"{good('tuned')} {strong(trial.kernel.name)}  {faint(describe_sizes(trial))}")
    for line in columns([[seconds(ms / 1e3), text] for ms, text in usable[:SHOWN]]):
        say(line)
    say(faint(f"  {len(usable)} of {len(measured)} schedules can be used; calls now take"))
    say(f"  {best.describe()}")
    return 0

"""`attngen fuzz`: random specs until one is wrong, then the smallest that still is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attngen.cli.console import bad, faint, good, progress, say, strong, working

if TYPE_CHECKING:
    from attngen.fuzz import Failure


@click.command(name="fuzz")
@click.option("--seed", type=int, default=0, show_default=True, help="First seed.")
@click.option(
    "--count", type=click.IntRange(1), default=1, show_default=True, help="How many seeds."
)
@click.option("--no-shrink", is_flag=True, help="Report failures as they are.")
@click.option("--save", metavar="DIR", help="Write shrunk failures there (tests/corpus).")
def command(seed: int, count: int, no_shrink: bool, save: str | None) -> int:
    """Run random specs against the formula; the seed is the whole configuration.

    Runs on the GPU if there is one, else through Triton's interpreter. Exit status 1 if a kernel is
    wrong. Each failure prints the command that replays it.

    \b
    Examples:
      attngen fuzz --seed 0 --count 200
      attngen fuzz --seed 117               replays one
    """
    from attngen.cli.running import pick_device
    from attngen.fuzz import attempt, save_failure
    from attngen.reference.generate import random_spec

    device = pick_device()
    told: Counter[str] = Counter()
    for number in progress(range(seed, seed + count), "Fuzzing"):
        outcome = attempt(random_spec(number), device)
        told[outcome.kind] += 1
        if outcome.kind == "failed":
            failure = _shrunk(number, outcome.message, device, no_shrink)
            _report(failure)
            if save:
                say(f"  saved {save_failure(failure, Path(save))}")
        elif outcome.kind == "refused" and count == 1:
            say(faint(f"refused: {outcome.message}"))
    failed = told["failed"]
    mark = bad(f"{failed} failed") if failed else good("none failed")
    say(f"{mark}, {told['right']} right, {told['refused']} refused")
    return 1 if failed else 0


def _shrunk(number: int, message: str, device: str, as_it_is: bool) -> Failure:
    from attngen.fuzz import Failure, Outcome, shrink_failure
    from attngen.reference.generate import random_spec

    outcome = Outcome("failed", message)
    if as_it_is:
        return Failure(number, outcome, random_spec(number), outcome)
    with working(f"Shrinking seed {number}"):
        return shrink_failure(number, outcome, device)


def _report(failure: Failure) -> None:
    sizes = " ".join(f"{name}={size}" for name, size in failure.smallest.sizes.items())
    say(f"{bad('failed')} {strong(failure.command)}")
    say(faint(f"  {failure.smallest.half} {sizes}"))
    for text in (failure.smallest.text, failure.smallest_outcome.message):
        say("\n".join(f"  {line}" for line in text.strip().splitlines()))
        say()

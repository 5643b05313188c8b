"""`attngen demo`: what `make demo` shows."""

from __future__ import annotations

from pathlib import Path

import click

from attngen.cli.console import columns, faint, good, say, strong, working
from attngen.cli.input import load_spec
from attngen.core.resources import PACKAGE

TARGET = "sm_90"


@click.command(name="demo", hidden=True)
@click.option("-o", "--output", metavar="DIR", default="kernels", show_default=True)
def command(output: str) -> int:
    """Compile examples/gemma2.attn, run it, and say what happened."""
    from attngen.cli.binaries import compile_binaries, describe
    from attngen.cli.building import build
    from attngen.cli.run_command import report
    from attngen.cli.running import prepare, seconds_of
    from attngen.cli.writing import files_of, kernel_path, write_files
    from attngen.core.target import find_target

    path = PACKAGE.parent / "examples" / "gemma2.attn"
    spec = load_spec(str(path))
    say(f"{strong('The spec')}  {faint('examples/gemma2.attn')}\n")
    say("\n".join(f"  {line}" for line in spec.source.text.rstrip().splitlines()))
    built = build(spec, find_target(TARGET), "bf16")
    write_files(Path(output), files_of([built]))
    place = Path(output) / kernel_path(built)
    say(f"\n{strong('The kernel')}")
    rows = [
        [good("written"), f"{place}", faint(f"{built.made.emitted.source.count(chr(10))} lines")],
        [good("compiled"), f"for {TARGET}", faint(describe(compile_binaries([built])[0]))],
    ]
    for line in columns(rows):
        say(line)
    say(f"\n{strong('The result')}")
    trial_spec = load_spec(str(path), {"window": 64})
    with working("Running the kernel and the formula"):
        trial = prepare(trial_spec, {}, None, seed=0)
        judged = trial.judge()
        elapsed = seconds_of(trial)
    report(trial, judged, elapsed)
    say(faint("  with --set window=64, so that the mask has something to do"))
    say(f"\nNext: open {place}, or `.venv/bin/attngen --help`, or write a spec of your own.")
    return 0 if all(j.verdict for j in judged) else 1

"""`attngen compile`: readable kernels in a folder, checked by the compiler of each target."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attngen.cli.console import columns, faint, good, progress, say, seconds, strong
from attngen.cli.input import Spec, Value, load_spec
from attngen.cli.options import (
    dtype_option,
    schedule_option,
    set_option,
    specs_argument,
    target_option,
)

if TYPE_CHECKING:
    from attngen.cli.building import Built
    from attngen.core.target import Target


@click.command(name="compile")
@specs_argument
@target_option(multiple=True)
@set_option
@dtype_option
@schedule_option
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    default="kernels",
    show_default=True,
    help="Folder to write DIR/<spec>/<target>/<spec>.py into; `-` prints the kernel instead.",
)
@click.option("--no-binary", is_flag=True, help="Do not run the target's compiler on the kernels.")
@click.option(
    "--decode",
    is_flag=True,
    help="The kernel for few queries against many keys (split over the keys).",
)
@click.option("--tune", is_flag=True, help="Search schedules first (needs a GPU of the target).")
def command(
    specs: tuple[str, ...],
    targets: tuple[str, ...],
    settings: dict[str, Value],
    dtype: str,
    schedule: dict[str, str | int | bool],
    output: str,
    no_binary: bool,
    decode: bool,
    tune: bool,
) -> int:
    """Write readable Triton kernels for each SPEC and target.

    No GPU is needed: each kernel is also compiled for its target, and the registers, spills and
    shared memory that the compiler reports are printed. If anything fails, nothing is written. A
    kernel you take over (delete its [attngen:generated] line) is never overwritten.

    \b
    Examples:
      attngen compile examples/gemma2.attn
      attngen compile examples/*.attn --target sm_80 --target sm_90 -o kernels
      attngen compile examples/flash.attn --set D=64 --set Dv=64 --dtype f16 -o -
    """
    start = time.perf_counter()
    loaded = [load_spec(path, settings) for path in specs]
    built = _build_all(loaded, targets, dtype, schedule, decode, tune)
    said = _binaries(built) if not no_binary else [""] * len(built)
    if output == "-":
        say("\n".join(b.made.emitted.source.rstrip() + "\n" for b in built).rstrip())
        return 0
    _write(Path(output), built)
    _report(built, said, output)
    if len(built) > 1:
        say(faint(f"{len(built)} kernels in {seconds(time.perf_counter() - start)}"))
    return 0


def _build_all(
    specs: Sequence[Spec],
    targets: Sequence[str],
    dtype: str,
    schedule: dict[str, str | int | bool],
    decode: bool,
    tune: bool,
) -> list[Built]:
    from attngen.cli.building import build, resolve_targets

    work = [(spec, target) for spec in specs for target in resolve_targets(targets, spec)]
    return [
        build(spec, target, dtype, (_tuned(spec, target, dtype) if tune else {}) | schedule, decode)
        for spec, target in progress(work, "Generating")
    ]


def _tuned(spec: Spec, target: Target, dtype: str) -> dict[str, str | int | bool]:
    from attngen.cli.tuning import search

    return search(spec, target, dtype)


def _binaries(built: Sequence[Built]) -> list[str]:
    from attngen.cli.binaries import compile_binaries, describe

    return [describe(binaries) for binaries in compile_binaries(built)]


def _write(folder: Path, built: Sequence[Built]) -> None:
    from attngen.cli.writing import files_of, write_files

    write_files(folder, files_of(built))


def _report(built: Sequence[Built], said: Sequence[str], output: str) -> None:
    from attngen.cli.writing import kernel_path

    for spec in dict.fromkeys(b.spec.source for b in built):
        own = [(b, text) for b, text in zip(built, said, strict=True) if b.spec.source == spec]
        first = own[0][0]
        about = ", ".join(part for part in (first.dtype, first.spec.describe_sizes()) if part)
        say(f"{good('compiled')} {strong(first.name)}  {faint(about)}")
        for line in columns([[b.target.name, f"{output}/{kernel_path(b)}", t] for b, t in own]):
            say(line)

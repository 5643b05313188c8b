"""`attngen compile`: readable kernels in a folder, checked by the compiler of each target."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

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
@click.option("--tune", is_flag=True, help="Search schedules first (needs a GPU of the target).")
def command(
    specs: tuple[str, ...],
    targets: tuple[str, ...],
    settings: dict[str, Value],
    dtype: str,
    schedule: dict[str, str | int | bool],
    output: str,
    no_binary: bool,
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
    loaded = [load_spec(path, settings) for path in specs]
    work = [(spec, target) for spec in loaded for target in _targets(targets, spec)]
    files: dict[str, str] = {}
    rows: list[tuple[Spec, list[str]]] = []
    for spec, target in progress(work, "Compiling"):
        options = _tuned(spec, target, dtype) | schedule if tune else schedule
        kernel_files, row = _compile(spec, target, dtype, options, binary=not no_binary)
        files |= kernel_files
        rows.append((spec, row))
    if output == "-":
        say("\n".join(text for path, text in files.items() if path.endswith(".py")).rstrip())
        return 0
    _write(Path(output), files)
    _report(loaded, rows, dtype, output)
    return 0


def _targets(names: Sequence[str], spec: Spec) -> list[Target]:
    from attngen.cli.building import resolve_targets

    return resolve_targets(names, spec)


def _compile(
    spec: Spec, target: Target, dtype: str, options: dict[str, str | int | bool], binary: bool
) -> tuple[dict[str, str], list[str]]:
    """Files of one kernel and its row of the report."""
    from attngen.cli.building import build
    from attngen.cli.writing import files_of, kernel_path

    start = time.perf_counter()
    built = build(spec, target, dtype, options)
    said = ""
    if binary:
        from attngen.cli.binaries import report

        said = report(built.emitted, target)
    took = faint(seconds(time.perf_counter() - start))
    return files_of(built), [target.name, kernel_path(built), said, took]


def _tuned(spec: Spec, target: Target, dtype: str) -> dict[str, str | int | bool]:
    from attngen.cli.tuning import search

    return search(spec, target, dtype)


def _write(folder: Path, files: dict[str, str]) -> None:
    from attngen.cli.writing import write_files

    write_files(folder, files)


def _report(
    specs: Sequence[Spec], rows: Sequence[tuple[Spec, list[str]]], dtype: str, output: str
) -> None:
    for spec in specs:
        about = ", ".join(part for part in (dtype, spec.describe_sizes()) if part)
        say(f"{good('compiled')} {strong(spec.attention.name)}  {faint(about)}")
        own = [[t, f"{output}/{path}", *rest] for s, (t, path, *rest) in rows if s is spec]
        for line in columns(own):
            say(line)

"""`attngen regenerate`: the kernels that are checked in, as a product and as goldens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attngen.cli.console import bad, faint, good, progress, say
from attngen.cli.input import load_spec
from attngen.cli.mistake import InputError
from attngen.core.diagnostics import SpecError

if TYPE_CHECKING:
    from attngen.cli.building import Built

TARGET = "sm_90"
BACKENDS = ("triton", "cute")
NOT_BUILT = "E4"  # family of errors for what no backend compiles yet


@click.command(name="regenerate")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if a file would change.")
@click.option("--examples", metavar="DIR", default="examples", show_default=True)
@click.option("-o", "--output", metavar="DIR", default="generated", show_default=True)
def command(check: bool, examples: str, output: str) -> int:
    """Write the kernels of all examples that compile for sm_90 into generated/.

    \b
    Examples:
      attngen regenerate            after a change that is meant to change kernels
      attngen regenerate --check    what continuous integration asks
    """
    paths = sorted(Path(examples).glob("*.attn"))
    if not paths:
        raise InputError(f"no specs in {examples}", "run it in the root of the repository")
    files = golden_files(paths)
    folder = Path(output)
    changed = changed_files(folder, files)
    if check:
        for name in changed:
            say(f"{bad('differs')} {folder / name}")
        say(f"{len(files) - len(changed)} of {len(files)} files are current")
        return 1 if changed else 0
    from attngen.cli.writing import write_files

    write_files(folder, files)
    say(f"{good('written')} {len(changed)} of {len(files)} files changed in {folder}")
    return 0


def golden_files(paths: Sequence[Path]) -> dict[str, str]:
    """Kernels and manifests of the specs that compile, relative to the folder."""
    from attngen.cli.writing import files_of

    built: list[Built] = []
    for path in progress(paths, "Generating"):
        for backend in BACKENDS:
            try:
                built.append(build_golden(path, backend))
            except SpecError as error:
                if not all(d.code.startswith(NOT_BUILT) for d in error.diagnostics):
                    raise
                say(faint(f"skipped {path} ({backend}): {error.diagnostics[0].message}"))
    return files_of(built)


def build_golden(path: Path, backend: str = "triton") -> Built:
    """One example for the target of the goldens, everything else by default."""
    from attngen.cli.building import build
    from attngen.core.target import find_target

    return build(load_spec(str(path)), find_target(TARGET), "bf16", {"backend": backend})


def changed_files(folder: Path, files: dict[str, str]) -> list[str]:
    """Files that are missing or different on disk, and generated ones that no example makes."""
    different = [name for name, text in files.items() if read_text(folder / name) != text]
    there = [p.relative_to(folder).as_posix() for p in folder.glob(f"*/{TARGET}*/*")]
    return [*different, *sorted(name for name in there if name not in files)]


def read_text(path: Path) -> str | None:
    """The text of a file, or None if there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else None

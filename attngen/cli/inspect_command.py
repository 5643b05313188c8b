"""`attngen inspect`: what is inside a package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attngen.cli.console import bad, columns, faint, kibibytes, say, strong

if TYPE_CHECKING:
    from attngen.aot.inspection import Contents, Found


@click.command(name="inspect")
@click.argument("package", metavar="PACKAGE", type=click.Path(path_type=Path))
def command(package: Path) -> int:
    """List the kernels of PACKAGE (a wheel, or a folder) and what each binary needs.

    Registers, local memory and parameters are read from the binaries themselves. Exit status 1 if
    a binary is missing or is not the one that was built.

    \b
    Example:
      attngen inspect dist/acme_kernels-1.2.0-py3-none-any.whl
    """
    from attngen.aot.inspection import inspect

    contents = inspect(package)
    for line in _lines(contents):
        say(line)
    return 1 if any(f.damage for f in contents.found) else 0


def _lines(contents: Contents) -> Iterator[str]:
    manifest = contents.manifest
    tools = {k: v for k, v in manifest["toolchain"].items() if isinstance(v, str)}
    made = ", ".join(f"{name} {version}" for name, version in tools.items())
    yield f"{strong(manifest['package'])} {manifest['version']}  {faint(made)}"
    count, size = len(manifest["kernels"]), kibibytes(contents.size)
    yield f"{count} binaries, {contents.files} files, {size}"
    for name, spec in manifest["specs"].items():
        arguments = ", ".join(a["name"] for a in spec["arguments"])
        outputs = ", ".join(o["name"] for o in spec["outputs"])
        yield ""
        yield f"{strong(name)}({arguments}) -> {outputs}  {faint('sha256 ' + spec['sha256'][:16])}"
        own = [f for f in contents.found if f.spec == name]
        head = [
            "variant",
            "form",
            "target",
            "kernel",
            "backend",
            "registers",
            "spills",
            "shared",
            "size",
            "",
        ]
        yield from columns([head, *(_row(f) for f in own)])


def _row(found: Found) -> list[str]:
    entry, facts = found.entry, found.facts
    registers = str(facts.registers if facts else entry["registers"])
    spills = f"{entry['spills']} B" if entry["spills"] else "none"
    shared = max(entry["shared"], facts.shared if facts else 0)
    return [
        found.variant,
        found.form,
        found.target,
        found.kernel,
        entry["backend"],
        registers,
        bad(spills) if entry["spills"] else spills,
        kibibytes(shared),
        kibibytes(entry["bytes"]),
        bad(found.damage) if found.damage else "",
    ]

"""`attngen package`: kernels compiled ahead of time, as a wheel, for C++, or for a hub."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from attngen import __version__
from attngen.cli.console import columns, faint, good, kibibytes, say, seconds, steps, strong
from attngen.cli.input import HALF_DTYPES
from attngen.cli.mistake import InputError
from attngen.cli.options import specs_argument
from attngen.cli.packaging import Settings, parse_lists, parse_names

if TYPE_CHECKING:
    from attngen.aot.build import Built, Order
    from attngen.core.target import Target

FORMATS = ("wheel", "cpp", "hf-kernels")


@click.command(name="package")
@specs_argument
@click.option(
    "--targets",
    metavar="TARGET,...",
    callback=parse_names,
    default="sm_80,sm_90,sm_100",
    show_default=True,
    help="GPU architectures, such as sm_90 or gfx942; `all` for every one.",
)
@click.option(
    "--set",
    "settings",
    metavar="NAME=VALUE[,...]",
    multiple=True,
    callback=parse_lists,
    help="A parameter, or sizes of a feature axis, each of which is compiled (default 128).",
)
@click.option(
    "--dtypes",
    metavar="DTYPE,...",
    callback=parse_names,
    default="bf16,f16",
    show_default=True,
    help="What `half` stands for: bf16, f16, f32.",
)
@click.option("--name", required=True, metavar="NAME", help="Of the package: acme-kernels.")
@click.option("--version", default="0.1.0", show_default=True, help="Of the package (PEP 440).")
@click.option("--format", "formats", multiple=True, type=click.Choice(FORMATS), help="Repeatable.")
@click.option("--no-backward", is_flag=True, help="Only forward and decode kernels.")
@click.option(
    "--backend",
    type=click.Choice(["auto", "triton", "cute"]),
    default="auto",
    show_default=True,
    help="What makes the kernels: auto takes what `attngen.compile` would.",
)
@click.option("-o", "--output", metavar="DIR", default="dist", show_default=True)
def command(
    specs: tuple[str, ...],
    targets: list[str],
    settings: Settings,
    dtypes: list[str],
    name: str,
    version: str,
    formats: tuple[str, ...],
    no_backward: bool,
    backend: str,
    output: str,
) -> int:
    """Compile SPECs for several GPUs into a package that needs no compiler where it is used.

    No GPU is needed here. The wheel wants torch and the GPU's driver, nothing else; two builds of
    it are equal byte for byte. An interrupted build goes on where it was.

    \b
    Examples:
      attngen package examples/gemma2.attn --name acme-kernels --version 1.2.0
      attngen package examples/*.attn --targets sm_90 --set D=64,128 --name acme-kernels
      attngen package examples/flash.attn --name acme-kernels --format cpp -o dist
    """
    from attngen.cli.packaging import choices, write_formats

    start = time.perf_counter()
    order = _order(specs, targets, settings, dtypes, (name, version), not no_backward, backend)
    built = _build(order)
    written = write_formats(built, name, formats or ("wheel",), output)
    took = seconds(time.perf_counter() - start)
    count = len(built.manifest["kernels"])
    for path, size in written:
        say(f"{good('packaged')} {strong(path)}  {faint(kibibytes(size))}")
    say(faint(f"  {count} binaries in {took}"))
    for line in (*columns(_rows(built)), *columns(choices(built.backends))):
        say(line)
    for note in built.notes:
        say(f"  note: {note}")
    return 0


def _order(
    paths: Sequence[str],
    targets: Sequence[str],
    settings: Settings,
    dtypes: Sequence[str],
    named: tuple[str, str],
    backward: bool,
    backend: str,
) -> Order:
    from attngen.aot.build import Order
    from attngen.aot.names import module_name, require_functions, require_version
    from attngen.cli.packaging import load_all

    module, version = module_name(named[0]), require_version(named[1])
    unknown = [d for d in dtypes if d not in HALF_DTYPES]
    if unknown or not dtypes:
        raise InputError(f"{', '.join(unknown) or 'nothing'} is no dtype", "--dtypes bf16,f16")
    chosen = _targets(targets)
    specs, sizes = load_all(paths, settings)
    require_functions(spec.attention.name for spec in specs)
    halves = [HALF_DTYPES[d] for d in dict.fromkeys(dtypes)]
    return Order(module, version, specs, sizes, halves, chosen, backward, __version__, backend)


def _targets(names: Sequence[str]) -> list[Target]:
    from attngen.core.target import TARGETS, find_target

    if "all" in names:
        return [t for t in TARGETS if t.family != "interpreter"]
    found = [find_target(name) for name in dict.fromkeys(names)]
    if not found or any(t.family == "interpreter" for t in found):
        raise InputError("a package is for GPUs", "--targets sm_80,sm_90")
    return found


def _build(order: Order) -> Built:
    from contextlib import ExitStack

    from attngen.aot.build import build
    from attngen.runtime.cache import Cache

    with ExitStack() as stack:
        return build(
            order, Cache(), lambda count: stack.enter_context(steps(count, "Compiling kernels"))
        )


def _rows(built: Built) -> list[list[str]]:
    kernels = built.manifest["kernels"].values()
    rows = []
    for arch in sorted({k["arch"] for k in kernels}):
        own = [k for k in kernels if k["arch"] == arch]
        size = sum({k["file"]: k["bytes"] for k in own}.values())  # a file may hold several
        spilled = sum(k["spills"] > 0 for k in own)
        rows.append([arch, f"{len(own)} binaries", kibibytes(size), f"{spilled} with spills"])
    return rows

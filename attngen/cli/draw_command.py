"""`attngen draw`: a picture of the mask and of the tiles the kernel visits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from attngen.cli.console import faint, good, say, working
from attngen.cli.input import Value, load_spec, with_sizes
from attngen.cli.mistake import InputError
from attngen.cli.options import (
    dtype_option,
    seed_option,
    set_option,
    size_option,
    spec_argument,
)

if TYPE_CHECKING:
    from attngen.cli.picture import Picture

LONGEST = 4096  # positions of a side


@click.command(name="draw")
@spec_argument
@click.option(
    "-o", "--output", metavar="FILE", default="mask.png", show_default=True, help="PNG, SVG or PDF."
)
@set_option
@size_option
@dtype_option
@seed_option
@click.option("--head", type=int, default=0, show_default=True, help="Head to draw.")
@click.option("--tile", type=(int, int), default=(64, 64), metavar="Q K", help="Tile size.")
def command(
    spec: str,
    output: str,
    settings: dict[str, Value],
    sizes: dict[str, int],
    dtype: str,
    seed: int,
    head: int,
    tile: tuple[int, int],
) -> int:
    """Draw the mask of SPEC with its skipped, partial and full tiles.

    Lengths default to 512. Inputs that the mask reads (ids, windows) are drawn from --seed.

    \b
    Examples:
      attngen draw examples/gemma2.attn --set window=200
      attngen draw examples/alibi_documents.attn --size S=1024 -o documents.svg
    """
    if Path(output).suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"cannot draw into {output}", "end the name in .png, .svg or .pdf")
    from attngen.cli.picture import classify, paint

    with working("Drawing"):
        loaded = with_sizes(load_spec(spec, settings), sizes)
        picture = classify(loaded, sizes, dtype, seed, head, tile)
        paint(picture, Path(output))
    say(f"{good('drawn')} {output}  {faint(describe(picture))}")
    return 0


def describe(picture: Picture) -> str:
    """`64 tiles: 28 skipped, 8 partial, 28 full; 50.2% of the pairs kept`."""
    counts = picture.counts()
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"{sum(counts.values())} tiles: {told}; {picture.kept:.1%} of the pairs kept"

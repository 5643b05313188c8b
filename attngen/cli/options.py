"""Options that several commands share, so that they read and behave alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from attngen.cli.input import HALF_DTYPES, parse_schedule, parse_settings, parse_sizes

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

spec_argument: Decorator = click.argument("spec", metavar="SPEC", type=str)
specs_argument: Decorator = click.argument("specs", metavar="SPEC...", nargs=-1, required=True)

set_option: Decorator = click.option(
    "--set",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    callback=parse_settings,
    help="A parameter of the spec, or the size of a feature axis (default 128). Repeatable.",
)
size_option: Decorator = click.option(
    "--size",
    "sizes",
    metavar="AXIS=LENGTH",
    multiple=True,
    callback=parse_sizes,
    help="Length of an axis, for example Sq=2048. Repeatable.",
)
dtype_option: Decorator = click.option(
    "--dtype",
    type=click.Choice(list(HALF_DTYPES)),
    default="bf16",
    show_default=True,
    help="What `half` stands for.",
)
trial_dtype_option: Decorator = click.option(
    "--dtype",
    type=click.Choice(list(HALF_DTYPES)),
    help="What `half` stands for. Default: bf16 on a GPU, f16 in the interpreter.",
)
schedule_option: Decorator = click.option(
    "--schedule",
    metavar="KEY=VALUE,...",
    callback=parse_schedule,
    help="Fix points of the schedule, for example block_q=128,warps=4.",
)
seed_option: Decorator = click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the random inputs."
)


def target_option(multiple: bool) -> Decorator:
    """`--target sm_90`; without it the GPU of this machine, else sm_90."""
    return click.option(
        "--target",
        "targets" if multiple else "target",
        metavar="TARGET",
        multiple=multiple,
        default=() if multiple else None,
        help="GPU architecture, such as sm_90 or gfx942"
        + ("; repeatable; `all` for every one. " if multiple else ". ")
        + "Default: the spec's own, else sm_90.",
    )

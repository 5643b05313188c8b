"""`attngen explain`: what the compiler understood and decided."""

from __future__ import annotations

import click

from attngen.cli.console import say
from attngen.cli.input import Value, load_spec, with_sizes
from attngen.cli.options import (
    dtype_option,
    schedule_option,
    set_option,
    size_option,
    spec_argument,
    target_option,
)


@click.command(name="explain")
@spec_argument
@target_option(multiple=False)
@set_option
@size_option
@dtype_option
@schedule_option
def command(
    spec: str,
    target: str | None,
    settings: dict[str, Value],
    sizes: dict[str, int],
    dtype: str,
    schedule: dict[str, str | int | bool],
) -> int:
    """Say what the compiler made of SPEC.

    The formula in canonical form, what is accumulated over the keys, the mask in words, the loop
    bounds as formulas, the schedule, and the work predicted for the given lengths.

    \b
    Examples:
      attngen explain examples/gemma2.attn
      attngen explain examples/gemma2.attn --target gfx942 --size Sq=8192,Skv=8192
    """
    from attngen.cli.building import build, resolve_targets
    from attngen.runtime.backward_backend import backward_notes
    from attngen.runtime.report import explain

    loaded = with_sizes(load_spec(spec, settings), sizes)
    chosen = resolve_targets([target] if target else [], loaded)[0]
    made = build(loaded, chosen, dtype, schedule).made
    lengths = {**dict(made.request.sizes), **sizes}
    notes = backward_notes(made)
    say(explain(made.program, made.schedule, chosen, lengths, notes, made.reason))
    return 0

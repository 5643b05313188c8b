"""`attngen check`: the errors of specs, nothing else. Imports no GPU library, answers at once."""

from __future__ import annotations

import click

from attngen.cli.console import columns, good, say
from attngen.cli.input import load_spec
from attngen.cli.mistake import InputError
from attngen.cli.options import specs_argument
from attngen.core.diagnostics import AttngenError
from attngen.ir.attention import Attention
from attngen.ir.recurrence import Recurrence


@click.command(name="check")
@specs_argument
def command(specs: tuple[str, ...]) -> int:
    """Say what is wrong with each SPEC, or that nothing is.

    \b
    Examples:
      attngen check examples/gemma2.attn
      attngen check examples/*.attn

    Exit status 2 if any spec has an error.
    """
    passed: list[tuple[str, str, str]] = []
    failures: list[str] = []
    for path in specs:
        try:
            passed.append((good("ok"), path, summary(load_spec(path).program)))
        except AttngenError as error:
            failures.append(error.render())
        except InputError as error:
            failures.append(error.format_message())
    for line in columns(passed, indent=""):
        say(line)
    if failures:
        click.echo("\n\n".join(failures), err=True)
    return 2 if failures else 0


def summary(program: Attention | Recurrence) -> str:
    """`attention gemma2(q, k, v) -> out`."""
    form = "attention" if isinstance(program, Attention) else "recurrence"
    inputs = ", ".join(t.name for t in program.tensors if t.view is None)
    outputs = ", ".join(output[0] for output in program.outputs)
    return f"{form} {program.name}({inputs}) -> {outputs}"

"""The top-level command: a list of names that costs nothing until one is used."""

from __future__ import annotations

import importlib

import click

from attngen import __version__

# (heading, ((name, what it does), ...)), in the order of `--help`
COMMANDS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Write a spec and use it",
        (
            ("check", "Say what is wrong with a spec, or that nothing is."),
            ("compile", "Write readable kernels for one or more GPUs."),
            ("run", "Run on random inputs and compare with the reference."),
        ),
    ),
    (
        "Look closer",
        (
            ("explain", "What the compiler made of a spec, in words and formulas."),
            ("draw", "Picture of the mask with skipped, partial and full tiles."),
            ("bench", "Time a kernel on this GPU."),
            ("tune", "Search schedules on this GPU and remember the best."),
        ),
    ),
    (
        "Ship it",
        (
            ("package", "Kernels compiled ahead of time: a wheel that needs only torch."),
            ("inspect", "What is inside a package."),
        ),
    ),
    (
        "Work on attngen",
        (
            ("fuzz", "Random specs against the reference; replays and shrinks failures."),
            ("regenerate", "Rewrite the checked-in kernels, or check that they are current."),
        ),
    ),
)

HIDDEN = ("demo",)  # `make demo`

EPILOG = """
\b
Examples:
  attngen check examples/gemma2.attn
  attngen compile examples/gemma2.attn --target sm_90 --set D=128 -o kernels
  attngen run examples/gemma2.attn --size Sq=2048 --size Skv=2048
  attngen explain examples/gemma2.attn

Exit status: 0 done, 1 a kernel gave a wrong result, 2 the input cannot be used.
"""


class LazyGroup(click.Group):
    """Finds `attngen.cli.<name>_command.command` when it is first needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the help text."""
        return [name for _, commands in COMMANDS for name, _ in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if cmd_name not in (*self.list_commands(ctx), *HIDDEN):
            return None
        module = importlib.import_module(f"attngen.cli.{cmd_name}_command")
        command = module.command
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands by what one wants to do, without importing them."""
        for heading, commands in COMMANDS:
            with formatter.section(heading):
                formatter.write_dl(list(commands))


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="attngen %(version)s")
def application() -> None:
    """Turn an attention formula into a GPU kernel you can read.

    A spec (.attn) says what attention computes; attngen finds the one-pass form, the loop bounds
    and the schedule, writes a Triton kernel, runs it and checks it against a float64 reference.
    """

"""The command line. Each command is one module, imported only when it is asked for.

Exit statuses: 0 done, 1 a kernel gave a wrong result, 2 the input cannot be used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from attngen.cli.group import application
from attngen.cli.mistake import InputError
from attngen.core.diagnostics import AttngenError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and exits; a user's mistake is printed, never a traceback."""
    sys.exit(_status(arguments))


def _status(arguments: Sequence[str] | None) -> int:
    try:
        status = application.main(
            args=None if arguments is None else list(arguments),
            prog_name="attngen",
            standalone_mode=False,
        )
    except AttngenError as error:
        return _fail(error.render())
    except InputError as error:
        return _fail(error.format_message())
    except click.ClickException as error:
        error.show()
        return 2
    except OSError as error:
        return _fail(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "))
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    return status if isinstance(status, int) else 0


def _fail(message: str) -> int:
    click.echo(message, err=True)
    return 2

"""A mistake on the command line, as opposed to one in a spec."""

from __future__ import annotations

import click


class InputError(click.ClickException):
    """Something typed on the command line cannot be used (exit status 2)."""

    exit_code = 2

    def __init__(self, message: str, help_line: str = "") -> None:
        super().__init__(message)
        self.help_line = help_line

    def format_message(self) -> str:
        """Same look as the errors of the compiler."""
        help_line = f"\n = help: {self.help_line}" if self.help_line else ""
        return f"error: {self.message}{help_line}"

"""What is printed: plain lines to standard output, progress to standard error.

rich is imported only when a person is looking (standard error is a terminal).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import click

Item = TypeVar("Item")


def say(text: str = "") -> None:
    """One line for the user."""
    click.echo(text)


def good(text: str) -> str:
    """Green on a terminal."""
    return click.style(text, fg="green")


def bad(text: str) -> str:
    """Red on a terminal."""
    return click.style(text, fg="red", bold=True)


def faint(text: str) -> str:
    """Less important on a terminal."""
    return click.style(text, dim=True)


def strong(text: str) -> str:
    """Bold on a terminal."""
    return click.style(text, bold=True)


def columns(rows: Sequence[Sequence[str]], indent: str = "  ") -> Iterator[str]:
    """Rows aligned to the widest cell of each column; styles do not count."""
    if not rows:
        return
    widths = [max(len(click.unstyle(row[i])) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [c + " " * (w - len(click.unstyle(c))) for c, w in zip(row, widths, strict=True)]
        yield (indent + "  ".join(cells)).rstrip()


def progress(items: Sequence[Item], label: str) -> Iterator[Item]:
    """The items, with a bar that goes away when they are done."""
    if not sys.stderr.isatty() or len(items) < 2:
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description=label, console=Console(stderr=True), transient=True)


def spinner(items: Iterable[Item], label: str) -> Iterator[Item]:
    """The items, with a sign of life while each is made."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console

    with Console(stderr=True).status(label):
        yield from items


def seconds(value: float) -> str:
    """A duration a person can read: `18.3 us`, `0.52 ms`, `1.4 s`."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-6:.3g} us"


def kibibytes(value: int) -> str:
    """`48 KiB`."""
    return f"{value / 1024:.3g} KiB"

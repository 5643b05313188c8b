"""What is printed: plain lines to standard output, progress to standard error.

rich is imported only when a person is looking (standard error is a terminal).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    with steps(len(items), label) as advance:
        for item in items:
            yield item
            advance()


@contextmanager
def steps(count: int, label: str) -> Iterator[Callable[[], None]]:
    """A bar that moves when the given function is called, from any thread."""
    if not sys.stderr.isatty() or count < 1:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=count)
        yield lambda: bar.advance(task)


@contextmanager
def working(label: str) -> Iterator[None]:
    """A sign of life around something slow whose length is not known."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(label):
        yield


def seconds(value: float) -> str:
    """A duration a person can read: `18.3 us`, `0.52 ms`, `1.4 s`."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-6:.3g} us"


def kibibytes(value: int) -> str:
    """`48 KiB`."""
    return f"{value / 1024:.3g} KiB"

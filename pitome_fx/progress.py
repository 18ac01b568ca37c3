"""What is going on, on the error output of a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Say(Protocol):
    """Says what is going on, and how much of it is done."""

    def __call__(self, what: str, done: int = 0, of: int | None = None) -> None: ...


_SHOWN: ContextVar[Progress | None] = ContextVar("pitome_fx.progress", default=None)
"""What is on the screen: whoever says something meanwhile gets a line of it."""


@contextmanager
def saying(wanted: bool = True) -> Iterator[Say]:
    """Show a line that says what is going on, for as long as something does.

    Args:
        wanted: show anything; nothing is shown where the error output is no terminal.
    """
    present = _SHOWN.get()
    if present is not None:
        with _line(present) as say:
            yield say
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    shown = wanted and sys.stderr.isatty()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        token = _SHOWN.set(bar)
        try:
            with _line(bar) as say:
                yield say
        finally:
            _SHOWN.reset(token)


@contextmanager
def _line(bar: Progress) -> Iterator[Say]:
    task = bar.add_task("", total=None)

    def say(what: str, done: int = 0, of: int | None = None) -> None:
        bar.update(task, description=what, completed=done, total=of)

    try:
        yield say
    finally:
        bar.remove_task(task)

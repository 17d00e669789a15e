"""How stages tell what they are doing, without printing.

A stage writes `with track("embedding", total=n, unit="images") as step: step(32)`.  Nothing is
shown until somebody installs a reporter (`reporting(...)`); the command line installs one that
draws bars on a terminal and stays quiet in a pipe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

    from .results import Table

Step = Callable[..., None]
"""`step(n=1, note="")`: `n` more units are done; `note` replaces the text beside the bar."""


class Reporter(Protocol):
    """Receives progress: `start` returns the step function and a function that ends the task."""

    def start(
        self, task: str, total: int | None, unit: str, done: int
    ) -> tuple[Step, Callable[[], None]]:
        """Begin a task of `total` units (None: unknown), `done` of them by an earlier run."""

    def message(self, text: str) -> None:
        """Show one line that a person wants to see now, such as where a cache lies."""

    def table(self, table: Table) -> None:
        """Show a table that a person wants to see now, such as a plan."""

    def screen(self) -> Console | None:
        """A terminal on which something that changes may be drawn; None: there is none."""


class Silent:
    """The default reporter: says nothing."""

    def start(
        self, task: str, total: int | None, unit: str, done: int
    ) -> tuple[Step, Callable[[], None]]:
        """See `Reporter.start`."""
        return (lambda n=1, note="": None), (lambda: None)

    def message(self, text: str) -> None:
        """See `Reporter.message`."""

    def table(self, table: Table) -> None:
        """See `Reporter.table`."""

    def screen(self) -> Console | None:
        """See `Reporter.screen`."""
        return None


_reporter: ContextVar[Reporter] = ContextVar("clipdistill_reporter", default=Silent())


@contextlib.contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Send the progress of everything called inside to `reporter`."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


@contextlib.contextmanager
def track(task: str, total: int | None, unit: str, done: int = 0) -> Iterator[Step]:
    """Report a task of `total` `unit`s, `done` by an earlier run; yields the step function."""
    step, end = _reporter.get().start(task, total, unit, done)
    try:
        yield step
    finally:
        end()


def message(text: str) -> None:
    """Tell the user one line while the stage goes on."""
    _reporter.get().message(text)


def show_table(table: Table) -> None:
    """Show the user a table while the stage goes on."""
    _reporter.get().table(table)


def screen() -> Console | None:
    """A terminal on which something that changes may be drawn; None: say it with `message`."""
    return _reporter.get().screen()

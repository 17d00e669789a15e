"""How verbs report progress without printing.

A verb writes `with track("embedding", total=n, unit="images") as step: step(32)`.  What is shown
depends on the installed reporter: the command line's (`console`), one for scripts and notebooks
(`reporters`), or none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

    from .results import Table

Step = Callable[..., None]
"""`step(n=1, note="")` counts `n` finished units; `note` replaces the text beside the bar."""


class Reporter(Protocol):
    """Receives progress: `start` returns the step function and a function that ends the task."""

    def start(
        self, task: str, total: int | None, unit: str, done: int
    ) -> tuple[Step, Callable[[], None]]:
        """Begin a task of `total` units (None: unknown); an earlier run finished `done` of them."""

    def message(self, text: str) -> None:
        """Show one line at once, such as the path of a cache."""

    def table(self, table: Table) -> None:
        """Show a table at once, such as a plan."""

    def screen(self) -> Console | None:
        """Return the terminal for output that changes in place; None: there is none."""


class Silent:
    """Shows nothing."""

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


_reporter: ContextVar[Reporter | None] = ContextVar("clipdistill_reporter", default=None)
_SILENT = Silent()


def install(reporter: Reporter) -> Token[Reporter | None]:
    """Send progress to `reporter` from now on; the token is for `restore`."""
    return _reporter.set(reporter)


def restore(token: Token[Reporter | None]) -> None:
    """Undo an `install`."""
    _reporter.reset(token)


def chosen() -> bool:
    """Whether a reporter is installed."""
    return _reporter.get() is not None


def _current() -> Reporter:
    return _reporter.get() or _SILENT


@contextlib.contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Send the progress of everything called inside to `reporter`."""
    token = install(reporter)
    try:
        yield
    finally:
        restore(token)


@contextlib.contextmanager
def track(task: str, total: int | None, unit: str, done: int = 0) -> Iterator[Step]:
    """Report a task of `total` `unit`s, `done` by an earlier run; yield the step function."""
    step, end = _current().start(task, total, unit, done)
    try:
        yield step
    finally:
        end()


def message(text: str) -> None:
    """Show one line while the verb runs."""
    _current().message(text)


def show_table(table: Table) -> None:
    """Show a table while the verb runs."""
    _current().table(table)


def screen() -> Console | None:
    """Return the terminal for output that changes in place; None: use `message`."""
    return _current().screen()

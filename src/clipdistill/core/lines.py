"""Progress as plain lines on stderr: the state of a task, and a reporter that writes it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .progress import Step
from .wording import clock, drawn, escaped, rate

if TYPE_CHECKING:
    from rich.console import Console

    from .results import Table

PATIENCE = 2.0
"""Seconds before a task is shown; shorter tasks are not shown."""
EVERY = 10.0
"""Seconds between two lines of a task."""


class Task:
    """The state of a task: `done` of `total` units, of which an earlier run finished `before`."""

    def __init__(self, name: str, total: int | None, unit: str, before: int) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.before = self.done = before
        self.note = ""
        self.start = time.monotonic()

    def advance(self, n: int, note: str) -> None:
        """Count `n` finished units; `note` replaces the text at the end."""
        self.done += n
        self.note = note or self.note

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    def _rate(self) -> float:
        return (self.done - self.before) / max(self.seconds, 1e-9)

    def status(self) -> str:
        """Describe a running task: "320/9500, 297 images/s, 0:01, 0:31 left, 2 failed"."""
        parts = [f"{self.done}/{self.total}" if self.total is not None else f"{self.done}"]
        moved = self.done > self.before
        if moved:
            parts.append(f"{rate(self._rate())} {self.unit}/s")
        parts.append(clock(self.seconds))
        if moved and self.total is not None:
            parts.append(f"{clock((self.total - self.done) / self._rate())} left")
        return ", ".join([*parts, self.note] if self.note else parts)

    def finished(self) -> str:
        """Describe a finished task: "embedding: 9500 images in 0:32, 297 images/s"."""
        count = self.done - self.before
        unit = self.unit.removesuffix("s") if count == 1 else self.unit
        text = (
            f"{self.name}: {count} {unit} in {clock(self.seconds)}, "
            f"{rate(self._rate())} {self.unit}/s"
        )
        return f"{text}, {self.note}" if self.note else text


class PlainReporter:
    """Writes a line on stderr after `PATIENCE`, then every `EVERY` seconds, and one at the end."""

    def start(
        self, task: str, total: int | None, unit: str, done: int
    ) -> tuple[Step, Callable[[], None]]:
        """See `progress.Reporter.start`."""
        state = Task(task, total, unit, done)
        due = PATIENCE

        def step(n: int = 1, note: str = "") -> None:
            nonlocal due
            state.advance(n, note)
            if state.seconds >= due:
                self.message(escaped(f"{task}: {state.status()}"))
                due = state.seconds + EVERY

        def end() -> None:
            if state.seconds >= PATIENCE:
                self.message(escaped(state.finished()))

        return step, end

    def message(self, text: str) -> None:
        """See `progress.Reporter.message`."""
        print(drawn(text), file=sys.stderr, flush=True)

    def table(self, table: Table) -> None:
        """See `progress.Reporter.table`."""
        self.message(table.text())

    def screen(self) -> Console | None:
        """See `progress.Reporter.screen`."""
        return None

"""Drawing on the terminal with rich: results on stdout, progress and errors on stderr.

rich itself is imported when something is drawn.  It leaves colours and bars away in pipes, and
colours when NO_COLOR is set.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .progress import Silent, Step

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from .results import Table

PATIENCE = 2.0
"""Seconds before a task gets a bar: nobody needs one for less."""


def show(parts: Sequence[str | Table]) -> None:
    """Print a result's summary to stdout."""
    console = _console(stderr=False)
    for part in parts:
        if isinstance(part, str):
            _print_line(console, part)
        else:
            console.print(_drawn(part))


def show_error(text: str, label: str = "error: ") -> None:
    """Print an error to stderr."""
    from rich.text import Text

    console = _console(stderr=True)
    console.print(Text.assemble((label, "bold red"), text), soft_wrap=True)


class ConsoleReporter:
    """Draws a bar for every task that takes longer than `PATIENCE`, on stderr.

    Args:
        bars: draw them at all; they are never drawn where stderr is not a terminal.
    """

    def __init__(self, *, bars: bool = True) -> None:
        self._bars = _Bars() if bars and sys.stderr.isatty() else None

    def start(
        self, task: str, total: int | None, unit: str, done: int
    ) -> tuple[Step, Callable[[], None]]:
        """See `progress.Reporter.start`."""
        if self._bars is None:
            return Silent().start(task, total, unit, done)
        bar = _Bar(self._bars, task, total, unit, done)
        return bar.step, bar.end

    def message(self, text: str) -> None:
        """See `progress.Reporter.message`."""
        _print_line(self._console(), text)

    def table(self, table: Table) -> None:
        """See `progress.Reporter.table`."""
        self._console().print(_drawn(table))

    def screen(self) -> Console | None:
        """See `progress.Reporter.screen`."""
        return self._bars.progress.console if self._bars else None

    def _console(self) -> Console:
        return self.screen() or _console(stderr=True)


class _Bars:
    """The bars that are visible; alive on the screen only while there are any."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self.lock = threading.RLock()
        self.visible = 0
        self.progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=14, table_column=Column(min_width=7)),
            # What does not fit is cut off here, at the note.
            TextColumn(
                "{task.fields[status]}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis"),
            ),
            console=_console(stderr=True),
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
        )

    def show(self) -> None:
        """One more bar is visible."""
        self.visible += 1
        if self.visible == 1:
            self.progress.start()

    def hide(self) -> None:
        """One bar less is visible."""
        self.visible -= 1
        if self.visible == 0:
            self.progress.stop()


class _Bar:
    """One task: invisible at first, a bar after `PATIENCE`, one line when it has ended."""

    def __init__(self, bars: _Bars, name: str, total: int | None, unit: str, before: int) -> None:
        self.bars, self.name, self.total, self.unit = bars, name, total, unit
        self.before = self.done = before
        self.note, self.shown = "", False
        self.start = time.monotonic()
        self.id = bars.progress.add_task(name, total=total, visible=False, status="")
        self.timer = threading.Timer(PATIENCE, self._show)
        self.timer.daemon = True
        self.timer.start()

    def step(self, n: int = 1, note: str = "") -> None:
        """`n` more units are done; `note` replaces the text beside the bar."""
        with self.bars.lock:
            self.done += n
            self.note = note or self.note
            self._update()

    def end(self) -> None:
        """The task is over: its bar goes, a line stays."""
        self.timer.cancel()
        with self.bars.lock:
            self.bars.progress.remove_task(self.id)
            if self.shown:
                _print_line(self.bars.progress.console, f"{self.name}: {self._finished()}")
                self.bars.hide()
            self.timer.finished.set()

    def _show(self) -> None:
        with self.bars.lock:
            if not self.timer.finished.is_set():
                self.shown = True
                self._update(visible=True)
                self.bars.show()

    def _update(self, **more: Any) -> None:
        self.bars.progress.update(self.id, completed=self.done, status=self._status(), **more)

    def _rate(self) -> float:
        return (self.done - self.before) / max(time.monotonic() - self.start, 1e-9)

    def _status(self) -> str:
        """Such as "320/9500, 297 images/s, 0:01, 0:31 left, 2 failed"."""
        parts = [f"{self.done}/{self.total}" if self.total is not None else f"{self.done}"]
        moved = self.done > self.before
        if moved:
            parts.append(f"{_figure(self._rate())} {self.unit}/s")
        parts.append(_clock(time.monotonic() - self.start))
        if moved and self.total is not None:
            parts.append(f"{_clock((self.total - self.done) / self._rate())} left")
        return ", ".join([*parts, self.note] if self.note else parts)

    def _finished(self) -> str:
        time_taken = _clock(time.monotonic() - self.start)
        rate = f"{_figure(self._rate())} {self.unit}/s"
        text = f"{self.done - self.before} {self.unit} in {time_taken}, {rate}"
        return f"{text}, {self.note}" if self.note else text


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def _print_line(console: Console, text: str) -> None:
    # Paths and messages are left unbroken, so that they can be copied.
    console.print(text, soft_wrap=True)


def _drawn(table: Table) -> Any:
    """A rich table; cells are wrapped, never cut off."""
    import rich.table
    from rich import box
    from rich.text import Text

    drawn = rich.table.Table(
        title=Text(table.title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD
    )
    for column in table.columns:
        right = column.startswith(">")
        drawn.add_column(
            Text(column.removeprefix(">")), justify="right" if right else "left", overflow="fold"
        )
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    return drawn


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _clock(seconds: float) -> str:
    """Seconds as "1:02:03" or "2:03"."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"

"""Drawing on the terminal with rich: results on stdout, progress and errors on stderr.

rich itself is imported when something is drawn.  In pipes it draws neither colours nor bars; with
NO_COLOR set it draws no colours.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .lines import PATIENCE, PlainReporter, Task
from .progress import Step
from .wording import drawn, escaped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from .results import Table


def show(parts: Sequence[str | Table]) -> None:
    """Print a result's summary to stdout; in a pipe no cell of a table is wrapped."""
    console = _console(stderr=False)
    for part in parts:
        if isinstance(part, str):
            _print_line(console, part)
        elif console.is_terminal:
            console.print(_drawn(part))
        else:
            _print_line(console, part.text())


def show_error(text: str, label: str = "error: ") -> None:
    """Print an error to stderr."""
    from rich.text import Text

    console = _console(stderr=True)
    console.print(Text.assemble((label, "bold red"), drawn(text)), soft_wrap=True)


class ConsoleReporter:
    """Draws a bar on stderr for every task that takes longer than `PATIENCE`.

    Where stderr is not a terminal, or without `bars`, it writes lines instead.  `reword` changes
    the words of messages.
    """

    def __init__(self, *, bars: bool = True, reword: Callable[[str], str] = str) -> None:
        self._reword = reword
        self._bars = _Bars() if bars and sys.stderr.isatty() else None
        self._lines = PlainReporter()

    def start(
        self, task: str, total: int | None, unit: str, done: int
    ) -> tuple[Step, Callable[[], None]]:
        """See `progress.Reporter.start`."""
        if self._bars is None:
            return self._lines.start(task, total, unit, done)
        bar = _Bar(self._bars, Task(task, total, unit, done))
        return bar.step, bar.end

    def message(self, text: str) -> None:
        """See `progress.Reporter.message`."""
        _print_line(self._console(), self._reword(text))

    def table(self, table: Table) -> None:
        """See `progress.Reporter.table`."""
        if self._bars is None:
            self._lines.table(table)
        else:
            self._console().print(_drawn(table))

    def screen(self) -> Console | None:
        """See `progress.Reporter.screen`."""
        return self._bars.progress.console if self._bars else None

    def _console(self) -> Console:
        return self.screen() or _console(stderr=True)


class _Bars:
    """The visible bars; rich's display runs only while there are any."""

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
        """Count one more visible bar; the first starts the display."""
        self.visible += 1
        if self.visible == 1:
            self.progress.start()

    def hide(self) -> None:
        """Count one visible bar less; the last stops the display."""
        self.visible -= 1
        if self.visible == 0:
            self.progress.stop()


class _Bar:
    """One task: invisible at first, a bar after `PATIENCE`, one line at its end."""

    def __init__(self, bars: _Bars, task: Task) -> None:
        self.bars, self.task, self.shown = bars, task, False
        name = escaped(task.name)
        self.id = bars.progress.add_task(name, total=task.total, visible=False, status="")
        self.timer = threading.Timer(PATIENCE, self._show)
        self.timer.daemon = True
        self.timer.start()

    def step(self, n: int = 1, note: str = "") -> None:
        """Count `n` finished units; `note` replaces the text beside the bar."""
        with self.bars.lock:
            self.task.advance(n, note)
            self._update()

    def end(self) -> None:
        """Replace the bar by a line."""
        self.timer.cancel()
        with self.bars.lock:
            self.bars.progress.remove_task(self.id)
            if self.shown:
                _print_line(self.bars.progress.console, escaped(self.task.finished()))
                self.bars.hide()
            self.timer.finished.set()

    def _show(self) -> None:
        with self.bars.lock:
            if not self.timer.finished.is_set():
                self.shown = True
                self._update(visible=True)
                self.bars.show()

    def _update(self, **more: Any) -> None:
        self.bars.progress.update(
            self.id, completed=self.task.done, status=escaped(self.task.status()), **more
        )


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def _print_line(console: Console, text: str) -> None:
    # Paths and messages are left unbroken, so that they can be copied.
    console.print(drawn(text), soft_wrap=True)


def _drawn(table: Table) -> Any:
    """Convert a table to rich's; cells are wrapped, never cut off."""
    import rich.table
    from rich import box
    from rich.text import Text

    result = rich.table.Table(
        title=Text(escaped(table.title), style="bold"), title_justify="left", box=box.SIMPLE_HEAD
    )
    for column, head in zip(table.columns, table.heads, strict=True):
        right = column.startswith(">")
        result.add_column(Text(head), justify="right" if right else "left", overflow="fold")
    for row in table.cells:
        result.add_row(*(Text(cell) for cell in row))
    return result

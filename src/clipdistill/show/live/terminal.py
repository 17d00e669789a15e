"""The prediction in the terminal: a live display, or one plain line per second."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...core.progress import message
from ...core.wording import UNKNOWN, escaped, percent
from .answer import Prediction
from .loop import Seen, Speed, Status

REFRESH = 0.2
"""Seconds between two drawings; more would not be readable and would slow down the model."""
LINE = 1.0
"""Seconds between two plain lines."""


class Terminal:
    """A live display of label, bars, speed, source and model.

    Args:
        console: console to draw on.
        clock: monotonic clock in seconds.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._clock, self._drawn = clock, float("-inf")
        self._prediction: Prediction | None = None
        self._started = False

    def show(self, seen: Seen) -> None:
        """See `View.show`."""
        self._prediction = seen.prediction

    def tick(self, status: Status) -> bool:
        """See `View.tick`."""
        now = self._clock()
        if now - self._drawn >= REFRESH:
            if not self._started:
                self._live.start()
                self._started = True
            self._drawn = now
            self._live.update(display(self._prediction, status), refresh=True)
        return True

    def close(self) -> None:
        """See `View.close`."""
        if self._started:
            self._live.stop()


class PlainLines:
    """One line per second for pipes, logs and --debug, and one for each problem."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._written = clock, float("-inf")
        self._note = ""
        self._prediction: Prediction | None = None

    def show(self, seen: Seen) -> None:
        """See `View.show`."""
        self._prediction = seen.prediction

    def tick(self, status: Status) -> bool:
        """See `View.tick`."""
        if status.note != self._note:
            self._note = status.note
            if status.note:
                message(status.note)
        now = self._clock()
        if self._prediction is not None and now - self._written >= LINE:
            self._written = now
            message(line(self._prediction, status))
            self._prediction = None  # written once
        return True

    def close(self) -> None:
        """See `View.close`."""


def line(prediction: Prediction, status: Status) -> str:
    """Format a status line: "12.0 s  dog 93%  30.1 frames/s  4.2 ms  3 dropped"."""
    parts = [f"{status.seconds:.1f} s", escaped(prediction.headline), *_speed(status.speed)]
    return "  ".join([*parts, *_lost(status)])


def display(prediction: Prediction | None, status: Status) -> RenderableType:
    """Compose the live display, as wide as the terminal."""
    parts: list[RenderableType] = []
    if prediction is None:
        parts.append(Text(escaped(f"waiting for {status.source} ..."), style="bold"))
    else:
        style = "bold yellow" if prediction.label == UNKNOWN else "bold green"
        parts += [
            Text(escaped(prediction.headline), style=style, no_wrap=True, overflow="ellipsis"),
            _bars(prediction),
        ]
        fps, total, *each = _speed(status.speed, parts=True)
        line_of_speed = f"{fps}  {total} ({', '.join(each)})"
        parts.append(Text("  ".join([line_of_speed, *_lost(status)])))
    if status.note:
        parts.append(Text(escaped(status.note), style="bold red"))
    about = f"{status.source} → {status.model} ({status.runtime}); Ctrl-C stops"
    parts.append(Text(escaped(about), style="dim"))
    return Group(*parts)


def _bars(prediction: Prediction) -> Table:
    """Compose rows of label, bar and percentage; long labels are cut."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(ratio=2)
    table.add_column(width=6, justify="right", no_wrap=True)
    for label, share in prediction.ranked:
        style = "bold" if label in prediction.labels else ""
        bar = ProgressBar(total=1.0, completed=share, complete_style="cyan", finished_style="cyan")
        table.add_row(Text(escaped(label), style=style), bar, Text(percent(share), style=style))
    return table


def _speed(speed: Speed, *, parts: bool = False) -> list[str]:
    """Format frames per second and latency, with `parts` also the parts of the latency."""
    fps = f"{speed.fps:.1f}" if speed.fps else "-"  # unknown after one answer
    texts = [f"{fps} frames/s", f"{1000 * speed.latency:.1f} ms"]
    if parts:
        steps = (("decode", speed.decode), ("resize", speed.preprocess), ("model", speed.model))
        texts += [f"{name} {1000 * seconds:.1f}" for name, seconds in steps]
    return texts


def _lost(status: Status) -> list[str]:
    """Format the counts of dropped and broken frames, where not 0."""
    counts = (("dropped", status.dropped), ("broken", status.broken))
    return [f"{count} {name}" for name, count in counts if count]

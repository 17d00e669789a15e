"""The loop: answers come in, the views show them, until the end, a key or Ctrl-C."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..recognizer import Recognizer
from .handoff import Finished
from .meter import Meter, Speed
from .pipeline import Answer, Pipeline
from .reader import Reader
from .verdict import Verdict, judge

TICK = 0.1
"""Seconds without an answer after which the views are asked anyway: for keys and messages."""
FRESH = 0.2
"""Seconds for which a measured speed is shown, before it is measured anew."""


@dataclass(frozen=True)
class Status:
    """Where the loop is.

    Attributes:
        source: what is looked at.
        model: what looks.
        runtime: what runs it.
        seconds: since the first answer.
        shown: answers so far.
        dropped: frames that nobody had time for.
        broken: frames that could not be used.
        speed: of the last seconds.
        note: what is wrong with the source; empty when nothing is.
    """

    source: str
    model: str
    runtime: str
    seconds: float
    shown: int
    dropped: int
    broken: int
    speed: Speed
    note: str


@dataclass(frozen=True)
class Seen:
    """One answer, ready to be shown."""

    answer: Answer
    verdict: Verdict
    status: Status


class View(Protocol):
    """Shows answers."""

    def show(self, seen: Seen) -> None:
        """Show an answer."""

    def tick(self, status: Status) -> bool:
        """Called after every answer and at least every `TICK` seconds; False: leave the loop."""

    def close(self) -> None:
        """The loop has ended, whatever ended it."""


class Loop:
    """Feeds the views.

    Args:
        reader: not started yet.
        pipeline: not started yet.
        recognizer: whose labels and name are shown.
        threshold: probability below which the answer is "unknown".
        top_k: labels that are ranked.
        views: where answers are shown, in this thread.

    Attributes:
        counts: how often each label was the answer.
        overall: speed of the whole run.
        seconds: from the first answer to the last.
        shown: answers.
        closed: a view was closed by the user.
    """

    def __init__(
        self,
        reader: Reader,
        pipeline: Pipeline,
        recognizer: Recognizer,
        *,
        threshold: float,
        top_k: int,
        views: Sequence[View],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.overall = Meter(None)
        self.shown, self.closed = 0, False
        self._reader, self._pipeline, self._recognizer = reader, pipeline, recognizer
        self._threshold, self._top_k, self._views = threshold, top_k, views
        self._recent = Meter()
        self._first = self._last = self._measured = 0.0
        self._speed = Speed()

    @property
    def seconds(self) -> float:
        """From the first answer to the last."""
        return self._last - self._first

    def run(self) -> None:
        """Run until the source ends or a view is closed; KeyboardInterrupt goes through.

        Raises:
            InputError: the source cannot be opened.
        """
        self._reader.start()
        self._pipeline.start()
        try:
            self._run()
        finally:
            self._reader.stop()
            self._pipeline.stop()
            _close_all([view.close for view in self._views])

    def _run(self) -> None:
        while not self.closed:
            try:
                answer = self._pipeline.answers.get(TICK)
            except Finished:
                return
            self._reader.check()
            if answer is not None:
                self._show(answer)
            status = self._status()
            self.closed = not all([view.tick(status) for view in self._views])

    def _show(self, answer: Answer) -> None:
        if not self.shown:
            self._first = answer.at
        self._last = answer.at
        self.shown += 1
        self._recent.add(answer)
        self.overall.add(answer)
        if answer.at - self._measured > FRESH:
            self._measured, self._speed = answer.at, self._recent.speed()
        labels = self._recognizer.labels
        verdict = judge(answer.scores, labels, self._top_k, self._threshold)
        self.counts[verdict.label] += 1
        if self._views:
            seen = Seen(answer, verdict, self._status())
            for view in self._views:
                view.show(seen)

    def _status(self) -> Status:
        reader = self._reader
        return Status(
            source=reader.source.name,
            model=self._recognizer.name,
            runtime=self._recognizer.runtime,
            seconds=self.seconds,
            shown=self.shown,
            dropped=reader.frames.dropped,
            broken=reader.broken,
            speed=self._speed,
            note=reader.note,
        )


def _close_all(closes: Sequence[Callable[[], None]]) -> None:
    """Close every view, even if one of them cannot; the first error is raised."""
    if closes:
        try:
            closes[0]()
        finally:
            _close_all(closes[1:])

"""The loop: answers come in, the views show them, until the end, a key or Ctrl-C."""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...models.recognizer import Recognizer
from .answer import Prediction, decide
from .handoff import Finished
from .reader import Reader
from .threads import Answer, Pipeline

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
    prediction: Prediction
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
        prediction = decide(answer.scores, labels, self._top_k, self._threshold)
        self.counts[prediction.label] += 1
        if self._views:
            seen = Seen(answer, prediction, self._status())
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


WINDOW = 3.0
"""Seconds that count: long enough to be read, short enough to see a change."""


@dataclass(frozen=True)
class Speed:
    """How fast it goes.

    Attributes:
        fps: answers a second.
        decode: median seconds of reading and decoding a frame.
        preprocess: median seconds of preprocessing.
        model: median seconds of the model.
    """

    fps: float = 0.0
    decode: float = 0.0
    preprocess: float = 0.0
    model: float = 0.0

    @property
    def latency(self) -> float:
        """Seconds of work on a frame; waiting is not in it."""
        return self.decode + self.preprocess + self.model


class Meter:
    """Measures the answers of the last `window` seconds; None: of all, up to `most`."""

    def __init__(self, window: float | None = WINDOW, most: int = 10_000) -> None:
        self._window = window
        self._answers: deque[tuple[float, float, float, float]] = deque(maxlen=most)

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        row = (answer.at, answer.frame.seconds, answer.preprocess, answer.model)
        self._answers.append(row)
        while self._window is not None and answer.at - self._answers[0][0] > self._window:
            self._answers.popleft()

    def speed(self) -> Speed:
        """What it has measured."""
        if not self._answers:
            return Speed()
        at, *parts = zip(*self._answers, strict=True)
        seconds = at[-1] - at[0]
        fps = (len(at) - 1) / seconds if seconds > 0 else 0.0
        return Speed(fps, *(statistics.median(part) for part in parts))

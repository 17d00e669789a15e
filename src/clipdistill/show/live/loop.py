"""The loop that passes answers to the views, until the end, a key or Ctrl-C."""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...core.zeroshot import Floats
from ...models.recognizer import Recognizer
from .answer import Prediction, decide
from .handoff import Finished
from .reader import Reader
from .threads import Answer, Pipeline

TICK = 0.1
"""Most seconds between two calls of `View.tick`, which handles keys and messages."""
FRESH = 0.2
"""Seconds between two updates of the shown speed."""


@dataclass(frozen=True)
class Status:
    """State of the loop.

    Attributes:
        source: name of the source.
        model: name of the model.
        runtime: runtime of the model.
        seconds: seconds from the first answer to the last.
        shown: number of answers so far.
        dropped: number of frames dropped because the model was busy.
        broken: number of frames that could not be used.
        speed: speed over the last seconds.
        note: problem with the source; empty when there is none.
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
    """One answer with the prediction and the status to show."""

    answer: Answer
    prediction: Prediction
    status: Status


class View(Protocol):
    """A view of the answers: terminal, window or recording."""

    def show(self, seen: Seen) -> None:
        """Show an answer."""

    def tick(self, status: Status) -> bool:
        """Update; called after every answer and at least every `TICK` seconds; False: stop."""

    def close(self) -> None:
        """Release everything; called once when the loop ends, for any reason."""


class Loop:
    """Passes answers to the views.

    Args:
        reader: reader, not started yet.
        pipeline: pipeline, not started yet.
        recognizer: model, for its labels and its name.
        least: probability from which a frame has a label, as `Recognizer.least` gives it.
        top_k: number of labels to rank.
        views: views, which run in this thread.

    Attributes:
        counts: number of frames per label.
        overall: speed of the whole run.
        seconds: seconds from the first answer to the last.
        shown: number of answers.
        closed: whether the user closed a view.
    """

    def __init__(
        self,
        reader: Reader,
        pipeline: Pipeline,
        recognizer: Recognizer,
        *,
        least: float | Floats,
        top_k: int,
        views: Sequence[View],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.overall = Meter(None)
        self.shown, self.closed = 0, False
        self._reader, self._pipeline, self._recognizer = reader, pipeline, recognizer
        self._least, self._top_k, self._views = least, top_k, views
        self._recent = Meter()
        self._first = self._last = self._measured = 0.0
        self._speed = Speed()

    @property
    def seconds(self) -> float:
        """Seconds from the first answer to the last."""
        return self._last - self._first

    def run(self) -> None:
        """Run until the source ends or a view is closed; KeyboardInterrupt is not caught.

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
        prediction = decide(answer.scores, labels, self._top_k, self._least)
        self.counts.update(prediction.labels)
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
    """Close every view, even if closing one fails; raises the errors."""
    if closes:
        try:
            closes[0]()
        finally:
            _close_all(closes[1:])


WINDOW = 3.0
"""Seconds over which the shown speed is measured."""


@dataclass(frozen=True)
class Speed:
    """Measured speed.

    Attributes:
        fps: answers per second; 0 when unknown.
        decode: median seconds of reading and decoding a frame.
        preprocess: median seconds of preprocessing a frame.
        model: median seconds of the model per frame.
    """

    fps: float = 0.0
    decode: float = 0.0
    preprocess: float = 0.0
    model: float = 0.0

    @property
    def latency(self) -> float:
        """Seconds of work per frame, without waiting."""
        return self.decode + self.preprocess + self.model


class Meter:
    """Measures speed over the last `window` seconds; None: over the last `most` answers."""

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
        """Compute the speed from the counted answers."""
        if not self._answers:
            return Speed()
        at, *parts = zip(*self._answers, strict=True)
        seconds = at[-1] - at[0]
        fps = (len(at) - 1) / seconds if seconds > 0 else 0.0
        return Speed(fps, *(statistics.median(part) for part in parts))

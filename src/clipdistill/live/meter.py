"""Speed and latency of the last seconds."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass

from .pipeline import Answer

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

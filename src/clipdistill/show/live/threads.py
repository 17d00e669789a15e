"""Frames -> answers: preprocessing and the model, each in its own thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...models.recognizer import Recognizer
from .frames import Frame, Pixels
from .handoff import Finished, Handoff

T = TypeVar("T")

LEAVING = 2.0
"""Seconds that a thread gets to finish its current frame."""


@dataclass(frozen=True)
class Answer:
    """The model's probabilities for a frame.

    Attributes:
        frame: the frame.
        scores: float32 (C,), one probability per label.
        at: time of the answer, in seconds of the clock.
        preprocess: seconds of preprocessing.
        model: seconds of the model.
    """

    frame: Frame
    scores: NDArray[np.float32]
    at: float
    preprocess: float
    model: float


@dataclass(frozen=True)
class _Ready:
    """A preprocessed frame: `pixels` is uint8 (1, S, S, 3)."""

    frame: Frame
    pixels: Pixels
    seconds: float


class Pipeline:
    """Turns frames into answers while more frames are read.

    Args:
        recognizer: the model.
        frames: frames from the reader.
        clock: monotonic clock in seconds, the same as the reader's.

    Attributes:
        answers: answers in the order of the frames.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        frames: Handoff[Frame],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.answers: Handoff[Answer] = Handoff()
        self._ready: Handoff[_Ready] = Handoff()
        self._recognizer, self._frames, self._clock = recognizer, frames, clock
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start both threads.  `answers.get` raises the errors of the threads."""
        self._thread("preprocess", self._frames, self._ready, self._prepare)
        self._thread("model", self._ready, self.answers, self._recognise)

    def stop(self) -> None:
        """Stop both threads, and wait up to `LEAVING` seconds for each."""
        for handoff in (self._frames, self._ready, self.answers):
            handoff.cancel()
        for thread in self._threads:
            thread.join(LEAVING)

    def _thread(
        self,
        name: str,
        source: Handoff[T],
        sink: Handoff[_Ready] | Handoff[Answer],
        work: Callable[[T], bool],
    ) -> None:
        def run() -> None:
            try:
                while True:
                    item = source.get()
                    if item is None or not work(item):
                        return
            except Finished:
                sink.finish()
            except BaseException as error:  # it is raised again in the main thread
                sink.finish(error)

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _prepare(self, frame: Frame) -> bool:
        start = self._clock()
        image = Image.fromarray(frame.pixels)
        # A copy: torch needs writable arrays, and Pillow's are read-only.
        pixels = np.stack([self._recognizer.preprocess.to_pixels(image)])
        return self._ready.put(_Ready(frame, pixels, self._clock() - start))

    def _recognise(self, ready: _Ready) -> bool:
        start = self._clock()
        scores = self._recognizer.probabilities(ready.pixels)[0]
        end = self._clock()
        return self.answers.put(Answer(ready.frame, scores, end, ready.seconds, end - start))

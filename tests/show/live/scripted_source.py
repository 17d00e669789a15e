"""A source that does what a test says: frames, broken ones, stalls, ends; and a clock for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from clipdistill.core.errors import ImageError, InputError
from clipdistill.show.live.frames import Frame, Source
from clipdistill.show.live.handoff import Finished, Handoff

BROKEN = "broken"
STALL = "stall"
GONE = None


def frame(value: int = 0, size: tuple[int, int] = (8, 6)) -> np.ndarray:
    """A grey frame."""
    return np.full((size[1], size[0], 3), value, np.uint8)


class Script:
    """Opens captures that play lists of steps, one list a connection.

    A step is a frame (or whatever a camera might give), BROKEN, STALL, GONE, or a function to call
    for the next one.  `None` in place of a list: there is nothing to open.
    """

    def __init__(self, *connections: Sequence[object] | None, live: bool = True, fps: float = 0.0):
        self.connections = list(connections)
        self.live, self.fps, self.frames = live, fps, 0
        self.opened = 0
        self.released = threading.Event()  # set: a stalled read returns

    def source(self) -> Source:
        return Source("scripted", self.open, live=self.live)

    def open(self) -> Played:
        self.opened += 1
        steps = self.connections.pop(0) if self.connections else None
        if steps is None:
            raise InputError("nothing there")
        return Played(self, list(steps))


class Played:
    """One connection."""

    def __init__(self, script: Script, steps: list[object]):
        self.script, self.steps = script, steps
        self.live, self.fps, self.frames = script.live, script.fps, script.frames
        self.closed = False

    def read(self):
        step = self.steps.pop(0) if self.steps else GONE
        if callable(step):
            step = step()
        if isinstance(step, str) and step == STALL:
            self.script.released.wait(30)
            return GONE
        if isinstance(step, str) and step == BROKEN:
            raise ImageError("cannot be decoded")
        return step

    def close(self) -> None:
        self.closed = True


class Clock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def drain(frames: Handoff[Frame], meanwhile: Callable[[], None] = lambda: None) -> list[Frame]:
    """Everything that comes until the end."""
    got: list[Frame] = []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            one = frames.get(0.01)
        except Finished:
            return got
        if one is not None:
            got.append(one)
        meanwhile()
    raise AssertionError(f"no end after {len(got)} frames")

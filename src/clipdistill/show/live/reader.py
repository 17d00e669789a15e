"""The thread that reads a source: pace, reconnection, stalls, broken frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ...core.errors import ImageError, InputError
from ...core.wording import many
from .frames import Capture, Frame, Pixels, Source, fault
from .handoff import Handoff

PROBLEMS_KEPT = 10
"""Most faults of broken frames that are reported."""
LEAVING = 1.0
"""Seconds that a thread gets to release its source."""


@dataclass(frozen=True)
class Patience:
    """Time limits and retries for a source.

    Attributes:
        stall: seconds without a good frame after which a source counts as lost.
        retries: attempts to reopen a live source; 0: none.
        first: seconds before the first attempt; the delay doubles with every attempt.
        longest: longest delay in seconds.
    """

    stall: float = 10.0
    retries: int = 10
    first: float = 0.5
    longest: float = 30.0

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait before attempt 1, 2, 3 ..."""
        return min(self.longest, self.first * 2.0 ** min(attempt - 1, 30))


class _Turn:
    """The state of one reading thread.

    Attributes:
        since: time at which it started to wait for the source; None: it is not waiting.
    """

    def __init__(self) -> None:
        self.since: float | None = None


class Reader:
    """Reads a source in its own thread and passes its frames on.

    A read that never returns cannot be stopped.  In that case `check` abandons its thread and
    starts another one.

    Args:
        source: source of the frames.
        frames: destination of the frames; set to drop old frames when the source is live.
        paced: read a source that is not live at its own speed, not as fast as possible.
        patience: time limits and retries.
        clock: monotonic clock in seconds.
        sleep: waits for some seconds; by default `stop` ends the wait.

    Attributes:
        read: number of good frames.
        broken: number of frames that could not be used.
        problems: faults of the first broken frames.
        reconnects: number of times that a lost source was reopened.
        note: current problem; empty when there is none.
        ended: reason why there are no more frames; empty while there are.
        lost: whether it ended because the source was lost.
        live: whether the source is live.
    """

    def __init__(
        self,
        source: Source,
        frames: Handoff[Frame],
        *,
        paced: bool = False,
        patience: Patience = Patience(),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.source, self.frames = source, frames
        self.read = self.broken = self.reconnects = 0
        self.problems: list[str] = []
        self.note = self.ended = ""
        self.lost, self.live = False, source.live
        self._paced, self._patience, self._clock = paced, patience, clock
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait
        self._attempt = 0
        self._opened = False  # at least once
        self._turn: _Turn | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start to read.  `frames.get` raises the error when the source cannot be opened."""
        turn = self._turn = _Turn()
        self._thread = threading.Thread(target=self._run, args=(turn,), name="reader", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Detect a stalled source; to be called regularly."""
        turn = self._turn
        if turn is None or turn.since is None:
            return
        if self._clock() - turn.since > self._patience.stall:
            self._turn = None
            if self._give_up("gives no frames"):
                return
            self.start()

    def stop(self) -> None:
        """Stop; a thread that still waits for the source ends with the process."""
        self._turn = None
        self._stopped.set()
        self.frames.cancel()
        if self._thread is not None:
            self._thread.join(LEAVING)

    def _mine(self, turn: _Turn) -> bool:
        return self._turn is turn

    def _run(self, turn: _Turn) -> None:
        try:
            while self._mine(turn):
                capture = self._open(turn)
                if capture is None:
                    continue
                try:
                    gone = self._pump(capture, turn)
                finally:
                    capture.close()
                if not self._mine(turn):
                    return
                if not gone:
                    self._finish(self._end_of(capture))
                elif self._give_up("vanished"):
                    return
        except BaseException as error:  # raised again by `frames.get`
            if self._mine(turn):
                self.frames.finish(error)

    def _open(self, turn: _Turn) -> Capture | None:
        """Open the source, after a delay if it was lost; None: it failed or the thread must end."""
        if self._attempt:
            self._sleep(self._patience.delay(self._attempt))
            if not self._mine(turn):
                return None
        turn.since = self._clock()
        try:
            capture = self.source.open()
        except InputError:
            if not self._opened:
                raise
            if self._mine(turn):
                self._give_up("is still gone")
            return None
        finally:
            turn.since = None
        if not self._mine(turn):
            capture.close()
            return None
        self._opened, self.live = True, capture.live
        self.frames.newest |= capture.live
        return capture

    def _pump(self, capture: Capture, turn: _Turn) -> bool:
        """Read until the end; True: a live source was lost."""
        began = good = self._clock()
        first = self.read
        while self._mine(turn):
            begun = turn.since = self._clock()
            pixels, problem = _read(capture)
            turn.since = None
            now = self._clock()
            if not self._mine(turn):
                return False
            if pixels is None and not problem:
                return capture.live
            if pixels is None:
                self._note_broken(problem)
                if capture.live and now - good > self._patience.stall:
                    return True
                continue
            self._came_back()
            index, self.read = self.read, self.read + 1
            if self._paced and not capture.live and capture.fps > 0:
                early = began + (index - first) / capture.fps - now
                if early > 0:
                    self._sleep(early)
            frame = Frame(index, self._clock(), pixels, now - begun, capture.fps, capture.live)
            if not self.frames.put(frame):
                return False
            good = self._clock()
        return False

    def _note_broken(self, problem: str) -> None:
        self.broken += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(f"frame {self.read + self.broken}: {problem}")

    def _came_back(self) -> None:
        if self._attempt:
            self.reconnects += 1
            self._attempt, self.note = 0, ""

    def _give_up(self, what: str) -> bool:
        """Record that the source is lost; True: there are no attempts left."""
        name, most = self.source.name, self._patience.retries
        if not self.live or self._attempt >= most:
            tried = f" and did not come back ({most} attempts)" if self.live and most else ""
            self.lost = True
            what = "vanished" if what == "is still gone" else what
            self._finish(f"{name} {what}{tried}")
            return True
        self._attempt += 1
        wait = self._patience.delay(self._attempt)
        self.note = f"{name} {what}; attempt {self._attempt} of {most} in {wait:g} s"
        return False

    def _end_of(self, capture: Capture) -> str:
        there = self.read + self.broken
        if capture.frames and there < capture.frames:
            return f"{self.source.name} ended after {there} of {many(capture.frames, 'frame')}"
        return f"{self.source.name} has ended"

    def _finish(self, why: str) -> None:
        self.ended, self.note, self._turn = why, "", None
        self.frames.finish()


def _read(capture: Capture) -> tuple[Pixels | None, str]:
    """Read a frame or its fault; neither at the end."""
    try:
        pixels = capture.read()
    except ImageError as error:
        return None, str(error)
    if pixels is None:
        return None, ""
    problem = fault(pixels)
    return (None, problem) if problem else (pixels, "")

"""How a verb is stopped: SIGTERM and SIGHUP act like Ctrl-C, and Ctrl-C can wait for a good moment.

Containers and Slurm stop a process with SIGTERM, a terminal that is closed with SIGHUP.  Signals
reach the main thread alone; in other threads nothing here has an effect.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

OTHERS = ("SIGTERM", "SIGHUP")
"""Names of the signals that act like Ctrl-C, where the system has them (Windows has no SIGHUP)."""

Handler = Callable[[int, FrameType | None], Any]


@dataclass
class Stop:
    """A request to stop.

    Attributes:
        asked: whether there was one.
    """

    asked: bool = False


_waiting: list[Stop] = []
"""Blocks that postpone a stop, the innermost last."""
_last: signal.Signals = signal.SIGINT
"""The signal that came last."""


def stopped_by() -> signal.Signals:
    """The signal that a `KeyboardInterrupt` is due to."""
    return _last


@contextlib.contextmanager
def signals_as_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP as Ctrl-C as long as the block runs, unless they are ignored."""
    global _last
    _last = signal.SIGINT
    before = {one: signal.getsignal(one) for one in _signals(OTHERS)}
    for one in before:
        signal.signal(one, _act_like_ctrl_c)
    try:
        yield
    finally:
        for one, handler in before.items():
            if signal.getsignal(one) is _act_like_ctrl_c:
                signal.signal(one, handler)


@contextlib.contextmanager
def postponed() -> Iterator[Stop]:
    """Postpone Ctrl-C to the end of the block, which then raises `KeyboardInterrupt`.

    The block may look at `asked` and end early.  A second Ctrl-C does not wait.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def postpone(number: int, frame: FrameType | None) -> None:
        if not stop.asked:
            stop.asked = True
        elif callable(before):
            before(number, frame)

    _waiting.append(stop)
    if callable(before):  # it is neither ignored nor another program's
        signal.signal(signal.SIGINT, postpone)
    try:
        yield stop
    finally:
        if callable(before):
            signal.signal(signal.SIGINT, before)
        _waiting.remove(stop)
    if stop.asked:
        raise KeyboardInterrupt


def exit_at_once(code: int) -> None:
    """End the process without a word at the next signal: it has stopped already."""

    def leave(number: int, frame: FrameType | None) -> None:
        os._exit(code)

    for one in _signals(("SIGINT", *OTHERS)):
        signal.signal(one, leave)


def _act_like_ctrl_c(number: int, frame: FrameType | None) -> None:
    global _last
    _last = signal.Signals(number)
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):  # of Python, of asyncio, of a server, or of `postponed`
        handler(signal.SIGINT, frame)
    elif _waiting and not _waiting[-1].asked:  # a shell's background job ignores Ctrl-C
        _waiting[-1].asked = True
    else:
        raise KeyboardInterrupt


def _signals(names: tuple[str, ...]) -> list[signal.Signals]:
    """Those of the signals that can be handled here, and that the process does not ignore."""
    if threading.current_thread() is not threading.main_thread():
        return []
    found = [signal.Signals[name] for name in names if name in signal.Signals.__members__]
    return [one for one in found if signal.getsignal(one) not in (signal.SIG_IGN, None)]

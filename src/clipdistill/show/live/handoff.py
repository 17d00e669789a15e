"""Passing items from one thread to the next: only the newest, or all in turn."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Finished(Exception):
    """There are no more items; the normal end."""


class Handoff(Generic[T]):
    """A bounded queue between two threads.

    Args:
        size: most items in the queue.
        newest: a full queue drops its oldest item for the new one; otherwise `put` waits.

    Attributes:
        newest: as given; the producer may change it.
        dropped: number of dropped items.
    """

    def __init__(self, size: int = 1, *, newest: bool = False) -> None:
        self.dropped = 0
        self._size, self.newest = size, newest
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = self._cancelled = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Add an item; False: the queue was finished or cancelled."""
        with self._changed:
            while len(self._items) >= self._size and not self._cancelled:
                if self.newest:
                    self._items.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait()
            if self._cancelled or self._finished:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self, timeout: float | None = None) -> T | None:
        """Return the next item; None when there is none within `timeout` seconds.

        Raises:
            Finished: there are no more items.
            BaseException: the error passed to `finish`, after the items before it.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._items:
                if self._error is not None:
                    raise self._error
                if self._finished or self._cancelled:
                    raise Finished
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def finish(self, error: BaseException | None = None) -> None:
        """End the queue on the producer's side; `error` is the reason, if it failed."""
        with self._changed:
            self._finished = True
            self._error = self._error or error
            self._changed.notify_all()

    def cancel(self) -> None:
        """End the queue on the consumer's side, and discard its items."""
        with self._changed:
            self._cancelled = True
            self._items.clear()
            self._changed.notify_all()

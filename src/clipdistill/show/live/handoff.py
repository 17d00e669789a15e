"""From one thread to the next: the newest item alone, or every item in turn."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Finished(Exception):
    """Nothing more will come: an end, not an error."""


class Handoff(Generic[T]):
    """Hands items from one thread to another.

    Args:
        size: items that may wait.
        newest: a full place drops its oldest item for the new one; otherwise `put` waits for room.

    Attributes:
        newest: as given; the giver may change it.
        dropped: items that were replaced.
    """

    def __init__(self, size: int = 1, *, newest: bool = False) -> None:
        self.dropped = 0
        self._size, self.newest = size, newest
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = self._cancelled = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Hand an item over; False: nobody wants items any more."""
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
        """The next item; None when there is none within `timeout` seconds.

        Raises:
            Finished: nothing more will come.
            BaseException: what `finish` was given, after the items that came before it.
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
        """The giver has no more; `error` says why, if it broke."""
        with self._changed:
            self._finished = True
            self._error = self._error or error
            self._changed.notify_all()

    def cancel(self) -> None:
        """The taker leaves; what waits is thrown away."""
        with self._changed:
            self._cancelled = True
            self._items.clear()
            self._changed.notify_all()

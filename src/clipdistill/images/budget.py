"""One amount of memory that all decoding threads share."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

FILE_BYTES = 1 << 30
"""Bytes of encoded images that all threads hold together."""
PIXEL_BYTES = 1 << 31
"""Bytes that all threads need together to decode images, and most bytes for one image.  100
megapixels fit it in every format: WebP, the most expensive one, takes 18 bytes per pixel."""


class Budget:
    """Bytes that several threads share; a thread waits until there are enough for it.

    Threads get their bytes in the order in which they ask.  One that needs more than there is in
    all gets it when no other holds any, so that nobody waits for ever.  A thread must not ask for
    a second share while it holds one.

    Args:
        most: bytes in all.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._held = 0
        self._turn = threading.Lock()
        self._returned = threading.Condition()

    @contextlib.contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Hold `count` bytes while the block runs."""
        with self._turn, self._returned:
            self._returned.wait_for(lambda: not self._held or self._held + count <= self.most)
            self._held += count
        try:
            yield
        finally:
            with self._returned:
                self._held -= count
                self._returned.notify_all()


FILES = Budget(FILE_BYTES)
"""For encoded images; taken before a share of `PIXELS`, never after it."""
PIXELS = Budget(PIXEL_BYTES)
"""For decoding, until the decoded image is no longer needed."""

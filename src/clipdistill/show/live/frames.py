"""Sources of frames: what each can do, and the one that needs no OpenCV, a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...images.decode import decode
from ...images.sources import ImageItem, list_images

Pixels = NDArray[np.uint8]
"""A picture as RGB uint8 (H, W, 3)."""


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
        index: its place among the frames that were read, from 0.
        at: when it had been read, in seconds of the reader's clock.
        pixels: RGB uint8 (H, W, 3).
        seconds: reading and decoding took.
        fps: frames a second that its source says it gives; 0: it does not say.
        live: its source cannot be made to wait.
    """

    index: int
    at: float
    pixels: Pixels
    seconds: float
    fps: float = 0.0
    live: bool = False


class Capture(Protocol):
    """An opened source."""

    @property
    def live(self) -> bool:
        """It cannot be made to wait: a camera, a stream."""

    @property
    def fps(self) -> float:
        """Frames a second; 0 when unknown."""

    @property
    def frames(self) -> int:
        """How many there will be; 0 when unknown."""

    def read(self) -> Pixels | None:
        """The next frame; None: there is none (the end, or the camera is gone).

        Raises:
            ImageError: this one is broken; the next may be good.
        """

    def close(self) -> None:
        """Let go of it."""


@dataclass(frozen=True)
class Source:
    """Where frames come from.

    Attributes:
        name: for people; without passwords.
        open: opens it; raises InputError when that fails.
        live: it is known to be live before it is opened.
    """

    name: str
    open: Callable[[], Capture]
    live: bool = False


def fault(pixels: object) -> str:
    """What is wrong with a frame; empty when it can be used."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        return "not an array of bytes"
    if pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < 1:
        return f"of shape {pixels.shape} instead of (height, width, 3)"
    return ""


class Pictures:
    """The pictures of a folder, one after the other.

    Args:
        items: which.
        at_least: shortest side that is needed, in pixels; large JPEGs are decoded smaller, as
            `predict` does.
        fps: pictures a second; 0: as fast as they can be read.
    """

    live = False

    def __init__(self, items: list[ImageItem], at_least: int, fps: float) -> None:
        self.fps, self.frames = fps, len(items)
        self._items, self._at_least = iter(items), at_least

    def read(self) -> Pixels | None:
        """See `Capture.read`."""
        item = next(self._items, None)
        if item is None:
            return None
        return np.asarray(decode(item.read(), at_least=self._at_least))

    def close(self) -> None:
        """See `Capture.close`."""


def pictures(folder: Path, *, at_least: int, fps: float = 0.0) -> Source:
    """A folder of pictures, searched as everywhere.

    Raises:
        InputError: no such folder, or no pictures in it.
    """
    items = list_images(folder)
    return Source(str(folder), lambda: Pictures(items, at_least, fps))

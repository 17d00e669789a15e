"""Sources of frames: their interface, and the source that needs no OpenCV, a folder of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...images.decode import decode
from ...images.sources import ImageItem, list_images

Pixels = NDArray[np.uint8]
"""An image as RGB uint8 (H, W, 3)."""


@dataclass(frozen=True)
class Frame:
    """One frame of a source.

    Attributes:
        index: position among the frames read, from 0.
        at: time at which it was read, in seconds of the reader's clock.
        pixels: RGB uint8 (H, W, 3).
        seconds: seconds of reading and decoding.
        fps: frames per second of its source; 0 when unknown.
        live: whether its source is live.
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
        """Whether the source is live, so that it does not wait: a camera, a stream."""

    @property
    def fps(self) -> float:
        """Frames per second; 0 when unknown."""

    @property
    def frames(self) -> int:
        """Number of frames; 0 when unknown."""

    def read(self) -> Pixels | None:
        """Read the next frame; None: there is none (the end, or the camera is lost).

        Raises:
            ImageError: this frame is broken; the next may be good.
        """

    def close(self) -> None:
        """Release the source."""


@dataclass(frozen=True)
class Source:
    """A source of frames that can be opened.

    Attributes:
        name: name for messages, without passwords.
        open: opens the source; raises InputError when that fails.
        live: whether it is known to be live before it is opened.
    """

    name: str
    open: Callable[[], Capture]
    live: bool = False


def fault(pixels: object) -> str:
    """Describe the fault of a frame; empty when it can be used."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        return "not an array of bytes"
    if pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < 1:
        return f"of shape {pixels.shape} instead of (height, width, 3)"
    return ""


class Pictures:
    """A `Capture` of the images of a folder, one after the other.

    Args:
        items: the images.
        at_least: least length of the shorter side in pixels; larger JPEGs are decoded at a reduced
            size, as in `predict`.
        fps: images per second; 0: as fast as they can be read.
    """

    live = False

    def __init__(self, items: Sequence[ImageItem], at_least: int, fps: float) -> None:
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
    """Make a source of a folder of images, searched recursively.

    Raises:
        InputError: no such folder, or no images in it.
    """
    items = list_images(folder)
    return Source(str(folder), lambda: Pictures(items, at_least, fps))

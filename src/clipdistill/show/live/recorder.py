"""Recording the annotated video: an .mp4 that gets its name when it is complete."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import OptionError, OutputError
from ...core.files import atomic_path, ensure_folder
from ...core.locks import locked_files
from .frames import Pixels
from .letters import Letters
from .loop import Seen, Status
from .opencv import load_cv2
from .overlay import annotate

CODEC = "mp4v"
"""MPEG-4 part 2, which every build of OpenCV can write; its wheels have no H.264 encoder."""
UNKNOWN_FPS = 25.0
"""Frames per second for sources without a known rate."""
LONGEST_GAP = 2.0
"""Most seconds for which the last frame of a live source is repeated."""


class Recorder:
    """A view that writes the annotated frames to a video file.

    Each frame of a file is written once.  A frame of a live source is repeated until the next one,
    so that the recording plays in real time.

    The file is written under a temporary name in its own folder and renamed when the loop ends, for
    any reason.  The recording up to then can be played.

    Args:
        path: file to write, ending in .mp4.
        letters: draws text.
        fps: frames per second of the recording; 0: the source's.

    Raises:
        InputError: `path` has another ending.
        OutputError: the folder cannot be written to.
    """

    def __init__(self, path: Path, letters: Letters, *, fps: float = 0.0) -> None:
        if path.suffix.lower() != ".mp4":
            raise OptionError(f"--save {path}: expected a name that ends in .mp4.")
        ensure_folder(path.parent)
        self.path, self.frames, self.fps = path, 0, fps
        self._letters = letters
        self._writing = contextlib.ExitStack()
        self._writer: Any = None
        self._temporary = path
        self._size = (0, 0)
        self._start = self._last = 0.0

    def show(self, seen: Seen) -> None:
        """See `View.show`."""
        pixels = annotate(seen, self._letters)
        frame = seen.answer.frame
        if self._writer is None:
            self._open(pixels, frame.fps, frame.at)
        times = self._due(frame.at) if frame.live else 1
        if times:
            cv2 = load_cv2()
            image = cv2.cvtColor(fitted(pixels, self._size), cv2.COLOR_RGB2BGR)
            for _ in range(times):
                self._writer.write(image)
            self.frames += times

    def tick(self, status: Status) -> bool:
        """See `View.tick`."""
        return True

    def close(self) -> None:
        """See `View.close`.

        Raises:
            OutputError: the recording cannot be read back.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        with self._writing.pop_all():
            written, self.frames = self.frames, _count(self._temporary)
            if not self.frames:
                raise OutputError(
                    f"{self.path}: {written} frames were written, but none can be read back. Check "
                    "the free space of the disk."
                )

    def _open(self, pixels: Pixels, fps: float, at: float) -> None:
        cv2 = load_cv2()
        self._size = (
            pixels.shape[1] // 2 * 2,
            pixels.shape[0] // 2 * 2,
        )  # even, for the codec
        self.fps = self.fps or fps or UNKNOWN_FPS
        self._start = self._last = at
        self._writing.enter_context(locked_files("demo", self.path))
        self._temporary = self._writing.enter_context(atomic_path(self.path))
        code = cv2.VideoWriter.fourcc(*CODEC)
        self._writer = cv2.VideoWriter(str(self._temporary), code, self.fps, self._size)
        if not self._writer.isOpened():
            self._writer = None
            self._writing.close()
            raise OutputError(
                f"{self.path}: OpenCV cannot write it ({CODEC} at {self.fps:g} frames/s, "
                f"{self._size[0]}x{self._size[1]}). Choose another folder or another --fps."
            )

    def _due(self, at: float) -> int:
        """Count the frames to write now, so that the recording keeps up with the clock."""
        self._start += max(0.0, at - self._last - LONGEST_GAP)
        self._last = at
        return max(0, int((at - self._start) * self.fps) + 1 - self.frames)


def fitted(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Scale a frame to fit a canvas (width, height) and centre it on black."""
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    if pixels.shape[1] - size[0] in (0, 1) and pixels.shape[0] - size[1] in (0, 1):
        return np.ascontiguousarray(pixels[: size[1], : size[0]])
    cv2 = load_cv2()
    scale = min(size[0] / pixels.shape[1], size[1] / pixels.shape[0])
    wide, high = (max(1, round(scale * side)) for side in (pixels.shape[1], pixels.shape[0]))
    canvas = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    left, top = (size[0] - wide) // 2, (size[1] - high) // 2
    canvas[top : top + high, left : left + wide] = cv2.resize(
        pixels, (wide, high), interpolation=cv2.INTER_AREA
    )
    return canvas


def _count(path: Path) -> int:
    """Count the frames in a video's index; 0 when it is not a video."""
    cv2 = load_cv2()
    capture = cv2.VideoCapture(str(path))
    try:
        return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    finally:
        capture.release()

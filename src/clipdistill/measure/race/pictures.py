"""The images of a benchmark, decoded once for all models with the same preprocessing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.progress import track
from ...formats.embeddings import Failure
from ...images.loading import default_workers, load_one, load_pixels
from ...images.preprocess import Preprocess
from ...images.sources import ImageItem
from ..task import none_readable

PREPARED_IMAGES = 32
"""Images on which preprocessing is timed."""


@dataclass(frozen=True)
class Pictures:
    """Images resized for one kind of preprocessing.

    Attributes:
        path: file of raw uint8 (N, S, S, 3).
        rows: int (N,), indices of the items in it.
        prepare_ms: milliseconds per image on one thread, from its file to the network's input; NaN
            where it was not timed.
    """

    path: Path
    rows: NDArray[np.intp]
    prepare_ms: float


class PictureShelf:
    """Raw images in a folder, one file per kind of preprocessing.

    Attributes:
        count: name of a list of items -> number of its images that can be read.
        failures: image -> the reason why it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count: dict[str, int] = {}
        self.failures: dict[str, Failure] = {}
        self._held: dict[tuple[str, Preprocess], Pictures] = {}

    def prepare(self, what: str, items: Sequence[ImageItem], preprocess: Preprocess) -> Pictures:
        """Decode images, unless that was done before.

        Args:
            what: name of the list of items: "images" or "labelled".
            items: the images.
            preprocess: preprocessing of the model.

        Raises:
            InputError: none of the images can be read.
        """
        key = (what, preprocess)
        if key not in self._held:
            path = self.folder / f"{what}-{len(self._held)}.raw"
            held, failures = _decode(items, preprocess, path, timed=what == "images")
            self._held[key] = held
            self.count[what] = len(held.rows)
            self.failures.update({failure.image_path: failure for failure in failures})
        return self._held[key]


def _decode(
    items: Sequence[ImageItem], preprocess: Preprocess, path: Path, *, timed: bool
) -> tuple[Pictures, list[Failure]]:
    prepare_ms = _prepare_ms(items, preprocess) if timed else float("nan")
    place = {(item.path, item.key): index for index, item in enumerate(items)}
    rows: list[int] = []
    failures: list[Failure] = []
    with track("resizing", len(items), "images") as step, open(path, "wb") as handle:
        for one in load_pixels(items, preprocess, workers=default_workers()):
            if one.pixels is None:
                failures.append(Failure(one.item.key, one.reason))
            else:
                rows.append(place[one.item.path, one.item.key])
                handle.write(np.ascontiguousarray(one.pixels).tobytes())
            step()
    if not rows:
        raise none_readable(len(items), failures)
    return Pictures(path, np.array(rows, dtype=np.intp), prepare_ms), failures


def _prepare_ms(items: Sequence[ImageItem], preprocess: Preprocess) -> float:
    """Return the median milliseconds from the file to the network's input, on one thread."""
    times = []
    for item in items[: PREPARED_IMAGES + 1]:
        started = time.perf_counter()
        pixels = load_one(item, preprocess).pixels
        if pixels is not None:
            preprocess.normalize(pixels[None])
            times.append(time.perf_counter() - started)
    # The first time includes imports and the start of Pillow.
    return 1000 * float(np.median(times[1:] or times or [float("nan")]))

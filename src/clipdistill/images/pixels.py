"""Decoded pixels on disk: every image is decoded once, to the size that training needs.

A folder holds chunks, `<hash>.npy` uint8 (n, S, S, 3), or (n, 1 + K, S, S, 3) with K views of each
image after the image itself, with `<hash>.json` written after it.  The name is a hash of which
images are in the chunk and how they were resized.  So another training with the same size reuses
the chunks, added images only need new chunks, and a killed build resumes where it stopped.  Images
beyond the limit are decoded again in every epoch.  One process at a time writes to a folder.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import FormatError, InputError
from ..core.files import (
    TEMPORARY_PREFIX,
    atomic_path,
    ensure_folder,
    read_array,
    read_json,
    write_json,
)
from ..core.progress import Step, message, track
from ..core.vectors import Vectors
from ..core.wording import many, size
from .loading import Loaded, load_pixels
from .preprocess import Preprocess
from .sources import ImageItem

CHUNK_BYTES = 128 << 20
"""Most bytes per chunk; a chunk is held in memory while it is made."""
FREE_SHARE = 0.8
"""Share of the free disk that the cache may take."""


@dataclass(frozen=True)
class _Chunk:
    path: Path
    start: int
    stop: int


class PixelCache:
    """Random access to the resized pixels of many images.

    Args:
        folder: parent folder of the chunks, which every training of one geometry shares.
        items: the images, in row order.
        contents: their `content_id`s when they were embedded; an image that has changed since is a
            failure.  Empty strings are not compared.
        preprocess: how they are resized; mean and std have no effect.
        workers: number of decoding threads.
        limit_bytes: most bytes on disk.
        partial: whether to keep some images where the limit leaves no room for all.
        views: float32 (N, K, 8), parameters of each image's views (see `images.views`).
    """

    def __init__(
        self,
        folder: Path,
        items: Sequence[ImageItem],
        contents: Sequence[str],
        preprocess: Preprocess,
        *,
        workers: int,
        limit_bytes: int,
        partial: bool = True,
        views: NDArray[np.float32] | Vectors | None = None,
    ) -> None:
        self.views = views
        shown = "" if views is None else f"-{views.shape[1]}-views"
        self.folder = folder / f"{preprocess.geometry}{shown}"
        self.items = items
        self.contents = contents
        self.preprocess = preprocess
        self.workers = workers
        self.failures: dict[int, str] = {}
        side = preprocess.size
        single = (side, side, 3)
        self._row_shape = single if views is None else (1 + views.shape[1], *single)
        self._row_bytes = math.prod(self._row_shape)
        self._chunk_rows = max(1, min(8192, CHUNK_BYTES // self._row_bytes))
        self._arrays: list[NDArray[np.uint8]] = []
        self.partial = partial
        self.cached = self._rows_within(limit_bytes)

    def build(self) -> None:
        """Decode the missing chunks; afterwards `failures` is complete for the cached rows.

        Raises:
            OutputError: the folder cannot be written to.
        """
        if self.cached:
            ensure_folder(self.folder)
        chunks = self._chunks()
        missing = [chunk for chunk in chunks if not self._complete(chunk)]
        self._make_room(chunks, missing)
        total = sum(chunk.stop - chunk.start for chunk in missing)
        if total:
            message(
                f"Decoding {many(total, 'image')} once to {self.preprocess.size} px: "
                f"{size(self.cached * self._row_bytes)} in {self.folder}"
            )
        with track("decode", total, "images") as step:
            for chunk in missing:
                self._build_chunk(chunk, step)
        self._open(chunks)
        if self.cached < len(self.items) and not self.partial:
            message(
                f"The decoded pixels of {many(len(self.items), 'image')} take "
                f"{size(len(self.items) * self._row_bytes)} and are not kept: the images are read "
                "in every epoch. To keep them, raise --cache-gb, and have more free disk than that."
            )
        elif self.cached < len(self.items):
            message(
                f"The pixel cache holds {self.cached} of {many(len(self.items), 'image')}; the "
                "others are decoded in every epoch. To cache them too, raise --cache-gb."
            )

    def gather(
        self,
        rows: NDArray[np.intp],
        numbers: NDArray[np.intp] | None = None,
        read: Sequence[ImageItem] | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return the pixels of some rows.

        Args:
            rows: int (B,), any order, repeats allowed.
            numbers: int (B,), 0 for the image itself, 1 to K for a view; None: all 0.
            read: the images of these rows, where they have been read ahead.

        Returns:
            uint8 (B, S, S, 3), and bool (B,), the valid mask: False where an image could not be
            read.  Its pixels are zero and `failures` has the reason.
        """
        side = self.preprocess.size
        pixels = np.zeros((len(rows), side, side, 3), dtype=np.uint8)
        fine = np.ones(len(rows), dtype=bool)
        shown = np.zeros(len(rows), dtype=np.intp) if numbers is None else numbers
        chunks = rows // self._chunk_rows
        cached = rows < self.cached
        for chunk in np.unique(chunks[cached]):
            here = np.flatnonzero(cached & (chunks == chunk))
            places = rows[here] % self._chunk_rows
            array = self._arrays[chunk]
            pixels[here] = array[places] if self.views is None else array[places, shown[here]]
        items = self.items if read is None else dict(zip(rows.tolist(), read, strict=True))
        self._decode(rows, shown, np.flatnonzero(~cached), pixels, items)
        if self.failures:
            fine = np.array([int(row) not in self.failures for row in rows])
        return pixels, fine

    def _decode(
        self,
        rows: NDArray[np.intp],
        numbers: NDArray[np.intp],
        where: NDArray[np.intp],
        pixels: NDArray[np.uint8],
        items: Sequence[ImageItem] | dict[int, ImageItem],
    ) -> None:
        """Decode the rows at positions `where` into `pixels`."""
        loaded = self._load([items[int(rows[position])] for position in where], rows[where])
        for position, one in zip(where, loaded, strict=True):
            row = int(rows[position])
            reason = one.reason or self._changed(row, one.content)
            if one.pixels is None or reason:
                self.failures[row] = reason
            else:
                number = numbers[position]
                shown = one.pixels if number == 0 or one.views is None else one.views[number - 1]
                pixels[position] = shown

    def _load(self, items: Sequence[ImageItem], rows: NDArray[np.intp]) -> Iterator[Loaded]:
        views = None if self.views is None else list(self.views[rows])
        return load_pixels(items, self.preprocess, workers=self.workers, views=views)

    def _changed(self, row: int, content: str) -> str:
        if self.contents[row] and self.contents[row] != content:
            return "it has changed since it was embedded; run `clipdistill embed --recheck`"
        return ""

    def _rows_within(self, limit_bytes: int) -> int:
        """The number of rows, in whole chunks, that fit the limit and the disk."""
        existing = self.folder
        while not existing.exists():
            existing = existing.parent
        mine = sum(path.stat().st_size for path in self.folder.glob("*.npy"))
        room = min(limit_bytes, int(FREE_SHARE * shutil.disk_usage(existing).free) + mine)
        rows = room // self._row_bytes
        if rows >= len(self.items):
            return len(self.items)
        if not self.partial:
            return 0
        return rows // self._chunk_rows * self._chunk_rows

    def _chunks(self) -> list[_Chunk]:
        chunks = []
        for start in range(0, self.cached, self._chunk_rows):
            stop = min(start + self._chunk_rows, self.cached)
            digest = hashlib.blake2b(self.preprocess.geometry.encode(), digest_size=12)
            for row in range(start, stop):
                item = self.items[row]
                known = self.contents[row] or f"{item.size} {item.mtime_ns}"
                digest.update(f"\n{item.key}\t{known}".encode())
            if self.views is not None:
                digest.update(np.ascontiguousarray(self.views[start:stop]).tobytes())
            chunks.append(_Chunk(self.folder / f"{digest.hexdigest()}.npy", start, stop))
        return chunks

    def _make_room(self, wanted: Sequence[_Chunk], missing: Sequence[_Chunk]) -> None:
        """Delete chunks that this set of images does not use, when others have to be made."""
        if not missing:
            return
        keep = {chunk.path.stem for chunk in wanted}
        for path in self.folder.iterdir():
            ours = path.suffix in (".npy", ".json") and path.stem not in keep
            if ours and not path.name.startswith(TEMPORARY_PREFIX):
                path.unlink(missing_ok=True)

    def _build_chunk(self, chunk: _Chunk, step: Step) -> None:
        count = chunk.stop - chunk.start
        pixels = np.zeros((count, *self._row_shape), dtype=np.uint8)
        failed: dict[str, str] = {}
        items = self.items[chunk.start : chunk.stop]
        rows = np.arange(chunk.start, chunk.stop)
        for index, one in enumerate(self._load(items, rows)):
            reason = one.reason or self._changed(chunk.start + index, one.content)
            if one.pixels is None or reason:
                failed[str(index)] = reason
            elif one.views is None:
                pixels[index] = one.pixels
            else:
                pixels[index, 0], pixels[index, 1:] = one.pixels, one.views
            step()
        with atomic_path(chunk.path) as temporary:
            np.save(temporary, pixels)
        write_json(chunk.path.with_suffix(".json"), {"images": count, "failed": failed})

    def _open(self, chunks: Sequence[_Chunk]) -> None:
        self._arrays = [read_array(chunk.path, mapped=True) for chunk in chunks]
        for chunk in chunks:
            described = read_json(chunk.path.with_suffix(".json"), "a chunk of decoded pixels")
            for index, reason in described["failed"].items():
                self.failures[chunk.start + int(index)] = str(reason)

    def _complete(self, chunk: _Chunk) -> bool:
        """Whether a chunk exists and is whole; a damaged one counts as missing and is made anew."""
        try:
            array = read_array(chunk.path, mapped=True)
            described = read_json(chunk.path.with_suffix(".json"), "a chunk of decoded pixels")
        except (InputError, FormatError):
            return False
        count = chunk.stop - chunk.start
        fine = array.shape == (count, *self._row_shape) and array.dtype == np.uint8
        return fine and described.get("images") == count and _is_failures(described.get("failed"))


def _is_failures(value: Any) -> bool:
    return isinstance(value, dict) and all(
        number.isascii() and number.isdigit() and isinstance(reason, str)
        for number, reason in value.items()
    )

"""Many short texts without an object for each: their UTF-8 in one block, as in Arrow's columns.

A list of Python strings takes 50 bytes and more per text beyond its characters, and a dictionary of
them 100 more.  `Texts` takes 4 bytes (8 from 4 GB of characters on), and an `Index` of them 12.
From `IN_MEMORY` bytes on, the characters lie in a temporary file that is mapped: the system can
take their memory back.  The file has no name, and its space is free when the process ends.
"""

from __future__ import annotations

import itertools
import mmap
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, overload

import numpy as np
from numpy.typing import NDArray

from .errors import OutputError

BLOCK = 1 << 13
"""Texts that are handled at once, which bounds the temporary memory."""
IN_MEMORY = 1 << 24
"""Bytes of characters that stay in memory."""
SORTED_PARTS = 32
"""Most parts in which hashes are sorted, which bounds the temporary memory to 1 byte for each."""
_ERRORS = "surrogatepass"
"""Names of files may hold lone surrogates, and come back as they were."""


class Texts(Sequence[str]):
    """An immutable sequence of texts; an element is made when it is read.

    Args:
        data: UTF-8 of all texts, one after the other.
        bounds: integers (N + 1,); text i is `data[bounds[i]:bounds[i + 1]]`.
    """

    __slots__ = ("_bounds", "_data")

    def __init__(self, data: bytes | bytearray | memoryview, bounds: NDArray[np.integer]) -> None:
        self._data = memoryview(data)
        small = len(self._data) < 1 << 32
        kind = np.uint32 if small else np.int64
        self._bounds: NDArray[np.integer] = np.asarray(bounds, kind)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Store texts, which are read once."""
        if isinstance(texts, Texts):
            return texts
        column = _Column()
        left = iter(texts)
        while block := [text.encode(errors=_ERRORS) for text in itertools.islice(left, BLOCK)]:
            column.add(b"".join(block), np.fromiter(map(len, block), np.int64, len(block)))
        return column.texts()

    @classmethod
    def joined(cls, parts: Iterable[Texts]) -> Texts:
        """Store the texts of several sequences, one after the other."""
        column = _Column()
        for part in parts:
            if len(part):
                column.add(part._piece(), part.lengths())
        return column.texts()

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Texts: ...
    def __getitem__(self, index: int | slice) -> str | Texts:
        """One text, or some of them."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return Texts(self._data, self._bounds[start : max(start, stop) + 1])
            return self.take(np.arange(start, stop, step))
        place = range(len(self))[index]
        start, stop = int(self._bounds[place]), int(self._bounds[place + 1])
        return str(self._data[start:stop], "utf-8", _ERRORS)

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), BLOCK):
            bounds = self._bounds[first : first + BLOCK + 1].tolist()
            data = bytes(self._data[bounds[0] : bounds[-1]])
            for start, stop in itertools.pairwise(bounds):
                yield data[start - bounds[0] : stop - bounds[0]].decode(errors=_ERRORS)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Texts):
            same = self._piece() == other._piece()
            return same and np.array_equal(self.lengths(), other.lengths())
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def lengths(self) -> NDArray[np.int64]:
        """The bytes of each text, int64 (N,)."""
        bounds = self._bounds.astype(np.int64)
        return bounds[1:] - bounds[:-1]

    def utf8(self) -> bytes:
        """The bytes of all texts, one after the other."""
        return bytes(self._piece())

    def take(self, places: NDArray[np.integer]) -> Texts:
        """The texts at `places`, int (n,), in that order."""
        column = _Column()
        data = np.frombuffer(self._data, np.uint8)
        for first in range(0, len(places), BLOCK):
            some = places[first : first + BLOCK]
            starts = self._bounds[some].astype(np.int64)
            sizes = self._bounds[some + 1] - starts
            shift = starts - (np.cumsum(sizes) - sizes)
            column.add(data[np.arange(sizes.sum()) + np.repeat(shift, sizes)].tobytes(), sizes)
        return column.texts()

    def ascending(self) -> bool:
        """Whether each text is at least as large as the one before it."""
        return all(one <= other for one, other in itertools.pairwise(self))

    def _piece(self) -> memoryview:
        return self._data[int(self._bounds[0]) : int(self._bounds[-1])]


class _Column:
    """Collects texts: their bytes in memory or, when they are many, in a temporary file."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._file: IO[bytes] | None = None
        self._written = 0
        self._lengths: list[NDArray[np.uint32]] = []

    def add(self, data: bytes | memoryview, lengths: NDArray[np.integer]) -> None:
        """Add texts: the bytes of all, one after the other, and the length of each, int (n,)."""
        self._data += data
        self._lengths.append(lengths.astype(np.uint32))
        if len(self._data) >= IN_MEMORY:
            self._flush()

    def texts(self) -> Texts:
        """Return what was added."""
        total = self._written + len(self._data)
        count = sum(map(len, self._lengths))
        kind = np.dtype(np.uint32 if total < 1 << 32 else np.int64)
        bounds: NDArray[np.integer] = np.zeros(count + 1, kind)
        place = 0
        for lengths in self._lengths:
            ends = int(bounds[place]) + np.cumsum(lengths, dtype=np.int64)
            bounds[place + 1 : place + 1 + len(lengths)] = ends
            place += len(lengths)
        self._lengths.clear()
        if self._file is None:
            return Texts(bytes(self._data), bounds)
        self._flush()
        with self._file as file:
            return Texts(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), bounds)

    def _flush(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="clipdistill-")  # noqa: SIM115
            self._file.write(self._data)
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"{tempfile.gettempdir()}: the names of the images cannot be kept there "
                f"({error.strerror or error}). Make room, or name a folder with room in TMPDIR."
            ) from error
        self._written += len(self._data)
        self._data.clear()


class Index:
    """Finds texts by their hashes; an element that occurs several times is found at its last place.

    Hashes that agree are compared as texts, so nothing is mistaken for something else.

    Args:
        texts: what is searched.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._hashes = _hashes(texts)
        self._order = places_sorting(self._hashes)
        self._hashes.sort()

    def find(self, wanted: Sequence[str]) -> NDArray[np.intp]:
        """The last place of each text, int (n,); -1 where it does not occur."""
        found = np.full(len(wanted), -1, np.intp)
        for first in range(0, len(wanted), BLOCK):
            block = wanted[first : first + BLOCK]
            hashes = _hashes(block)
            at = np.searchsorted(self._hashes, hashes)
            there = np.flatnonzero(at < len(self._hashes))
            there = there[self._hashes[at[there]] == hashes[there]]
            for number in there.tolist():
                found[first + number] = self._at(block[number], int(at[number]))
        return found

    def latest(self) -> NDArray[np.integer] | None:
        """The last place of each different text, int (n,), ascending; None where all differ."""
        same = self._hashes[1:] == self._hashes[:-1]
        keep = np.ones(len(self._order), bool)
        seen: set[str] = set()
        before = -2
        for place in np.flatnonzero(same).tolist():  # pairs of equal hashes: one text, or a clash
            if place != before + 1:
                seen = {self._texts[int(self._order[place])]}
            before = place
            text = self._texts[int(self._order[place + 1])]
            keep[place + 1] = text not in seen
            seen.add(text)
        return None if keep.all() else np.sort(self._order[keep])

    def _at(self, text: str, place: int) -> int:
        """The place of `text` among those whose hash is that at `place` of the sorted ones."""
        value = self._hashes[place]
        while place < len(self._hashes) and self._hashes[place] == value:
            number = int(self._order[place])
            if self._texts[number] == text:
                return number
            place += 1
        return -1


def places_sorting(hashes: NDArray[np.int64]) -> NDArray[np.integer]:
    """The places that sort hashes, uint32 or int64 (N,); of equal ones the last place first.

    Ranges of hashes are sorted one after the other: the hashes are spread evenly.
    """
    count = len(hashes)
    kind = np.dtype(np.uint32 if count < 1 << 32 else np.int64)
    order: NDArray[np.integer] = np.empty(count, kind)
    parts = min(SORTED_PARTS, 1 + count // BLOCK)
    limits = [-(1 << 63) + (number << 64) // parts for number in range(1, parts)]
    start = 0
    for low, high in itertools.pairwise([None, *limits, None]):
        mine = np.ones(count, bool) if low is None else hashes >= low
        if high is not None:
            mine &= hashes < high
        places = np.flatnonzero(mine)[::-1]
        places = places[np.argsort(hashes[places], kind="stable")]
        order[start : start + len(places)] = places
        start += len(places)
    return order


def _hashes(texts: Iterable[str]) -> NDArray[np.int64]:
    sized: Any = texts
    return np.fromiter(map(hash, texts), np.int64, len(sized))

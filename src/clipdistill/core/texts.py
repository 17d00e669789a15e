"""Many short texts without an object for each: their UTF-8 in one block, as in Arrow's columns.

A list of Python strings takes 50 bytes and more per text beyond its characters, and a dictionary of
them 100 more.  `Texts` takes 4 bytes (8 from 4 GB of characters on), and an `Index` of them 16.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 13
"""Texts that are handled at once, which bounds the temporary memory."""
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
        data = bytearray()
        parts = [np.zeros(1, np.int64)]
        left = iter(texts)
        while block := [text.encode(errors=_ERRORS) for text in itertools.islice(left, BLOCK)]:
            ends = np.cumsum(np.fromiter(map(len, block), np.int64, len(block)))
            parts.append(len(data) + ends)
            data += b"".join(block)
        return cls(data, np.concatenate(parts))

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        """Store the texts of several sequences, one after the other."""
        if len(parts) == 1:
            return parts[0]
        pieces = [part._piece() for part in parts]
        starts = list(itertools.accumulate((len(piece) for piece in pieces), initial=0))
        bounds: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
        for part, start in zip(parts, starts, strict=False):
            bounds.append(part._bounds[1:].astype(np.int64) - int(part._bounds[0]) + start)
        return cls(b"".join(pieces), np.concatenate(bounds))

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
        parts: list[bytes] = []
        lengths = self._bounds[places + 1].astype(np.int64) - self._bounds[places]
        data = np.frombuffer(self._data, np.uint8)
        for first in range(0, len(places), BLOCK):
            sizes = lengths[first : first + BLOCK]
            shift = self._bounds[places[first : first + BLOCK]] - (np.cumsum(sizes) - sizes)
            parts.append(data[np.arange(sizes.sum()) + np.repeat(shift, sizes)].tobytes())
        bounds = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=bounds[1:])
        return Texts(b"".join(parts), bounds)

    def ascending(self) -> bool:
        """Whether each text is at least as large as the one before it."""
        return all(one <= other for one, other in itertools.pairwise(self))

    def _piece(self) -> memoryview:
        return self._data[int(self._bounds[0]) : int(self._bounds[-1])]


class Index:
    """Finds texts by their hashes; an element that occurs several times is found at its last place.

    Hashes that agree are compared as texts, so nothing is mistaken for something else.

    Args:
        texts: what is searched.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        hashes = _hashes(texts)
        # Backwards, so that of several equal hashes the last place comes first.
        order = np.argsort(hashes[::-1], kind="stable")
        self._order = np.subtract(len(hashes) - 1, order, out=order)
        self._hashes = hashes[self._order]

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

    def latest(self) -> NDArray[np.intp]:
        """The last place of each different text, ascending."""
        keep = np.ones(len(self._order), bool)
        same = self._hashes[1:] == self._hashes[:-1]
        seen: set[str] = set()
        before = -2
        for place in np.flatnonzero(same).tolist():  # pairs of equal hashes: one text, or a clash
            if place != before + 1:
                seen = {self._texts[int(self._order[place])]}
            before = place
            text = self._texts[int(self._order[place + 1])]
            keep[place + 1] = text not in seen
            seen.add(text)
        return np.sort(self._order[keep])

    def _at(self, text: str, place: int) -> int:
        """The place of `text` among those whose hash is that at `place` of the sorted ones."""
        value = self._hashes[place]
        while place < len(self._hashes) and self._hashes[place] == value:
            number = int(self._order[place])
            if self._texts[number] == text:
                return number
            place += 1
        return -1


def _hashes(texts: Iterable[str]) -> NDArray[np.int64]:
    sized: Any = texts
    return np.fromiter(map(hash, texts), np.int64, len(sized))

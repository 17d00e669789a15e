"""Vectors in many files, read when they are used: nothing but their places is kept in memory."""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

OPEN_SHARDS = 64
"""Shards that stay mapped; each has a file descriptor, of which a process has 1024 by default."""


@dataclass(frozen=True)
class _Place:
    """Where the array of a shard lies, so that it is mapped again in microseconds.

    Attributes:
        path: the file.
        offset: of the array in it.
        dtype: of the array.
        shape: of the array.
        state: size and time of the file when it was first opened, and checked.
    """

    path: str
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    state: tuple[int, int]

    @classmethod
    def of(cls, array: NDArray[np.floating]) -> _Place | None:
        """Return the place of a mapped array; None where it is none."""
        if not isinstance(array, np.memmap) or not array.flags.c_contiguous or not array.filename:
            return None
        path = os.fspath(array.filename)
        try:
            status = os.stat(path)
        except OSError:
            return None
        state = status.st_size, status.st_mtime_ns
        return cls(path, int(array.offset), array.dtype, array.shape, state)

    def mapped(self) -> NDArray[np.floating] | None:
        """Map the array again; None where the file is no longer what it was."""
        try:
            handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError:
            return None
        try:
            status = os.fstat(handle)
            count = math.prod(self.shape)
            short = status.st_size < self.offset + count * self.dtype.itemsize
            if short or (status.st_size, status.st_mtime_ns) != self.state:
                return None
            whole = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(handle)
        return np.frombuffer(whole, self.dtype, count, self.offset).reshape(self.shape)


Places = NDArray[np.integer]


class Mapped:
    """The arrays of shards, mapped when they are used; safe to share between threads.

    Args:
        open_shard: maps the array of a shard, given its place.
    """

    def __init__(self, open_shard: Callable[[int], NDArray[np.floating]]) -> None:
        self._open_shard = open_shard
        self._kept: OrderedDict[int, NDArray[np.floating]] = OrderedDict()
        self._places: dict[int, _Place] = {}
        self._lock = threading.Lock()

    def __getitem__(self, place: int) -> NDArray[np.floating]:
        with self._lock:
            found = self._kept.pop(place, None)
        if found is None:
            found = self._opened(place)
        with self._lock:
            self._kept[place] = found
            while len(self._kept) > OPEN_SHARDS:
                self._kept.popitem(last=False)
        return found

    def _opened(self, place: int) -> NDArray[np.floating]:
        known = self._places.get(place)
        found = None if known is None else known.mapped()
        if found is None:
            found = self._open_shard(place)
            known = _Place.of(found)
            if known is not None:
                self._places[place] = known
        return found


class Vectors:
    """N arrays of one shape in mapped shards; indexing reads those that are named.

    Attributes:
        shape: N, and the shape of an element.
        dtype: of what indexing returns.

    Args:
        shards: the mapped shards.
        counts: elements of each shard.
        shape: of an element.
        dtype: of what indexing returns.
        order: int (N,), place of each element in the concatenated shards; None: as they are.
    """

    def __init__(
        self,
        shards: Mapped,
        counts: Sequence[int],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        order: Places | None = None,
    ) -> None:
        self._shards, self._counts, self._order = shards, tuple(counts), order
        self._starts = np.concatenate([[0], np.cumsum(self._counts)]).astype(np.int64)
        self.shape = (int(self._starts[-1]) if order is None else len(order), *shape)
        self.dtype = dtype

    @classmethod
    def of(cls, array: NDArray[np.floating]) -> Vectors:
        """Give an array that is in memory, or mapped, the same form."""
        return cls(Mapped(lambda _: array), [len(array)], array.shape[1:], array.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Places | Sequence[int] | slice) -> NDArray[np.floating]:
        """The elements of some rows, in their order."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1 and self._order is None:
                return self._run(start, max(start, stop))
            rows = np.arange(start, stop, step)
        wanted = np.asarray(rows, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"expected rows 0 to {len(self) - 1}")
        places = wanted if self._order is None else self._order[wanted]
        owners = np.searchsorted(self._starts, places, side="right") - 1
        found = np.empty((len(places), *self.shape[1:]), self.dtype)
        for owner in np.unique(owners).tolist():
            here = np.flatnonzero(owners == owner)
            found[here] = self._shards[owner][places[here] - self._starts[owner]]
        return found

    def _run(self, start: int, stop: int) -> NDArray[np.floating]:
        """The elements of successive places; within one shard they stay on the disk."""
        first, last = np.searchsorted(self._starts, [start, max(start, stop - 1)], side="right") - 1
        if first == last < len(self._counts):
            begin = int(self._starts[first])
            part = self._shards[int(first)][start - begin : stop - begin]
            return part if part.dtype == self.dtype else part.astype(self.dtype)
        parts = [
            self._shards[owner][
                max(0, start - int(self._starts[owner])) : stop - int(self._starts[owner])
            ]
            for owner in range(first, min(int(last) + 1, len(self._counts)))
        ]
        empty = np.empty((0, *self.shape[1:]), self.dtype)
        return np.concatenate([empty, *parts]).astype(self.dtype, copy=False)

    def take(self, rows: Places) -> Vectors:
        """Some rows, in their order, without reading them."""
        order = rows if self._order is None else self._order[rows]
        return Vectors(self._shards, self._counts, self.shape[1:], self.dtype, order)

    def leading(self, count: int) -> Vectors:
        """The first `count` of the parts that each element, of shape (parts, ...), consists of."""
        shards = Mapped(lambda place: self._shards[place][:, :count])
        shape = (count, *self.shape[2:])
        return Vectors(shards, self._counts, shape, self.dtype, self._order)

    def blocks(self, size: int) -> Iterator[NDArray[np.floating]]:
        """All elements in blocks of `size`, in their order."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def first_not_finite(self, block: int = 8192) -> int | None:
        """Find the first element with a NaN or infinite value, in blocks of elements."""
        for number, values in enumerate(self.blocks(block)):
            finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
            if not finite.all():
                return number * block + int(np.argmin(finite))
        return None

    def whole(self) -> NDArray[np.floating]:
        """All elements as one array: still mapped where one shard has them in order."""
        return self[:]

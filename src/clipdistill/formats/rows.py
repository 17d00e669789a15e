"""The rows of embeddings: which image each vector belongs to, in columns instead of objects.

A row takes 28 to 36 bytes beside its key: 16 for the content, 4 or 8 each for size and time, and 4
for the place of the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from ..core.texts import Texts
from .parquet import arrow, numbers, texts

if TYPE_CHECKING:
    import pyarrow

CONTENT_BYTES = 16
"""Bytes of a `content_id`, which is written as twice as many hex digits."""
NO_CONTENT = bytes(CONTENT_BYTES)
"""Stands for an unknown one."""
DIGITS = frozenset(b"0123456789abcdef")


@dataclass(frozen=True)
class Row:
    """One embedded image.

    Attributes:
        image_path: key of the image below the images folder.
        content: `images.sources.content_id` of its bytes; empty when unknown.
        size: size of the file in bytes; 0 when unknown.
        mtime_ns: time of the file's last change in nanoseconds; 0 when unknown.
    """

    image_path: str
    content: str
    size: int
    mtime_ns: int


COLUMNS = tuple(field.name for field in fields(Row))


class Contents(Sequence[str]):
    """Names of contents; the usual ones, of 32 hex digits, take 16 bytes each."""

    __slots__ = ("_stored",)

    def __init__(self, stored: NDArray[np.uint8] | Texts) -> None:
        self._stored = stored

    @classmethod
    def of(cls, names: Texts) -> Contents:
        """Pack names; an empty one, for unknown, is stored as zeros."""
        lengths = names.lengths()
        known = lengths == 2 * CONTENT_BYTES
        data = names.utf8()
        if not (known | (lengths == 0)).all() or data.translate(None, bytes(DIGITS)):
            return cls(names)
        packed = np.zeros((len(names), CONTENT_BYTES), np.uint8)
        unpacked = np.frombuffer(bytes.fromhex(data.decode()), np.uint8)
        packed[known] = unpacked.reshape(-1, CONTENT_BYTES)
        if not packed[known].any(axis=1).all():
            return cls(names)
        return cls(packed)

    @classmethod
    def joined(cls, parts: Sequence[Contents]) -> Contents:
        """Join the names of several sequences."""
        arrays = [part._stored for part in parts if not isinstance(part._stored, Texts)]
        if len(arrays) == len(parts):
            return cls(np.concatenate([np.zeros((0, CONTENT_BYTES), np.uint8), *arrays]))
        return cls(Texts.joined(Texts.of(part) for part in parts))

    def packed(self) -> NDArray[np.uint8]:
        """Their 16 bytes, uint8 (N, 16); zeros where a name is unknown or of another form."""
        if not isinstance(self._stored, Texts):
            return self._stored
        each = [bytes.fromhex(name) if _is_digest(name) else NO_CONTENT for name in self._stored]
        return np.frombuffer(b"".join(each), np.uint8).reshape(-1, CONTENT_BYTES)

    def take(self, places: NDArray[np.integer]) -> Contents:
        """The names at `places`, int (n,)."""
        kept = self._stored
        return Contents(kept.take(places) if isinstance(kept, Texts) else kept[places])

    def __len__(self) -> int:
        return len(self._stored)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Contents: ...
    def __getitem__(self, index: int | slice) -> str | Contents:
        """One name, or some of them."""
        if isinstance(index, slice):
            return Contents(self._stored[index])
        if isinstance(self._stored, Texts):
            return self._stored[index]
        found = self._stored[index]
        return found.tobytes().hex() if found.any() else ""


class Rows(Sequence[Row]):
    """Rows in columns; a `Row` is made when it is read.

    Attributes:
        keys: names of the images below the images folder.
        contents: names of their contents; empty where unknown.
        sizes: bytes of their files, uint32 or int64 (N,); 0 where unknown.
        times: nanoseconds of their files' last changes, int64 (N,); 0 where unknown.
    """

    __slots__ = ("contents", "keys", "sizes", "times")

    def __init__(
        self, keys: Texts, contents: Contents, sizes: NDArray[np.integer], times: NDArray[np.int64]
    ) -> None:
        self.keys, self.contents, self.times = keys, contents, times
        small = not len(sizes) or (sizes.min() >= 0 and sizes.max() < 1 << 32)
        self.sizes: NDArray[np.integer] = sizes.astype(np.uint32, copy=False) if small else sizes

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Rows:
        """Store rows in columns."""
        if isinstance(rows, Rows):
            return rows
        every = list(rows)
        return cls(
            Texts.of(row.image_path for row in every),
            Contents.of(Texts.of(row.content for row in every)),
            np.array([row.size for row in every], np.int64),
            np.array([row.mtime_ns for row in every], np.int64),
        )

    @classmethod
    def named(cls, keys: Iterable[str]) -> Rows:
        """Rows of which only the keys are known."""
        names = Texts.of(keys)
        unknown = Contents(np.zeros((len(names), CONTENT_BYTES), np.uint8))
        return cls(names, unknown, np.zeros(len(names), np.int64), np.zeros(len(names), np.int64))

    @classmethod
    def read(cls, table: pyarrow.Table) -> Rows:
        """Read a table with the columns `COLUMNS`; empty cells are unknown.

        Raises:
            FormatError: a column is of another type.
        """
        names, contents = (texts_of(table.column(name), name) for name in COLUMNS[:2])
        sizes, times = (_numbers(table.column(name), name) for name in COLUMNS[2:])
        return cls(names, Contents.of(contents), sizes, times)

    @classmethod
    def joined(cls, parts: Iterable[Rows]) -> Rows:
        """The rows of several sequences, which are read once, one after the other."""
        contents: list[Contents] = []
        sizes: list[NDArray[np.integer]] = [np.zeros(0, np.uint32)]
        times: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]

        def keys() -> Iterator[Texts]:
            for part in parts:
                contents.append(part.contents)
                sizes.append(part.sizes)
                times.append(part.times)
                yield part.keys

        names = Texts.joined(keys())
        joined = Contents.joined(contents)
        contents.clear()
        return cls(names, joined, np.concatenate(sizes), np.concatenate(times))

    def take(self, places: NDArray[np.integer]) -> Rows:
        """The rows at `places`, int (n,), in that order."""
        return Rows(
            self.keys.take(places),
            self.contents.take(places),
            self.sizes[places],
            self.times[places],
        )

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        """One row, or some of them."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        size, time = int(self.sizes[index]), int(self.times[index])
        return Row(self.keys[index], self.contents[index], size, time)

    def __iter__(self) -> Iterator[Row]:
        for index, key in enumerate(self.keys):
            size, time = int(self.sizes[index]), int(self.times[index])
            yield Row(key, self.contents[index], size, time)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} rows>"


def _is_digest(name: str) -> bool:
    return len(name) == 2 * CONTENT_BYTES and DIGITS.issuperset(name.encode(errors="replace"))


def texts_of(column: Any, name: str) -> Texts:
    """The texts of a table's column, empty cells as empty texts.

    Raises:
        FormatError: it holds lists, maps or structures.
    """
    pa = arrow("Reading embeddings")
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        array = column.fill_null("").cast(pa.large_binary()).combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks or [pa.array([], pa.large_binary())])
        _, bounds, data = array.buffers()
        places = np.zeros(1, np.int64)
        if len(array):
            places = np.frombuffer(bounds, np.int64)[array.offset : array.offset + len(array) + 1]
        block = b"" if data is None else bytes(memoryview(data)[places[0] : places[-1]])
        try:
            block.decode()
        except UnicodeDecodeError:
            pass  # escaped below
        else:
            return Texts(block, places - places[0])
    return Texts.of(text or "" for text in texts(column, name))


def _numbers(column: Any, name: str) -> NDArray[np.int64]:
    pa = arrow("Reading embeddings")
    if pa.types.is_signed_integer(column.type) and not column.null_count:
        return np.array(column.to_numpy(), np.int64)  # not a view that keeps the table
    found = numbers(column, name)
    limits = np.iinfo(np.int64)
    known = [
        int(value) if value is not None and limits.min <= value <= limits.max else 0
        for value in found
    ]
    return np.array(known, np.int64)

"""The ledger of a download: `index.parquet`, one row per URL, and its journal `index.jsonl`.

While a download runs, and after one that was killed, the journal holds the newest rows, one per
line.  Its last line about a URL counts, and it counts before `index.parquet`.  An image's line is
written before the image gets its name, so that every file in the folder has a row.  At its end a
download merges the journal into `index.parquet`, sorted by file name, and deletes it.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import os
import uuid
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import FormatError
from ..core.files import atomic_path, writing
from ..core.keys import KEY_BYTES, Keys
from ..core.node_cache import at_hand
from ..core.results import from_json
from ..core.texts import Texts
from .parquet import TypeMismatch, arrow, open_rows, typed_rows, write_rows

INDEX = "index.parquet"
JOURNAL = "index.jsonl"

OK, DUPLICATE, FAILED, REFUSED = "ok", "duplicate", "failed", "refused"
"""The statuses: the image is stored; its bytes are those of another URL's file; it cannot be
downloaded (see the reason); it must not be downloaded (its address, robots.txt)."""

PURPOSE = "The ledger of a download"
ROWS_AT_ONCE = 1024
"""Rows of the index that are objects while it is read."""
GROUP_ROWS = 8192
"""Rows of a row group of the index, from which single rows are read."""
LONGEST_LINE = 1 << 24
"""Bytes, far more than a row has."""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What became of one URL.

    Attributes:
        url: the URL as it was given.
        file: name of the image in the folder, or TAR/NAME of one in a tar (see `webdataset`); of a
            duplicate, the file that has its bytes.
        status: ok, duplicate, failed or refused.
        reason: why there is no image, as "kind: detail"; empty when ok.
        http_status: status of the last answer; 0 when there was none.
        bytes: size of the stored file.
        width: width of the stored image in pixels.
        height: height of the stored image in pixels.
        sha256: SHA-256 of the stored file, hexadecimal.
        prompt: prompt that found the URL.
        license: short name of the licence; empty when unknown.
        license_url: address of the licence's text; empty when unknown.
        attribution: author to name; empty when unknown.
    """

    url: str
    file: str = ""
    status: str = FAILED
    reason: str = ""
    http_status: int = 0
    bytes: int = 0
    width: int = 0
    height: int = 0
    sha256: str = ""
    prompt: str = ""
    license: str = ""
    license_url: str = ""
    attribution: str = ""

    @property
    def transient(self) -> bool:
        """Whether a later download may succeed: time-outs, connections, 429, 5xx."""
        return self.status == FAILED and is_passing(self.reason, self.http_status)


def is_passing(reason: str, http_status: int) -> bool:
    """Whether a failure may be gone at another time."""
    kind = reason.partition(":")[0]
    again = http_status in (408, 425, 429) or http_status >= 500
    return kind in ("timeout", "connection", "dns", "host") or (kind == "http" and again)


def stem_of(url: str) -> str:
    """Return the file name of a URL's image, without ending: uuid5(NAMESPACE_URL, url)."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, url))


def key_of_url(url: str) -> bytes:
    """The 16 bytes of `stem_of`."""
    return uuid.uuid5(uuid.NAMESPACE_URL, url).bytes


def key_of(stem: str) -> bytes:
    """The 16 bytes of a stem.

    Raises:
        ValueError: it is none.
    """
    return uuid.UUID(stem).bytes


def read_ledger(folder: Path) -> list[LedgerRow]:
    """Read every URL's row, sorted by file name, from the index and from the journal of a download
    that runs or was killed.

    Raises:
        FormatError: the index or the journal is damaged.
    """
    return list(iter_ledger(folder))


def iter_ledger(folder: Path) -> Iterator[LedgerRow]:
    """As `read_ledger`, row by row: some 35 bytes per line of the journal are in memory.

    Raises:
        FormatError: the index or the journal is damaged.
    """
    return with_owners(lambda: (row for _, row in placed_rows(folder)))


def placed_rows(folder: Path) -> Iterator[tuple[int, LedgerRow]]:
    """Yield every URL's row, sorted by file name, and its place, which `row_at` reads.

    Duplicates name the file that had their bytes when they were written.

    Raises:
        FormatError: the index or the journal is damaged.
    """
    index = ((key, -1 - number, row) for key, number, row in sorted_index(folder))
    journal = ((key_of_url(row.url), place, row) for place, row in _newest(folder))
    before = b""
    # Of equal keys the journal's comes first, and the index's is outdated.
    for key, place, row in heapq.merge(journal, index, key=lambda one: one[0]):
        if key != before:
            yield place, row
        before = key


def sorted_index(folder: Path) -> Iterator[tuple[bytes, int, LedgerRow]]:
    """Yield the index's rows sorted by file name: `key_of_url`, number in the index, and row.

    Raises:
        FormatError: it is damaged.
    """
    index = ((key_of_url(row.url), number, row) for number, row in _index_rows(folder, ()))
    return index if _is_sorted(folder) else iter(sorted(index, key=lambda one: one[0]))


def _is_sorted(folder: Path) -> bool:
    """Whether the index is sorted by file name, as every download leaves it."""
    keys = (key_of_url(row.url) for row in read_index(folder, ("url", "status")))
    return all(one <= other for one, other in itertools.pairwise(keys))


def _newest(folder: Path) -> Iterator[tuple[int, LedgerRow]]:
    """Yield the last line about each URL of the journal and its place, sorted by file name."""
    places, differs = _sorted_lines(folder)
    if not len(places):
        return
    with open(folder / JOURNAL, "rb") as handle:
        same: dict[str, tuple[int, LedgerRow]] = {}
        for start in range(0, len(places), ROWS_AT_ONCE):
            block = slice(start, start + ROWS_AT_ONCE)
            for place, new in zip(places[block].tolist(), differs[block].tolist(), strict=True):
                if new:
                    yield from sorted(same.values(), key=lambda one: key_of_url(one[1].url))
                    same.clear()
                row = _line_at(handle, place)
                same[row.url] = place, row
        yield from sorted(same.values(), key=lambda one: key_of_url(one[1].url))


def _sorted_lines(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The places of the journal's lines, sorted by the first eight bytes of their file names.

    Returns:
        The places (N,), those of equal bytes ascending; and whether the bytes differ from those
        before (N,).
    """
    heads, places = array("Q"), array("q")
    for place, row in _lines(folder):
        heads.append(int.from_bytes(key_of_url(row.url)[:8], "big"))
        places.append(place)
    order = np.argsort(np.frombuffer(heads, np.uint64), kind="stable")
    found = np.frombuffer(heads, np.uint64)[order]
    del heads
    differs = np.zeros(len(found), bool)
    np.not_equal(found[1:], found[:-1], out=differs[1:])
    del found
    return np.frombuffer(places, np.int64)[order], differs


def _line_at(handle: IO[bytes], place: int) -> LedgerRow:
    handle.seek(place)
    value = json.loads(handle.readline())  # `_lines` has checked it
    return LedgerRow(**{name: value[name] for name in _NAMES if name in value})


_NAMES = tuple(one.name for one in fields(LedgerRow))


class RowReader:
    """Reads single rows of a folder's ledger by the places that `placed_rows` yields."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._group: tuple[int, dict[int, LedgerRow]] = (-1, {})

    def row_at(self, place: int) -> LedgerRow:
        """The row at a place: that of a line of the journal, or -1 minus a row of the index."""
        if place >= 0:
            with open(self._folder / JOURNAL, "rb") as handle:
                return _line_at(handle, place)
        file = open_rows(self._folder / INDEX, PURPOSE)
        row = -1 - place
        for number in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(number).num_rows
            if row < count:
                if self._group[0] != number:
                    self._group = (number, dict(_rows_of(file.read_row_group(number))))
                return self._group[1][row]
            row -= count
        raise FormatError(f"{self._folder / INDEX}: it was replaced while a download ran.")


def with_owners(rows: Callable[[], Iterable[LedgerRow]]) -> Iterator[LedgerRow]:
    """Yield rows; each duplicate names the file of the URL that has its bytes.

    Args:
        rows: called for each pass over the same rows; some 70 bytes are in memory for each image
            with duplicates.
    """
    wanted = Keys(np.int64)
    for row in rows():
        if row.status == DUPLICATE:
            wanted[digest_of(row)] = -1

    def files() -> Iterator[str]:
        count = 0
        for row in rows():
            if row.status == OK and (digest := digest_of(row)) in wanted:
                wanted[digest] = count
                count += 1
                yield row.file

    names = Texts.of(files()) if len(wanted) else Texts.of(())
    for row in rows():
        place = wanted.get(digest_of(row), -1) if row.status == DUPLICATE else -1
        yield row if place < 0 else replace(row, file=names[place])


def digest_of(row: LedgerRow) -> bytes:
    """The SHA-256 of a row's image, by which `Keys` finds it; of anything else some digest."""
    try:
        return bytes.fromhex(row.sha256).ljust(KEY_BYTES, b"\0")
    except ValueError:
        return hashlib.sha256(row.sha256.encode()).digest()


class Ledger:
    """A folder's ledger, open for writing by one process.

    Args:
        folder: folder of the images; must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / JOURNAL
        with writing(path):
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
            self._cut_torn_line()
            self._end = os.path.getsize(path)

    def _cut_torn_line(self) -> None:
        """Cut off the incomplete last line of a process that was killed while it wrote."""
        path = self.folder / JOURNAL
        with open(path, "rb") as handle:
            start = max(0, handle.seek(0, os.SEEK_END) - LONGEST_LINE)
            handle.seek(start)
            tail = handle.read()
        whole = tail.rfind(b"\n") + 1
        if whole < len(tail):
            os.truncate(path, start + whole)

    def add(self, rows: Iterable[LedgerRow]) -> int:
        """Append rows to the journal; when this returns, a kill does not lose them.

        Returns:
            the place of the first one, see `RowReader`.

        Raises:
            OutputError: the disk is full, or the folder is gone.
        """
        # ASCII, so that lone surrogates and line separators in a URL cannot break a line.
        lines = b"".join(json.dumps(asdict(row)).encode() + b"\n" for row in rows)
        with writing(self.folder / JOURNAL):
            place, self._end = self._end, self._end + len(lines)
            while lines:
                lines = lines[self._file.write(lines) :]
        return place

    def close(self) -> None:
        """Flush the journal to the disk."""
        with writing(self.folder / JOURNAL):
            os.fsync(self._file.fileno())
        self._file.close()

    def finish(self) -> None:
        """Merge the journal into the index, and delete it.

        Raises:
            OutputError: the index cannot be written (the journal stays).
        """
        self.close()
        write_index(self.folder, iter_ledger(self.folder))
        (self.folder / JOURNAL).unlink()


def write_index(folder: Path, rows: Iterable[LedgerRow]) -> None:
    """Write `index.parquet` from rows that are sorted by file name, and read once.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(folder / INDEX) as temporary:
        write_rows(temporary, LedgerRow, rows, PURPOSE, group=GROUP_ROWS)


def read_journal(folder: Path) -> Iterator[LedgerRow]:
    """Read the journal, the oldest line first; the last line about a URL counts.

    Raises:
        FormatError: a line is damaged.
    """
    yield from (row for _, row in _lines(folder))


def _lines(folder: Path) -> Iterator[tuple[int, LedgerRow]]:
    """Yield the place of each line of the journal, and its row."""
    path = folder / JOURNAL
    if not path.is_file():
        return
    place = 0
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, 1):
            if not line.endswith(b"\n"):
                return  # a write that a kill cut short
            try:
                yield place, from_json(LedgerRow, json.loads(line))
                place += len(line)
            except (ValueError, RecursionError) as error:
                raise FormatError(
                    f"{path}, line {number}: expected a JSON object about a URL ({error}). "
                    "Delete that line and run the same `clipdistill download` command again."
                ) from error


def read_index(folder: Path, columns: Sequence[str] = ()) -> Iterator[LedgerRow]:
    """Read the index that the last finished download wrote.

    Args:
        folder: folder of the images.
        columns: those to read, url and status among them; default: all.

    Raises:
        FormatError: it is damaged.
        MissingExtraError: pyarrow is not installed.
    """
    yield from (row for _, row in _index_rows(folder, columns))


def _index_rows(folder: Path, columns: Sequence[str]) -> Iterator[tuple[int, LedgerRow]]:
    """As `read_index`, with the number of each row."""
    path = folder / INDEX
    if not path.is_file():
        return
    start = 0
    pyarrow = arrow(PURPOSE)
    try:
        file = open_rows(at_hand(path), PURPOSE)
        names = [f.name for f in fields(LedgerRow) if f.name in file.schema_arrow.names]
        if "url" not in names or "status" not in names:
            raise TypeMismatch(
                f"expected the columns url and status, found {', '.join(file.schema_arrow.names)}"
            )
        wanted = [name for name in names if not columns or name in columns]
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=wanted):
            yield from ((start + number, row) for number, row in _rows_of(batch))
            start += batch.num_rows
    except TypeMismatch as error:
        raise FormatError(
            f"{path}: {error}. Move it to another folder and run the same `clipdistill download` "
            "command again: the images are kept."
        ) from error
    except (pyarrow.ArrowException, OSError) as error:
        raise FormatError(
            f"{path}: the ledger of a download cannot be read ({error}). Move it to another folder "
            "and run the same `clipdistill download` command again: the images are kept."
        ) from error


def _rows_of(batch: Any) -> Iterator[tuple[int, LedgerRow]]:
    """The numbered rows of a batch or a table of the index that have a URL and a status."""
    there = {one.name: one.name for one in fields(LedgerRow) if one.name in batch.schema.names}
    for number, row in enumerate(typed_rows(batch, LedgerRow, there)):
        if row.keys() >= {"url", "status"}:
            yield number, LedgerRow(**row)

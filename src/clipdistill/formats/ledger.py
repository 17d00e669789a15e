"""The ledger of a download: `index.parquet`, one row per URL, and its journal `index.jsonl`.

While a download runs, and after one that was killed, the journal holds the newest rows, one per
line.  Its last line about a URL counts, and it counts before `index.parquet`.  An image's line is
written before the image gets its name, so that every file in the folder has a row.  At its end a
download merges the journal into `index.parquet`, sorted by file name, and deletes it.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from ..core.errors import FormatError
from ..core.files import atomic_path, writing
from ..core.node_cache import at_hand
from ..core.results import from_json
from .parquet import TypeMismatch, arrow, typed_rows, write_rows

INDEX = "index.parquet"
JOURNAL = "index.jsonl"

OK, DUPLICATE, FAILED, REFUSED = "ok", "duplicate", "failed", "refused"
"""The statuses: the image is stored; its bytes are those of another URL's file; it cannot be
downloaded (see the reason); it must not be downloaded (its address, robots.txt)."""

PURPOSE = "The ledger of a download"
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


def read_ledger(folder: Path) -> list[LedgerRow]:
    """Read every URL's row, from the index and from the journal of a download that runs or was
    killed.

    Raises:
        FormatError: the index or the journal is damaged.
    """
    newest = {row.url: row for row in read_journal(folder)}
    rows = [newest.pop(row.url, row) for row in read_index(folder)]
    return with_owners([*rows, *newest.values()])


def with_owners(rows: Sequence[LedgerRow]) -> list[LedgerRow]:
    """Return the rows; each duplicate names the file of the URL that has its bytes."""
    owners = {row.sha256: row.file for row in rows if row.status == OK}
    return [
        replace(row, file=owners.get(row.sha256, row.file)) if row.status == DUPLICATE else row
        for row in rows
    ]


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

    def add(self, rows: Iterable[LedgerRow]) -> None:
        """Append rows to the journal; when this returns, a kill does not lose them.

        Raises:
            OutputError: the disk is full, or the folder is gone.
        """
        # ASCII, so that lone surrogates and line separators in a URL cannot break a line.
        lines = b"".join(json.dumps(asdict(row)).encode() + b"\n" for row in rows)
        with writing(self.folder / JOURNAL):
            while lines:
                lines = lines[self._file.write(lines) :]

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
        write_index(self.folder, read_ledger(self.folder))
        (self.folder / JOURNAL).unlink()


def write_index(folder: Path, rows: Iterable[LedgerRow]) -> None:
    """Write `index.parquet`, sorted by file name.

    Raises:
        OutputError: it cannot be written.
    """
    ordered = sorted(rows, key=lambda row: stem_of(row.url))
    with atomic_path(folder / INDEX) as temporary:
        write_rows(temporary, LedgerRow, ordered, PURPOSE)


def read_journal(folder: Path) -> Iterator[LedgerRow]:
    """Read the journal, the oldest line first; the last line about a URL counts.

    Raises:
        FormatError: a line is damaged.
    """
    path = folder / JOURNAL
    if not path.is_file():
        return
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, 1):
            if not line.endswith(b"\n"):
                return  # a write that a kill cut short
            try:
                yield from_json(LedgerRow, json.loads(line))
            except (ValueError, RecursionError) as error:
                raise FormatError(
                    f"{path}, line {number}: expected a JSON object about a URL ({error}). "
                    "Delete that line and run the same `clipdistill download` command again."
                ) from error


def read_index(folder: Path) -> Iterator[LedgerRow]:
    """Read the index that the last finished download wrote.

    Raises:
        FormatError: it is damaged.
        MissingExtraError: pyarrow is not installed.
    """
    path = folder / INDEX
    if not path.is_file():
        return
    pyarrow = arrow(PURPOSE)
    try:
        file = pyarrow.parquet.ParquetFile(at_hand(path))
        names = [f.name for f in fields(LedgerRow) if f.name in file.schema_arrow.names]
        if "url" not in names or "status" not in names:
            raise TypeMismatch(
                f"expected the columns url and status, found {', '.join(file.schema_arrow.names)}"
            )
        for batch in file.iter_batches(columns=names):
            for row in typed_rows(batch, LedgerRow, {name: name for name in names}):
                if row.keys() >= {"url", "status"}:
                    yield LedgerRow(**row)
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

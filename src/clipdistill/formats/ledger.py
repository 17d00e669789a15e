"""The ledger of a download: `index.parquet`, a row a URL, and the journal that grows into it.

While a download runs, and after one that was killed, `index.jsonl` holds the newest rows, a line
each; the later line of a URL counts, and every line counts before `index.parquet`.  A picture's
line is written before the picture gets its name, so that no file lies there unaccounted for.  A run
that ends merges the journal into the parquet, sorted by file name, and deletes it.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..core.errors import FormatError, MissingExtraError
from ..core.files import atomic_path, writing

INDEX = "index.parquet"
JOURNAL = "index.jsonl"

OK, DUPLICATE, FAILED, REFUSED = "ok", "duplicate", "failed", "refused"
"""The statuses: stored; the same bytes as another URL's file; could not be had (see reason);
must not be had (address, robots)."""

LONGEST_LINE = 1 << 24
"""Bytes; far above what a row takes."""
_INTEGERS = ("http_status", "bytes", "width", "height")


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What became of one URL.

    Attributes:
        url: as it was given.
        file: the picture's name in the folder; of a duplicate, the file that has its bytes.
        status: ok, duplicate, failed or refused.
        reason: why not, "kind: detail"; empty when ok.
        http_status: of the last answer; 0 when there was none.
        bytes: of the stored file.
        width: of the stored file, pixels.
        height: likewise.
        sha256: of the stored file, hex.
        prompt: what found it.
        license: short name.
        license_url: where the licence can be read.
        attribution: whom to name.
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
        """Whether another day may bring another answer: time-outs, connections, 429, 5xx."""
        return self.status == FAILED and is_passing(self.reason, self.http_status)


def is_passing(reason: str, http_status: int) -> bool:
    """Whether a reason may be gone at another time."""
    kind = reason.partition(":")[0]
    again = http_status in (408, 425, 429) or http_status >= 500
    return kind in ("timeout", "connection", "dns", "host") or (kind == "http" and again)


def stem_of(url: str) -> str:
    """The file name of a URL's picture, without ending: uuid5(NAMESPACE_URL, url)."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, url))


def read_ledger(folder: Path) -> list[LedgerRow]:
    """Every URL's row: of the index, and of the journal of a run that goes on or was killed.

    Raises:
        FormatError: the index or the journal is damaged.
    """
    newest = {row.url: row for row in read_journal(folder)}
    rows = [newest.pop(row.url, row) for row in read_index(folder)]
    rows += newest.values()
    owners = {row.sha256: row.file for row in rows if row.status == OK}
    return [
        replace(row, file=owners.get(row.sha256, row.file)) if row.status == DUPLICATE else row
        for row in rows
    ]


class Ledger:
    """A folder's ledger, open for writing by one process.

    Args:
        folder: where the pictures are; must exist.

    Raises:
        FormatError: the ledger that is there is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / JOURNAL
        with writing(path):
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
            self._cut_torn_line()

    def _cut_torn_line(self) -> None:
        """Cut off the half line that a kill in the middle of a write left."""
        path = self.folder / JOURNAL
        with open(path, "rb") as handle:
            start = max(0, handle.seek(0, os.SEEK_END) - LONGEST_LINE)
            handle.seek(start)
            tail = handle.read()
        whole = tail.rfind(b"\n") + 1
        if whole < len(tail):
            os.truncate(path, start + whole)

    def add(self, rows: Iterable[LedgerRow]) -> None:
        """Append rows to the journal; they are safe from a kill when this returns.

        Raises:
            OutputError: the disk is full, or the folder is gone.
        """
        lines = b"".join(_line(row) for row in rows)
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
        rows = sorted(read_ledger(self.folder), key=lambda row: stem_of(row.url))
        with atomic_path(self.folder / INDEX) as temporary:
            _write_index(temporary, rows)
        (self.folder / JOURNAL).unlink()


def _line(row: LedgerRow) -> bytes:
    # ASCII, so that lone surrogates and line separators in a URL cannot break a line.
    return json.dumps(asdict(row)).encode() + b"\n"


def read_journal(folder: Path) -> Iterator[LedgerRow]:
    """The journal, oldest line first; the later line of a URL counts."""
    path = folder / JOURNAL
    if not path.is_file():
        return
    names = {field.name for field in fields(LedgerRow)}
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, 1):
            if not line.endswith(b"\n"):
                return  # a write that a kill cut short
            try:
                value = json.loads(line)
                yield LedgerRow(**{k: v for k, v in value.items() if k in names})
            except (ValueError, TypeError, AttributeError) as error:
                raise FormatError(
                    f"{path}, line {number}: expected a JSON object of a download ({error}). "
                    "Delete that line and run the same download again."
                ) from error


def read_index(folder: Path) -> Iterator[LedgerRow]:
    """The index that the last run that ended wrote."""
    path = folder / INDEX
    if not path.is_file():
        return
    arrow = _arrow()
    try:
        file = arrow.parquet.ParquetFile(path)
        names = [f.name for f in fields(LedgerRow) if f.name in file.schema_arrow.names]
        if "url" not in names or "status" not in names:
            raise FormatError(f"{path}: expected the columns url and status of a download.")
        for batch in file.iter_batches(columns=names):
            for row in batch.to_pylist():
                yield LedgerRow(**{k: v for k, v in row.items() if v is not None})
    except (arrow.ArrowException, OSError) as error:
        raise FormatError(
            f"{path}: not a readable ledger ({error}). Move it away and run the download again: "
            "pictures that are there are kept."
        ) from error


def _write_index(path: Path, rows: Iterable[LedgerRow]) -> None:
    arrow = _arrow()
    kinds = {name: arrow.int64() for name in _INTEGERS}
    schema = arrow.schema([(f.name, kinds.get(f.name, arrow.string())) for f in fields(LedgerRow)])
    with arrow.parquet.ParquetWriter(path, schema) as writer:
        for some in _chunks(rows, 65536):
            records = [_storable(row) for row in some]
            writer.write_table(arrow.Table.from_pylist(records, schema=schema))


def _storable(row: LedgerRow) -> dict[str, Any]:
    """A row for parquet, whose texts are UTF-8: lone surrogates are escaped."""
    return {
        name: value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for name, value in asdict(row).items()
    }


def _chunks(rows: Iterable[LedgerRow], size: int) -> Iterator[list[LedgerRow]]:
    some: list[LedgerRow] = []
    for row in rows:
        some.append(row)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "web", "The ledger of a download") from error
    return pyarrow

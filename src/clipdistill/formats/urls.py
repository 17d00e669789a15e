"""Lists of image URLs: `NAME.txt`, one URL per line in rank order, and `NAME.parquet` beside it,
with the prompt, score, source and licence of each.

Only the text file decides which URLs are in the list, so it may be edited by hand.  The parquet
adds what is known of them.  Tables of others (.parquet, .csv, .tsv, .jsonl) are lists, too.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..core.errors import FormatError, InputError
from ..core.files import atomic_path
from ..core.wording import valid
from .parquet import TypeMismatch, arrow, open_rows, texts, typed_rows, write_rows
from .url_tables import open_list, table_rows

BATCH_ROWS = 8192
"""Parquet rows that are in memory while a file is read."""
PURPOSE = "A list of URLs"


@dataclass(frozen=True)
class UrlRow:
    """One image on the web, and how it was found.

    Attributes:
        url: URL as its source gave it.
        prompt: prompt that found it; empty when unknown.
        rank: place among the prompt's results, from 1; 0 when unknown.
        score: similarity with the prompt, as the source measures it; None when unknown.
        source: knn, commons, openverse, parquet or pool; empty when unknown.
        caption: title or caption of the image.
        license: short name of the licence, such as "CC BY-SA 4.0"; empty when unknown.
        license_url: address of the licence's text; empty when unknown.
        attribution: author to name; empty when unknown.
    """

    url: str
    prompt: str = ""
    rank: int = 0
    score: float | None = None
    source: str = ""
    caption: str = ""
    license: str = ""
    license_url: str = ""
    attribution: str = ""

    def __post_init__(self) -> None:
        """Make texts of strangers valid, so that every row can be written."""
        for name in ("url", "prompt", "caption", "license", "license_url", "attribution"):
            text = getattr(self, name)
            if not text.isascii():
                object.__setattr__(self, name, valid(text))


def save_urls(path: Path, rows: Iterable[UrlRow]) -> None:
    """Write the parquet, then the text file `path` beside it; the rows are read once.

    Raises:
        OutputError: they cannot be written.
    """

    def noted(lines: IO[str]) -> Iterator[UrlRow]:
        for row in rows:
            lines.write(f"{one_line(row.url)}\n")
            yield row

    with (
        atomic_path(path) as text,
        open(text, "w", encoding="utf-8", newline="\n") as lines,
        atomic_path(path.with_suffix(".parquet")) as temporary,
    ):
        write_rows(temporary, UrlRow, noted(lines), PURPOSE)


def one_line(url: str) -> str:
    """Return a URL without line breaks and outer blanks."""
    return url.replace("\r", "").replace("\n", "").strip()


def read_urls(path: Path) -> Iterator[UrlRow]:
    """Read a list, text, table or parquet, row by row, in its order and with repeated URLs.

    Raises:
        InputError: there is no such file.
        FormatError: it is not UTF-8 text, not parquet, or has no column of URLs.
        MissingExtraError: pyarrow is not installed, and there is a parquet.
    """
    if path.suffix.lower() == ".parquet":
        yield from _parquet_rows(path)
        return
    table = _table_rows(path)
    if table is not None:
        for found in table:
            yield replace(UrlRow(""), **found)
        return
    beside = path.with_suffix(".parquet")
    if not beside.is_file():
        yield from map(UrlRow, _lines(path))
        return
    known, lines = _Details(beside), _lines(path)
    while block := list(itertools.islice(lines, BATCH_ROWS)):
        yield from known.of(block)


def count_urls(path: Path) -> int:
    """Count the rows that `read_urls` gives.

    Raises:
        InputError: there is no such file.
        FormatError: it is not UTF-8 text, not parquet, or has no column of URLs.
    """
    if path.suffix.lower() == ".parquet":
        return int(_open_parquet(path).metadata.num_rows)
    table = _table_rows(path)
    return sum(1 for _ in (_lines(path) if table is None else table))


class _Details:
    """What the parquet beside a list has about its URLs.

    As long as the rows of both agree, as `save_urls` writes them, they are read together, without
    memory for each; from the first difference on, 16 bytes per row are in memory.

    Args:
        path: the parquet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file, self._columns = _open_parquet(path), _columns_of(path)
        self._together: Iterator[UrlRow] | None = _parquet_rows(path)
        self._group: tuple[int, Any] = (-1, None)

    def of(self, urls: Sequence[str]) -> list[UrlRow]:
        """The row of each URL; one without details where there is none.

        Args:
            urls: the next ones of the list.
        """
        if self._together is not None:
            rows = list(itertools.islice(self._together, len(urls)))
            if [row.url for row in rows] == urls:
                return rows
            self._together = None
            self._sort()
        return self._found(urls)

    def _sort(self) -> None:
        group = self._file.metadata.row_group
        counts = [group(n).num_rows for n in range(self._file.metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        every = np.empty(self._starts[-1], np.int64)
        end = 0
        with _reading(self._path):
            for batch in self._file.iter_batches(BATCH_ROWS, columns=[self._columns["url"]]):
                urls = texts(batch.column(0), self._columns["url"])
                start, end = end, end + len(urls)
                every[start:end] = np.fromiter(map(hash, urls), np.int64, len(urls))
        # Backwards, so that of several rows of a URL the last one comes first.
        order = np.argsort(every[::-1], kind="stable")
        self._order = np.subtract(len(every) - 1, order, out=order)
        self._hashes = every[self._order]

    def _found(self, urls: Sequence[str]) -> list[UrlRow]:
        wanted = np.fromiter(map(hash, urls), np.int64, len(urls))
        at = np.searchsorted(self._hashes, wanted)
        there = np.flatnonzero(at < len(self._hashes))
        there = there[self._hashes[at[there]] == wanted[there]]
        rows = self._order[at[there]]
        result = [UrlRow(url) for url in urls]
        for group in np.unique(np.searchsorted(self._starts, rows, side="right") - 1).tolist():
            start, stop = self._starts[group], self._starts[group + 1]
            here = np.flatnonzero((rows >= start) & (rows < stop))
            with _reading(self._path):
                some = self._table(group).take(rows[here] - start)
                found = list(typed_rows(some, UrlRow, self._columns))
            for place, row in zip(there[here].tolist(), found, strict=True):
                if row.get("url") == urls[place]:  # and not only their hashes
                    result[place] = UrlRow(**row)
        return result

    def _table(self, group: int) -> Any:
        if self._group[0] != group:
            columns = list(self._columns.values())
            self._group = (group, self._file.read_row_group(group, columns=columns))
        return self._group[1]


def _table_rows(path: Path) -> Iterator[dict[str, Any]] | None:
    if path.with_suffix(".parquet").is_file() and path.suffix.lower() == ".txt":
        return None  # a list that `search` wrote
    try:
        return table_rows(path)
    except OSError as error:
        raise InputError(
            f"{path}: the list of URLs cannot be read ({error.strerror or error}). Expected a text "
            "file with one URL per line, or a .csv, .tsv, .jsonl or .parquet with a column url. "
            "Make one with: clipdistill search"
        ) from error


def _lines(path: Path) -> Iterator[str]:
    try:
        with open_list(path) as handle:
            for line in handle:
                if url := line.strip("\r\n \t"):
                    yield url
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path}: the list of URLs should be UTF-8 text, but a byte "
            f"(0x{error.object[error.start]:02x}) is not. Check that the file is a list of URLs."
        ) from error


def _open_parquet(path: Path) -> Any:
    pyarrow = arrow(PURPOSE)
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such list of URLs. Make one with: clipdistill search"
        )
    try:
        return open_rows(path, PURPOSE)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> FormatError:
    return FormatError(
        f"{path}: not a readable parquet file ({error}). Delete it, or make it again with: "
        "clipdistill search"
    )


def _columns_of(path: Path) -> dict[str, str]:
    """Our columns in a parquet: name of a field -> name of its column.

    Raises:
        FormatError: there is no column of URLs.
    """
    file = _open_parquet(path)
    names = {name.lower(): name for name in file.schema_arrow.names}
    if "url" not in names:
        raise FormatError(
            f"{path}: expected a column url, found {', '.join(file.schema_arrow.names)}. Give a "
            "list that `clipdistill search` wrote."
        )
    return {f.name: names[f.name] for f in fields(UrlRow) if f.name in names}


def _parquet_rows(path: Path) -> Iterator[UrlRow]:
    columns = _columns_of(path)
    with _reading(path):
        batches = _open_parquet(path).iter_batches(BATCH_ROWS, columns=list(columns.values()))
        for batch in batches:
            for found in typed_rows(batch, UrlRow, columns):
                if found.get("url"):
                    yield UrlRow(**found)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file in errors of its content."""
    pyarrow = arrow(PURPOSE)
    try:
        yield
    except TypeMismatch as error:
        raise FormatError(
            f"{path}: {error}. Delete the file, or make it again with: clipdistill search"
        ) from error
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error

"""Lists of image URLs: `NAME.txt`, one URL per line in rank order, and `NAME.parquet` beside it,
with the prompt, score, source and licence of each.

Only the text file decides which URLs are in the list, so it may be edited by hand.  The parquet
adds what is known of them.  Tables of others (.parquet, .csv, .tsv, .jsonl) are lists, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..core.errors import FormatError, InputError
from ..core.files import atomic_path, write_bytes
from ..core.wording import valid
from .parquet import TypeMismatch, arrow, typed_rows, write_rows
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


def save_urls(path: Path, rows: Sequence[UrlRow]) -> None:
    """Write the parquet, then the text file `path` beside it.

    Raises:
        OutputError: they cannot be written.
    """
    with atomic_path(path.with_suffix(".parquet")) as temporary:
        write_rows(temporary, UrlRow, rows, PURPOSE)
    write_bytes(path, "".join(f"{one_line(row.url)}\n" for row in rows).encode())


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
    known = {row.url: row for row in _parquet_rows(beside)} if beside.is_file() else {}
    for url in _lines(path):
        yield known.get(url) or UrlRow(url)


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
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> FormatError:
    return FormatError(
        f"{path}: not a readable parquet file ({error}). Delete it, or make it again with: "
        "clipdistill search"
    )


def _parquet_rows(path: Path) -> Iterator[UrlRow]:
    file, pyarrow = _open_parquet(path), arrow(PURPOSE)
    names = {name.lower(): name for name in file.schema_arrow.names}
    if "url" not in names:
        raise FormatError(
            f"{path}: expected a column url, found {', '.join(file.schema_arrow.names)}. Give a "
            "list that `clipdistill search` wrote."
        )
    columns = {f.name: names[f.name] for f in fields(UrlRow) if f.name in names}
    try:
        for batch in file.iter_batches(BATCH_ROWS, columns=list(columns.values())):
            for found in typed_rows(batch, UrlRow, columns):
                if found.get("url"):
                    yield UrlRow(**found)
    except TypeMismatch as error:
        raise FormatError(
            f"{path}: {error}. Delete the file, or make it again with: clipdistill search"
        ) from error
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error

"""Lists of image URLs: `NAME.txt`, one a line in rank order, and `NAME.parquet` beside it, which
says where each came from (prompt, score, source, licence).

The text file is the truth about which URLs there are, so it may be edited by hand; the parquet
tells more about those that it knows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..core.errors import FormatError, InputError, MissingExtraError
from ..core.files import atomic_path, write_bytes

BATCH_ROWS = 8192
"""Parquet rows read at a time."""


@dataclass(frozen=True)
class UrlRow:
    """One image on the web, and how it was found.

    Attributes:
        url: as its source gave it.
        prompt: the prompt that found it.
        rank: its place among the prompt's results, from 1; 0 when unknown.
        score: similarity with the prompt, as the source measures it; None when unknown.
        source: knn, commons, openverse, parquet, pool; empty when unknown.
        caption: its title or caption.
        license: short name, such as "CC BY-SA 4.0"; empty when unknown.
        license_url: where the licence can be read.
        attribution: whom to name.
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


def save_urls(path: Path, rows: Sequence[UrlRow]) -> None:
    """Write the list `path` (text) and the `.parquet` beside it, the text last.

    Raises:
        OutputError: they cannot be written.
    """
    with atomic_path(path.with_suffix(".parquet")) as temporary:
        _write_parquet(temporary, rows)
    write_bytes(path, "".join(f"{one_line(row.url)}\n" for row in rows).encode())


def one_line(url: str) -> str:
    """A URL without the line breaks and outer blanks that it must not have."""
    return url.replace("\r", "").replace("\n", "").strip()


def read_urls(path: Path) -> Iterator[UrlRow]:
    """Read a list, text or parquet, row by row, in its order; a URL that stands twice comes twice.

    Raises:
        InputError: no such file.
        FormatError: not UTF-8 text, not parquet, or without a column of URLs.
    """
    if path.suffix.lower() == ".parquet":
        yield from _parquet_rows(path)
        return
    beside = path.with_suffix(".parquet")
    known = {row.url: row for row in _parquet_rows(beside)} if beside.is_file() else {}
    for url in _lines(path):
        yield known.get(url) or UrlRow(url)


def count_urls(path: Path) -> int:
    """How many rows `read_urls` gives.

    Raises:
        InputError: no such file.
        FormatError: as `read_urls`.
    """
    if path.suffix.lower() == ".parquet":
        return int(_open_parquet(path).metadata.num_rows)
    return sum(1 for _ in _lines(path))


def _lines(path: Path) -> Iterator[str]:
    try:
        # Not universal newlines: a form feed or U+2028 may be part of what somebody pasted.
        with open(path, encoding="utf-8-sig", newline="\n") as handle:
            for line in handle:
                if url := line.strip("\r\n \t"):
                    yield url
    except OSError as error:
        raise InputError(
            f"{path}: no readable list of URLs ({error.strerror or error}). Expected a text file, "
            "a URL a line, or a .parquet with a column url. Make one with: clipdistill search"
        ) from error
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path}: URLs should be UTF-8 text, but a byte (0x{error.object[error.start]:02x}) is "
            "not. Is it a list of URLs?"
        ) from error


def _open_parquet(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "web", "A parquet file") from error
    if not path.is_file():
        raise InputError(f"{path}: no such list of URLs. Make one with: clipdistill search")
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise FormatError(f"{path}: not a readable parquet file ({error}).") from error


def _parquet_rows(path: Path) -> Iterator[UrlRow]:
    import pyarrow

    file = _open_parquet(path)
    names = {name.lower(): name for name in file.schema_arrow.names}
    if "url" not in names:
        raise FormatError(
            f"{path}: expected a column url, found {', '.join(file.schema_arrow.names)}."
        )
    columns = {f.name: names[f.name] for f in fields(UrlRow) if f.name in names}
    blank = UrlRow("")
    try:
        for batch in file.iter_batches(BATCH_ROWS, columns=list(columns.values())):
            values = {name: batch.column(column).to_pylist() for name, column in columns.items()}
            for row in zip(*values.values(), strict=True):
                found = {k: v for k, v in zip(values, row, strict=True) if v is not None}
                if found.get("url"):
                    yield dataclasses.replace(blank, **_typed(path, found))
    except (pyarrow.ArrowException, OSError) as error:
        raise FormatError(f"{path}: damaged parquet file ({error}).") from error


def _typed(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    try:
        return {
            name: int(value) if name == "rank" else float(value) if name == "score" else str(value)
            for name, value in found.items()
        }
    except (TypeError, ValueError) as error:
        raise FormatError(f"{path}: a rank or score that is not a number ({error}).") from error


def _write_parquet(path: Path, rows: Iterable[UrlRow]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "web", "A list of URLs") from error
    types = {"rank": pyarrow.int64(), "score": pyarrow.float64()}
    schema = pyarrow.schema([(f.name, types.get(f.name, pyarrow.string())) for f in fields(UrlRow)])
    table = pyarrow.Table.from_pylist([asdict(row) for row in rows], schema=schema)
    pyarrow.parquet.write_table(table, path)

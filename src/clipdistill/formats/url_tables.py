"""Tables of URLs as text: CSV, TSV and JSON lines, by their content or their file's ending."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from ..core.errors import FormatError
from ..core.files import encoding_of

COLUMNS = {
    "url": ("url", "originalurl", "image_url", "imageurl"),
    "caption": ("text", "caption", "title", "top_caption"),
    "license": ("license", "license_type", "licence"),
    "license_url": ("license_url",),
    "attribution": ("attribution", "author", "creator", "artist"),
}
"""Our column name -> the names in tables, lower case, the most likely first."""
LOOKED_AT = 100
"""Lines of a list of which one has to be a URL."""


def columns_of(names: Sequence[str]) -> dict[str, int]:
    """Map our column names to the places of a table's columns, whose names may be in any case."""
    places = {name.strip().lower(): place for place, name in reversed(list(enumerate(names)))}
    found = {
        field: next((places[one] for one in some if one in places), None)
        for field, some in COLUMNS.items()
    }
    return {field: place for field, place in found.items() if place is not None}


def open_list(path: Path, *, strict: bool = True) -> IO[str]:
    """Open a list for reading; its byte order mark names its encoding, without one it is UTF-8.

    Not with universal newlines: a pasted URL may contain a form feed or U+2028.

    Args:
        path: the file.
        strict: raise UnicodeDecodeError for invalid bytes; otherwise they are escaped.
    """
    with open(path, "rb") as handle:
        encoding = encoding_of(handle.read(4))
    errors = "strict" if strict else "backslashreplace"
    return open(path, encoding=encoding, errors=errors, newline="\n")


def table_rows(path: Path) -> Iterator[dict[str, str]] | None:
    """Read a table's rows with a URL, by our column names; None when the file is a plain list.

    A table has the ending .csv, .tsv or .jsonl, a first line with a column of URLs, a first line
    with tabs, or lines that are JSON objects.  Without a header, the first URL's column counts.

    Raises:
        OSError: there is no such file.
        FormatError: it is a table without URLs, one that is damaged, or no list at all.
    """
    with open_list(path, strict=False) as handle:
        lines = [line.strip("\r\n ") for line in itertools.islice(handle, LOOKED_AT)]
    lines = [line for line in lines if line.strip()]
    if not lines:
        return None
    ending = path.suffix.lower()
    if lines[0].startswith("{") or ending in (".jsonl", ".ndjson"):
        return _json_rows(path)
    delimiter = "\t" if ending == ".tsv" or "\t" in lines[0] else ","
    cells = _cells(lines[0], delimiter)
    columns = columns_of(cells)
    if "url" in columns and not any(map(is_url, cells)):
        return _table(path, delimiter, columns, len(cells), header=True)
    if delimiter == "\t" or ending == ".csv":
        places = [place for place, cell in enumerate(cells) if is_url(cell)]
        if not places:
            raise FormatError(
                f"{path}: expected a column {' or '.join(COLUMNS['url'])} (in any case), found "
                f"{', '.join(cells)}."
            )
        columns = {"url": places[0]}
        if len(cells) == 2:
            columns["caption"] = 1 - places[0]
        return _table(path, delimiter, columns, len(cells), header=False)
    if not any(map(is_url, lines)):
        raise FormatError(
            f"{path}: expected a list with one URL per line, or a table (.csv, .tsv, .jsonl, "
            f".parquet) with a column url, found {lines[0][:80]!r}."
        )
    return None


def is_url(text: str) -> bool:
    """Whether a text begins like a URL that can be downloaded."""
    return text.lstrip().lower().startswith(("http://", "https://"))


def _cells(line: str, delimiter: str) -> list[str]:
    return next(iter(_reader([line], delimiter)), [])


def _reader(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    if delimiter == ",":
        yield from csv.reader(lines)
        return
    # In tables with tabs a quote is mostly a quote, not the begin of a quoted cell.
    for row in csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE):
        yield [cell.strip('"') for cell in row]


def _table(
    path: Path, delimiter: str, columns: Mapping[str, int], width: int, *, header: bool
) -> Iterator[dict[str, str]]:
    try:
        with open_list(path, strict=False) as handle:
            rows: Iterable[list[str]] = _reader(handle, delimiter)
            if width == 1:  # a URL may contain commas
                rows = ([line.strip().strip('"')] for line in handle)
            for cells in itertools.islice((row for row in rows if any(row)), int(header), None):
                found = {
                    name: cells[place].strip()
                    for name, place in columns.items()
                    if place < len(cells)
                }
                if found.get("url"):
                    yield found
    except csv.Error as error:
        raise FormatError(f"{path}: not a readable table ({error}).") from error


def _json_rows(path: Path) -> Iterator[dict[str, str]]:
    with open_list(path, strict=False) as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise FormatError(
                    f"{path}, line {number}: expected a JSON object with a url ({error})."
                ) from error
            names = list(value) if isinstance(value, dict) else []
            columns = columns_of(names)
            if "url" not in columns:
                raise FormatError(
                    f"{path}, line {number}: expected a JSON object with a url, found "
                    f"{line.strip()[:80]!r}."
                )
            found = {name: value[names[place]] for name, place in columns.items()}
            if found["url"]:
                yield {name: text for name, text in found.items() if isinstance(text, str)}

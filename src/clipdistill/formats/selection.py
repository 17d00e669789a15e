"""A selection: which images of a pile were chosen, and what became of the others.

    OUT/selected.txt         the chosen images' keys below the images folder, one a line, in the
                             order of choosing: its first n lines are a balanced selection of n
    OUT/selection.parquet    a row an image: image_path, label, score, rank, status, duplicate_of
    OUT/sheets/001-LABEL.png what was taken and what was dropped, to look at
    OUT/selection.json       the settings and counts; written last: "complete"

Whoever uses a selection reads `selected.txt`, which may be edited by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

from ..core.errors import FormatError, InputError, MissingExtraError
from ..core.files import (
    atomic_path,
    check_format,
    ensure_folder,
    read_json,
    write_bytes,
    write_json,
)

FORMAT = "clipdistill.selection"
VERSION = 1

LIST = "selected.txt"
TABLE = "selection.parquet"
CARD = "selection.json"
SHEETS = "sheets"
TABLE_ROWS = 65536
"""Rows that are written to the table at a time."""
LONGEST_NAME = 80
"""Bytes of a label in a sheet's file name; file systems take 255 for the whole."""


@dataclass(frozen=True)
class SelectionRow:
    """What became of one image.

    Attributes:
        image_path: its key below the images folder.
        label: the label that it is best for.
        score: its cosine with that label.
        rank: its place among the label's images, from 1.
        status: taken, near-duplicate, below-threshold, over-count or over-max.
        duplicate_of: the taken image that it is nearly the same as; empty when there is none.
    """

    image_path: str
    label: str
    score: float
    rank: int
    status: str
    duplicate_of: str


def begin_selection(out: Path) -> None:
    """Prepare the folder; what it held is no longer complete, and its sheets go.

    Raises:
        OutputError: it cannot be written to.
    """
    ensure_folder(out)
    ensure_folder(out / SHEETS)
    (out / CARD).unlink(missing_ok=True)
    for path in (out / SHEETS).iterdir():
        if re.fullmatch(r"\d{3,}(-.*)?\.png", path.name, re.DOTALL):
            path.unlink()


def listable(key: str) -> bool:
    """Whether an image's key can stand in a list of lines."""
    return "\n" not in key and "\r" not in key


def sheet_path(out: Path, number: int, label: str) -> Path:
    """Where the sheet of label `number` (from 1) is kept: readable, unique, safe everywhere."""
    safe = re.sub(r"\W+", "-", label).strip("-_")
    safe = safe.encode()[:LONGEST_NAME].decode(errors="ignore")
    return out / SHEETS / (f"{number:03d}-{safe}.png" if safe else f"{number:03d}.png")


def finish_selection(
    out: Path, selected: Sequence[str], rows: Iterable[SelectionRow], card: dict[str, Any]
) -> None:
    """Write the table, the list and, last, the card.

    Raises:
        OutputError: they cannot be written.
    """
    with atomic_path(out / TABLE) as temporary:
        _write_table(temporary, iter(rows))
    write_bytes(out / LIST, "".join(f"{key}\n" for key in selected).encode())
    write_json(out / CARD, {"format": FORMAT, "version": VERSION, **card})


def _write_table(path: Path, rows: Iterator[SelectionRow]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "web", "A selection") from error
    types = {"str": pyarrow.string(), "float": pyarrow.float32(), "int": pyarrow.int64()}
    schema = pyarrow.schema([(f.name, types[str(f.type)]) for f in fields(SelectionRow)])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while part := [asdict(row) for row in islice(rows, TABLE_ROWS)]:
            writer.write_table(pyarrow.Table.from_pylist(part, schema=schema))


def load_selection(path: Path) -> tuple[str, ...]:
    """The chosen images' keys, in the order of choosing, none twice.

    Args:
        path: the folder of a selection, or a text file with a key a line.

    Raises:
        InputError: nothing there, an unfinished selection, or an empty list.
        FormatError: not UTF-8 text, or another kind of folder.
    """
    if path.is_dir():
        if not (path / CARD).is_file():
            raise InputError(
                f"{path}: expected a finished selection, but it has no {CARD}. Make it with: "
                "clipdistill select"
            )
        check_format(path / CARD, read_json(path / CARD, "the selection's card"), FORMAT, VERSION)
        path = path / LIST
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(
            f"{path}: no readable list of images ({error.strerror or error}). Expected the folder "
            "of a selection (clipdistill select), or a text file with an image a line."
        ) from error
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path}: a list of images should be UTF-8 text, but byte {error.start} is not."
        ) from error
    keys = (line.removesuffix("\r") for line in text.split("\n"))
    found = tuple(dict.fromkeys(key for key in keys if key.strip()))
    if not found:
        raise InputError(f"{path}: no images in it. Select with a lower --min-score?")
    return found

"""A selection: which images of a folder were chosen, and what became of the others.

    OUT/selected.txt         keys of the chosen images below the images folder, one per line, in
                             the order of choosing: the first n lines are a balanced selection
    OUT/selection.parquet    one row per image: image_path, label, score, rank, status, duplicate_of
    OUT/sheets/001-LABEL.png contact sheet of the images that were taken and dropped
    OUT/selection.json       settings and counts; written last, so it marks a complete selection

Verbs that use a selection read `selected.txt`, which may be edited by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.files import (
    atomic_path,
    check_format,
    ensure_folder,
    read_json,
    read_text,
    write_json,
)
from .parquet import write_rows

FORMAT = "clipdistill.selection"
VERSION = 1

LIST = "selected.txt"
TABLE = "selection.parquet"
CARD = "selection.json"
SHEETS = "sheets"
LONGEST_NAME = 80
"""Bytes of a label in a sheet's file name; file systems allow 255 for the whole name."""


@dataclass(frozen=True)
class SelectionRow:
    """What became of one image.

    Attributes:
        image_path: key of the image below the images folder.
        label: label with the highest cosine.
        score: cosine with that label, -1 to 1.
        rank: place among the images of that label, from 1.
        status: taken, near-duplicate, below-threshold, over-count or over-max.
        duplicate_of: the taken image that is nearly the same; empty when there is none.
    """

    image_path: str
    label: str
    score: float
    rank: int
    status: str
    duplicate_of: str


def begin_selection(out: Path) -> None:
    """Make the folder, and delete the card and the sheets of an earlier selection in it.

    Raises:
        OutputError: the folder cannot be written to.
    """
    ensure_folder(out)
    ensure_folder(out / SHEETS)
    (out / CARD).unlink(missing_ok=True)
    for path in (out / SHEETS).iterdir():
        if re.fullmatch(r"\d{3,}(-.*)?\.png", path.name, re.DOTALL):
            path.unlink()


def listable(key: str) -> bool:
    """Whether an image's key fits on one line of `selected.txt`."""
    return "\n" not in key and "\r" not in key


def sheet_path(out: Path, number: int, label: str) -> Path:
    """Return the path of the sheet of label `number` (from 1), valid on every file system."""
    safe = re.sub(r"\W+", "-", label).strip("-_")
    safe = safe.encode()[:LONGEST_NAME].decode(errors="ignore")
    return out / SHEETS / (f"{number:03d}-{safe}.png" if safe else f"{number:03d}.png")


def finish_selection(
    out: Path, selected: Iterable[str], rows: Iterable[SelectionRow], card: dict[str, Any]
) -> None:
    """Write the table, the list and, last, the card.

    Raises:
        OutputError: they cannot be written.
    """
    with atomic_path(out / TABLE) as temporary:
        write_rows(temporary, SelectionRow, rows, "A selection")
    with atomic_path(out / LIST) as temporary, open(temporary, "wb") as file:
        file.writelines(f"{key}\n".encode() for key in selected)
    write_json(out / CARD, {"format": FORMAT, "version": VERSION, **card})


def load_selection(path: Path) -> tuple[str, ...]:
    """Return the keys of the chosen images, in the order of choosing, none twice.

    Args:
        path: folder of a selection, or text file with one key per line.

    Raises:
        InputError: there is no such file, the selection is unfinished, or the list is empty.
        FormatError: the list is not UTF-8 text, or the folder is of another kind.
    """
    if path.is_dir():
        if not (path / CARD).is_file():
            raise InputError(
                f"{path}: expected a finished selection, but it has no {CARD}. Make it with: "
                "clipdistill select"
            )
        check_format(path / CARD, read_json(path / CARD, "the selection's card"), FORMAT, VERSION)
        path = path / LIST
    text = read_text(
        path,
        "the list of images",
        "the folder of a selection (clipdistill select), or a text file with one image per line",
    )
    keys = (line.removesuffix("\r") for line in text.split("\n"))
    found = tuple(dict.fromkeys(key for key in keys if key.strip()))
    if not found:
        raise InputError(
            f"{path}: the list has no images. Let more pass: `clipdistill select` has --min-score."
        )
    return found

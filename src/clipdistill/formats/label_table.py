"""Tables of the labels of images, of which an image may have several or none.

image_path,labels              .csv, .tsv: labels separated by ";", or one row per label
dogs/1.jpg,dog;ball
sky.jpg,

{"image_path": "dogs/1.jpg", "labels": ["dog", "ball"]}     .jsonl, one object per line
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from ..core.errors import FormatError
from ..core.files import read_text

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson")
IMAGE, LABELS = "image_path", "labels"
SEPARATOR = ";"

Labelled = dict[str, tuple[str, ...]]
"""Name of an image below its folder -> its labels, each once."""


def is_label_table(path: Path) -> bool:
    """Whether a path has the ending of a table and is no folder."""
    return path.suffix.lower() in ENDINGS and not path.is_dir()


def load_label_table(path: Path) -> Labelled:
    """Read a table of labels; several rows of one image count together.

    Raises:
        InputError: there is no such file.
        FormatError: it is no such table, or names no image.
    """
    text = read_text(path, "the table of labels", "a table with the columns image_path and labels")
    rows = _json_rows(path, text) if path.suffix.lower() in ENDINGS[2:] else _rows(path, text)
    found: Labelled = {}
    for image, labels in rows:
        name = image.replace("\\", "/").removeprefix("./")
        found[name] = tuple(dict.fromkeys((*found.get(name, ()), *labels)))
    if not found:
        raise FormatError(f"{path}: the table names no image.")
    return found


def _rows(path: Path, text: str) -> Iterator[tuple[str, list[str]]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        head = [name.strip().lower() for name in next(reader, [])]
        if IMAGE not in head or LABELS not in head:
            raise FormatError(
                f"{path}: expected a first line with the columns {IMAGE} and {LABELS}, found "
                f"{delimiter.join(head)[:80]!r}."
            )
        image, labels = head.index(IMAGE), head.index(LABELS)
        for cells in reader:
            if not any(map(str.strip, cells)):
                continue
            if len(cells) != len(head) or not cells[image].strip():
                raise FormatError(
                    f"{path}, line {reader.line_num}: expected {len(head)} cells with the name of "
                    f'an image, found {len(cells)}. Separate several labels by "{SEPARATOR}".'
                )
            names = (name.strip() for name in cells[labels].split(SEPARATOR))
            yield cells[image].strip(), [name for name in names if name]
    except csv.Error as error:
        raise FormatError(f"{path}: not a readable table ({error}).") from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path}, line {number}: not JSON ({error}).") from error
        image = value.get(IMAGE) if isinstance(value, dict) else None
        labels = value.get(LABELS) if isinstance(value, dict) else None
        fits = isinstance(labels, list) and all(isinstance(one, str) for one in labels)
        if not isinstance(image, str) or not image or not fits:
            raise FormatError(
                f"{path}, line {number}: expected an object with {IMAGE}, a text, and {LABELS}, a "
                f"list of texts, found {line.strip()[:80]!r}."
            )
        yield image, list(labels or ())

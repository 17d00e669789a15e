"""The hits of an interrupted search, in a hidden file beside the list of URLs.

The first line of JSON holds the settings of the search; then one line per prompt holds its hits.
Lines are appended and flushed.  When a kill left an incomplete line, it is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from ...core.files import writing
from ...core.progress import message
from ...core.results import from_json
from ...formats.urls import UrlRow
from .hits import ranked, usable_url

FORMAT = "clipdistill.search"
VERSION = 1


def journal_path(urls: Path) -> Path:
    """The path of the journal of the list `urls`."""
    return urls.with_name(f".{urls.name}.search.jsonl")


class Journal:
    """Finished prompts and their hits.

    Attributes:
        found: prompt -> hits, those of earlier runs of the same search included.
        resumed: prompts that an earlier run had finished.
    """

    def __init__(self, urls: Path, settings: Mapping[str, Any]) -> None:
        """Open the journal of a list, and begin anew when it is of another search.

        Args:
            urls: the list, which is locked.
            settings: the settings that decide the hits, as plain JSON values.

        Raises:
            OutputError: it cannot be written.
        """
        self.path = journal_path(urls)
        self.found: dict[str, list[UrlRow]] = {}
        self._settings = dict(settings)
        with writing(self.path):
            self._file: IO[bytes] = open(self.path, "a+b")  # noqa: SIM115  # closed by `close`
            self._read()
        self.resumed = len(self.found)

    def add(self, prompt: str, rows: Sequence[UrlRow]) -> None:
        """Store the hits of a finished prompt.

        Raises:
            OutputError: the disk is full.
        """
        self.found[prompt] = list(rows)
        self._append({"prompt": prompt, "rows": [asdict(row) for row in rows]})

    def close(self, *, done: bool = False) -> None:
        """Close the file; delete it when the list is written (`done`), or when it is empty."""
        if self._file.closed:
            return
        if done or not self.found:
            with writing(self.path):
                self.path.unlink(missing_ok=True)
        self._file.close()

    def _read(self) -> None:
        self._file.seek(0)
        header: Any = None
        whole = 0
        for line in self._file:
            value = _parsed(line)
            if value is None:
                break  # this prompt and those after it are searched again
            if header is None:
                header = value
            else:
                self.found[value["prompt"]] = value["rows"]
            whole += len(line)
        wanted = {"format": FORMAT, "version": VERSION, "settings": self._settings}
        if header == wanted:
            self._file.truncate(whole)
            return
        if header is not None:
            message(
                f"The interrupted search was another one ({_difference(header, wanted)}); "
                "beginning anew."
            )
        self.found.clear()
        self._file.truncate(0)
        self._append(wanted)

    def _append(self, value: Mapping[str, Any]) -> None:
        with writing(self.path):
            self._file.seek(0, os.SEEK_END)
            self._file.write(json.dumps(value).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())


def _parsed(line: bytes) -> Any:
    """Parse a line; None for an incomplete or invalid line."""
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
        if "prompt" in value:
            read = [from_json(UrlRow, row) for row in value["rows"]]
            rows = ranked([replace(row, url=usable_url(row.url)) for row in read])
            return {"prompt": str(value["prompt"]), "rows": rows}
        return value if "settings" in value else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    before, now = found.get("settings"), wanted["settings"]
    if found.get("version") != wanted["version"] or not isinstance(before, dict):
        return "of another version"
    changed = [
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    return "; ".join(changed)

"""The hits of an interrupted search, in a hidden file beside the list of URLs.

The first line of JSON holds the settings of the search.  Then come the hits of each prompt, one per
line, and a line with the prompt and their number.  After a kill, what follows the last whole prompt
is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import IO, Any

from ...core.files import writing
from ...core.progress import message
from ...core.results import from_json
from ...formats.urls import UrlRow
from .hits import Hits, usable_url

FORMAT = "clipdistill.search"
VERSION = 2

_NAMES = tuple(one.name for one in fields(UrlRow))


def journal_path(urls: Path) -> Path:
    """The path of the journal of the list `urls`."""
    return urls.with_name(f".{urls.name}.search.jsonl")


class Journal:
    """Finished prompts and their hits.

    Attributes:
        found: prompt -> hits, those of earlier runs of the same search included; `row` reads one.
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
        self.found: dict[str, Hits] = {}
        self._settings = dict(settings)
        with writing(self.path):
            self._file: IO[bytes] = open(self.path, "a+b")  # noqa: SIM115  # closed by `close`
            self._read()
            self._end = self._file.seek(0, os.SEEK_END)
        self.resumed = len(self.found)

    def add(self, prompt: str, rows: Iterable[UrlRow]) -> Hits:
        """Store the hits of a prompt, each as it comes; when this returns, they are on the disk.

        Raises:
            OutputError: the disk is full.
        """
        hits = Hits()
        for row in rows:
            hits.add(row, self._append(asdict(row)))
        self._append({"prompt": prompt, "hits": len(hits)})
        self._flush()
        self.found[prompt] = hits
        return hits

    def row(self, prompt: str, number: int) -> UrlRow:
        """Read a hit of a finished prompt."""
        self._file.seek(self.found[prompt].place(number))
        value = json.loads(self._file.readline())  # `_parsed` has checked it
        row = UrlRow(**{name: value[name] for name in _NAMES if name in value})
        return replace(row, url=usable_url(row.url), rank=number + 1)

    def close(self, *, done: bool = False) -> None:
        """Close the file; delete it when the list is written (`done`), or when it is empty."""
        if self._file.closed:
            return
        if done or not self.found:
            with writing(self.path):
                self.path.unlink(missing_ok=True)
        with writing(self.path):
            self._file.close()

    def _read(self) -> None:
        header, whole = self._whole_prompts()
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
        self._end = 0
        self._append(wanted)
        self._flush()

    def _whole_prompts(self) -> tuple[Any, int]:
        """Read the whole prompts; return the header, and the bytes up to the end of the last."""
        self._file.seek(0)
        header: Any = None
        whole = place = 0
        hits = Hits()
        for line in self._file:
            value = _parsed(line)
            if isinstance(value, UrlRow) and header is not None:
                hits.add(value, place)
            elif isinstance(value, dict) and header is None:
                header = value
            elif isinstance(value, dict) and value.get("hits") == len(hits):
                self.found[str(value.get("prompt"))], hits = hits, Hits()
            else:
                break  # this prompt and those after it are searched again
            place += len(line)
            if not len(hits):
                whole = place
        return header, whole

    def _append(self, value: Mapping[str, Any]) -> int:
        """Write a line; returns its place."""
        line = json.dumps(value).encode() + b"\n"
        with writing(self.path):
            self._file.write(line)
        place, self._end = self._end, self._end + len(line)
        return place

    def _flush(self) -> None:
        with writing(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())


def _parsed(line: bytes) -> UrlRow | dict[str, Any] | None:
    """Parse a line: a hit, or the header or end of a prompt; None for an invalid one."""
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
        if "url" in value:
            row = from_json(UrlRow, value)
            return replace(row, url=usable_url(row.url))
        known = isinstance(value, dict) and ("settings" in value or "hits" in value)
        return value if known else None
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

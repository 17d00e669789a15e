"""The manifest of a merged pool: the folders of embeddings of which it consists, without copies.

It is the entry "merged" of the pool's `meta.json`: for every folder its place (relative to the
pool), the prefix of its images' names, and each shard with its number, its rows and a digest of its
table.  So a folder that has changed since is noticed when the pool is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import FormatError

VERSION = 2
"""Version of a `meta.json` with a manifest; without one it is 1."""
ENTRY = "merged"
FOOTER = 8
"""Bytes at the end of a parquet: the length of the footer before them, and the mark PAR1."""


@dataclass(frozen=True)
class MergedFolder:
    """One folder of a merged pool.

    Attributes:
        folder: its place relative to the pool's folder.
        prefix: what is put before the names of its images, with a slash between; may be empty.
        shards: number -> (rows, `digest_of` its table).
    """

    folder: str
    prefix: str
    shards: dict[int, tuple[int, str]]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        shards = [[number, *about] for number, about in self.shards.items()]
        return {"folder": self.folder, "prefix": self.prefix, "shards": shards}


def parse_merged(path: Path, value: Any) -> tuple[MergedFolder, ...]:
    """Invert `to_json` of several folders; `path` names the file in messages.

    Raises:
        FormatError: it is damaged.
    """
    try:
        return tuple(
            MergedFolder(
                str(one["folder"]),
                str(one["prefix"]),
                {int(number): (int(rows), str(digest)) for number, rows, digest in one["shards"]},
            )
            for one in value
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise FormatError(
            f"{path}: the list of merged folders is damaged ({error!r}). Run `clipdistill pool "
            "merge` again."
        ) from error


def read_merged(meta: Path) -> tuple[MergedFolder, ...] | None:
    """The folders that a `meta.json` names; None where it is of no merged pool, or not there.

    Raises:
        FormatError: the manifest is damaged.
    """
    try:
        value = json.loads(meta.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # `read_header` says what is wrong
    if not isinstance(value, dict) or ENTRY not in value:
        return None
    return parse_merged(meta, value[ENTRY])


def digest_of(table: Path) -> str:
    """Digest of a parquet's footer: schema, card, counts, and the least and largest of each column.

    Raises:
        FormatError: the file is no whole parquet.
    """
    try:
        with open(table, "rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - FOOTER))
            length = int.from_bytes(handle.read(4), "little")
            handle.seek(max(0, size - FOOTER - length))
            return hashlib.blake2b(handle.read(length + FOOTER), digest_size=8).hexdigest()
    except OSError as error:
        raise FormatError(f"{table}: cannot be read ({error.strerror}).") from error


def change_of(known: MergedFolder, found: Sequence[tuple[int, Path]]) -> str:
    """Say how a folder differs from what was merged; empty when it does not.

    Args:
        known: the folder as it was merged.
        found: number and table of each of its shards now.
    """
    numbers = [number for number, _ in found]
    if numbers != list(known.shards):
        return f"it had the shards {_span(list(known.shards))}, and has {_span(numbers)}"
    for number, table in found:
        if digest_of(table) != known.shards[number][1]:
            return f"shard {number} was written again"
    return ""


def _span(numbers: Sequence[int]) -> str:
    if not numbers:
        return "none"
    return (
        f"{numbers[0]} to {numbers[-1]} ({len(numbers)})" if len(numbers) > 1 else f"{numbers[0]}"
    )

"""What img2dataset writes beside its shards: which images it could not download.

00000.tar            the images that it has, with a .txt and a .json for each
00000.parquet        one row per URL: key, url, status ("success" or not), error_message
00000_stats.json     counts; "count" is "successes" where there are no failures
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..core.errors import ClipDistillError, FormatError
from ..core.files import read_json
from .embeddings import Failure, open_parquet, reading_parquet
from .parquet import texts

STATS = "_stats.json"
MOST_ROWS = 10_000
"""Failures that are listed one by one; the others are counted by their status."""


def failed_downloads(folder: Path | None, tars: Iterable[Path]) -> list[Failure]:
    """List the images that img2dataset could not download; empty for images of another origin.

    Args:
        folder: folder of the images, in which shards without any image are looked for, too.
        tars: tars with images.
    """
    shards = {tar.with_name(tar.name.split(".")[0]): None for tar in tars}
    if folder is not None:
        names = (path.name for path in folder.iterdir() if path.name.endswith(STATS))
        shards |= {folder / name.removesuffix(STATS): None for name in sorted(names)}
    found: list[Failure] = []
    others: Counter[str] = Counter()
    for shard in shards:
        for status, failure in _failures(shard):
            if len(found) < MOST_ROWS:
                found.append(failure)
            else:
                others[status] += 1
    if others:
        counts = ", ".join(f"{count} {status}" for status, count in sorted(others.items()))
        reason = f"img2dataset could not download more images: {counts}; see its parquet files"
        found.append(Failure("(more)", reason))
    return found


def _failures(shard: Path) -> Iterator[tuple[str, Failure]]:
    stats, table = shard.with_name(shard.name + STATS), shard.with_name(f"{shard.name}.parquet")
    try:
        if not stats.is_file():
            return
        counts = read_json(stats, "img2dataset's statistics")
        if counts.get("count") == counts.get("successes") or not table.is_file():
            return
        yield from _failed_rows(shard.name, table)
    except ClipDistillError as error:
        yield "unreadable", Failure(table.name, f"what img2dataset could not download: {error}")


def _failed_rows(name: str, table: Path) -> Iterator[tuple[str, Failure]]:
    with open_parquet(table) as file, reading_parquet(table):
        wanted = [one for one in _COLUMNS if one in file.schema_arrow.names]
        if not {"key", "status"} <= set(wanted):
            raise FormatError(f"{table}: expected the columns key and status")
        for batch in file.iter_batches(columns=wanted):
            columns: list[list[Any]] = [texts(batch.column(one), one) for one in wanted]
            for values in zip(*columns, strict=True):
                row = dict(zip(wanted, values, strict=True))
                if row["status"] != "success":
                    told = [row["status"] or "unknown", row.get("error_message"), row.get("url")]
                    reason = ": ".join(str(one) for one in told if one)
                    yield str(told[0]), Failure(f"{name}/{row['key']}", f"img2dataset: {reason}")


_COLUMNS = ("key", "url", "status", "error_message")

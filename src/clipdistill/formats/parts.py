"""A division of images into parts, which several processes embed into one folder.

    OUT/parts/plan.json            how the images are embedded, and how many parts there are;
                                   written after the parts, deleted when all are done
    OUT/parts/part_12.parquet      the images of part 12: the input of one shard
    OUT/parts/part_12.running      who began with it, and when
    OUT/parts/part_12.failed.json  why the process that embedded it ended
    OUT/img_emb/img_emb_12.npy     its output, with the other files of a shard (see `embeddings`)
    OUT/stats/shard_12.json        counts, failures and times; written last: the shard is done

The files are the checkpoint: what has a `shard_12.json` is done, whichever process did it.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import FormatError, InputError
from ..core.files import alive, atomic_path, check_format, read_json, write_json
from ..core.results import Versioned, from_json, to_json
from ..core.storage import absolute_name, location, remove_tree
from ..images.sources import ImageItem, Listing
from .embeddings import PURPOSE, Failure, Header, open_parquet, reading_parquet
from .parquet import typed_rows, write_rows

PARTS, STATS = "parts", "stats"
PLAN = "plan.json"
FORMAT = "clipdistill.parts"
VERSION = 1
STATS_NAME = r"shard_(\d+)\.json"


@dataclass(frozen=True)
class Plan:
    """What all parts share.

    Attributes:
        header: teacher and layout of the output.
        first: number of the first part.
        parts: number of parts.
        images: images in them.
        size: images of each part; the last may be smaller.
        batch_size: images per forward pass; other sizes round differently.
    """

    header: Header
    first: int
    parts: int
    images: int
    size: int
    batch_size: int

    @property
    def numbers(self) -> range:
        """The numbers of the parts."""
        return range(self.first, self.first + self.parts)


@dataclass(frozen=True)
class ShardStats(Versioned):
    """What was done with one part.

    Attributes:
        number: of the part and of its shard.
        images: images of the part.
        embedded: images that have a vector.
        failures: the others, each with its reason.
        seconds: of embedding it, without loading the teacher.
        finished: when it was done, in seconds since 1970.
        host: name of the machine.
    """

    FORMAT = "clipdistill.shard"
    VERSION = 1

    number: int
    images: int
    embedded: int
    failures: tuple[Failure, ...]
    seconds: float
    finished: float
    host: str


@dataclass(frozen=True)
class _PartRow:
    key: str
    path: str
    size: int
    mtime_ns: int
    offset: int
    problem: str


def part_path(out: Path, number: int) -> Path:
    """Return the file of a part."""
    return out / PARTS / f"part_{number}.parquet"


def write_plan(out: Path, plan: Plan, items: Listing) -> None:
    """Write the parts of `items`, then the plan.

    The files are found again from any working folder: their paths are stored absolute.
    """
    for place, number in enumerate(plan.numbers):
        write_part(out, number, items[place * plan.size : (place + 1) * plan.size])
    about = {"first": plan.first, "parts": plan.parts, "images": plan.images}
    more = {"size": plan.size, "batch_size": plan.batch_size, "header": plan.header.to_json()}
    write_json(out / PARTS / PLAN, {"format": FORMAT, "version": VERSION, **about, **more})


def write_part(out: Path, number: int, items: Iterable[ImageItem]) -> None:
    """Write the images of one part."""
    with atomic_path(part_path(out, number)) as temporary:
        write_rows(temporary, _PartRow, map(_part_row, items), PURPOSE)


def _part_row(item: ImageItem) -> _PartRow:
    # A name need not be UTF-8; latin-1 keeps each byte.
    path = os.fsencode(absolute_name(item.path)).decode("latin-1")
    offset = -1 if item.offset is None else item.offset
    return _PartRow(item.key, path, item.size, item.mtime_ns, offset, item.problem)


def read_plan(out: Path) -> Plan | None:
    """Return the unfinished plan of a folder; None without one.

    Raises:
        FormatError: it is damaged or of a newer version.
    """
    path = out / PARTS / PLAN
    if not path.is_file():
        return None
    try:
        value = read_json(path, "the plan of the shards")
    except InputError:
        return None  # another process has just finished
    check_format(path, value, FORMAT, VERSION)
    numbers = [value.get(name) for name in ("first", "parts", "images", "size", "batch_size")]
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise FormatError(
            f"{path}: expected whole numbers, found {numbers}. Delete {path.parent} and run "
            "`clipdistill embed` again: what is embedded is kept."
        )
    first, parts, images, size, batch_size = (int(number or 0) for number in numbers)
    header = Header.from_json(path, value.get("header") or {})
    return Plan(header, first, parts, images, max(1, size), max(1, batch_size))


def read_part(path: Path, below: str = "") -> Listing:
    """Return the images of a part.

    Args:
        path: the file.
        below: absolute folder or start of a URL that has all images of the part: whoever can write
            the part must not choose what is read.

    Raises:
        FormatError: the file is damaged, or names files elsewhere.
        InputError: it does not exist.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such part. Run the same `clipdistill embed` command again.")
    names = {name: name for name in _PartRow.__dataclass_fields__}
    with open_parquet(path) as file, reading_parquet(path):
        rows = list(typed_rows(file.read(), _PartRow, names))
    items = [_item(_PartRow(**row)) for row in rows]
    for item in items if below else ():
        if not f"{absolute_name(item.path)}/".startswith(f"{below.rstrip('/')}/"):
            raise FormatError(
                f"{path}: {item.path} does not lie in {below}. Give the images that the first job "
                f"got, or delete {path.parent} and run `clipdistill embed` again."
            )
    return Listing.of(path.parent, items)


def _item(row: _PartRow) -> ImageItem:
    path = location(os.fsdecode(row.path.encode("latin-1")))
    offset = None if row.offset < 0 else row.offset
    return ImageItem(row.key, path, row.size, row.mtime_ns, offset, row.problem)


def begin_part(out: Path, number: int) -> None:
    """Note that this process works on a part."""
    about = {"host": platform.node(), "process": os.getpid(), "started": time.time()}
    write_json(out / PARTS / f"part_{number}.running", about)


def fail_part(out: Path, number: int, reason: str) -> None:
    """Note why a part is not done."""
    write_json(out / PARTS / f"part_{number}.failed.json", {"reason": reason})
    (out / PARTS / f"part_{number}.running").unlink(missing_ok=True)


def finish_part(out: Path, stats: ShardStats) -> None:
    """Note that a part is done: its shard's other files are complete."""
    write_json(out / STATS / f"shard_{stats.number}.json", to_json(stats))
    for ending in ("running", "failed.json"):
        (out / PARTS / f"part_{stats.number}.{ending}").unlink(missing_ok=True)


def is_done(out: Path, number: int) -> bool:
    """Whether a part is done."""
    return (out / STATS / f"shard_{number}.json").is_file()


def done_parts(out: Path) -> set[int]:
    """Return the numbers of the parts that are done, of this plan and of earlier ones."""
    return {int(match[1]) for match in _named(out / STATS, STATS_NAME)}


def failed_parts(out: Path) -> dict[int, str]:
    """Return the parts whose processes ended, with the reasons."""
    found = {}
    for match in _named(out / PARTS, r"part_(\d+)\.failed\.json"):
        try:
            about = read_json(out / PARTS / match[0], "the reason of a failure")
        except InputError:
            continue  # done meanwhile
        found[int(match[1])] = str(about.get("reason"))
    return found


def running_parts(out: Path) -> dict[int, dict[str, Any]]:
    """Return the parts that somebody began: host, process and start of each.

    Those of processes of this machine that have ended are left out.
    """
    found = {}
    for match in _named(out / PARTS, r"part_(\d+)\.running"):
        try:
            about = read_json(out / PARTS / match[0], "the mark of a process")
        except InputError:
            continue
        if about.get("host") != platform.node() or _runs(about.get("process")):
            found[int(match[1])] = about
    return found


def _runs(process: Any) -> bool:
    return not isinstance(process, int) or process < 1 or alive(process)


def _named(folder: Path, pattern: str) -> list[re.Match[str]]:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else ()
    matches = (re.fullmatch(pattern, name) for name in names)
    return [match for match in matches if match]


def read_stats(out: Path, number: int) -> ShardStats:
    """Return what was done with one part.

    Raises:
        FormatError: the file is damaged.
        InputError: the part is not done.
    """
    path = out / STATS / f"shard_{number}.json"
    value = read_json(path, "the shard's statistics")
    check_format(path, value, ShardStats.FORMAT, ShardStats.VERSION)
    try:
        return from_json(ShardStats, value)
    except ValueError as error:
        raise FormatError(
            f"{path}: {error}. Delete it and run the same `clipdistill embed` command again."
        ) from error


def end_plan(out: Path) -> None:
    """Delete the plan, then its parts; the statistics stay."""
    (out / PARTS / PLAN).unlink(missing_ok=True)
    remove_tree(out / PARTS)


def next_number(out: Path, shards: Sequence[int]) -> int:
    """Return a number above those of all shards, also of parts without an embedded image."""
    return max([-1, *shards, *done_parts(out)]) + 1

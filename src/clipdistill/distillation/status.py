"""status: how far the embedding of a folder is, from its files alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import InputError
from ..core.files import read_json
from ..core.results import Result, Table, list_some
from ..core.signatures import PathOrUrl
from ..core.storage import location
from ..core.wording import duration, many
from ..formats.embeddings import META, open_parquet, shard_files
from ..formats.parts import (
    ShardStats,
    done_parts,
    failed_parts,
    read_plan,
    read_stats,
    running_parts,
)

RECENT = 64
"""Finished shards that the rate is taken from: the last ones, since jobs come and go."""
SLOWEST = 5


@dataclass(frozen=True)
class RunningShard:
    """A shard that a process works on.

    Attributes:
        number: of the shard.
        host: machine of the process.
        seconds: since it began.
    """

    number: int
    host: str
    seconds: float


@dataclass(frozen=True)
class FailedShard:
    """A shard whose process ended before it was done, and why."""

    number: int
    reason: str


@dataclass(frozen=True)
class SlowShard:
    """A finished shard.

    Attributes:
        number: of the shard.
        host: machine that embedded it.
        images: images of it.
        seconds: that it took.
    """

    number: int
    host: str
    images: int
    seconds: float


@dataclass(frozen=True, repr=False)
class StatusResult(Result):
    """How far the embedding of a folder is.

    Attributes:
        out: the folder.
        complete: whether it is finished.
        shards: shards of the plan that is under way, or of the finished folder.
        done: shards of these that are finished.
        images: images of the plan, or images that were used; None: unknown.
        images_done: images of finished shards.
        unusable: images of finished shards that could not be used.
        rate: images per second over the last finished shards, all processes together; None:
            unknown.
        seconds_left: until all shards are finished, at that rate; None: unknown.
        running: shards that a process works on.
        failed: shards whose process ended; the same `embed` command tries them again.
        slowest: the slowest finished shards of the plan, the slowest per image first.
    """

    out: Path
    complete: bool
    shards: int
    done: int
    images: int | None
    images_done: int
    unusable: int
    rate: float | None
    seconds_left: float | None
    running: tuple[RunningShard, ...] = ()
    failed: tuple[FailedShard, ...] = ()
    slowest: tuple[SlowShard, ...] = ()

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        if self.complete:
            return [
                f"{self.out} is complete: {many(self.images_done, 'image')} in "
                f"{many(self.shards, 'shard')}, {self.unusable} could not be used."
            ]
        if self.images is None:
            return [
                f"{self.out} is not complete: {many(self.images_done, 'image')} embedded so far. "
                "Run the same `clipdistill embed` command again to resume."
            ]
        lines: list[str | Table] = [
            f"{self.done} of {many(self.shards, 'shard')} done, {len(self.running)} running, "
            f"{len(self.failed)} failed: {self.images_done} of {many(self.images, 'image')}, "
            f"{self.unusable} could not be used."
        ]
        if self.rate is not None and self.seconds_left is not None:
            left = duration(self.seconds_left)
            lines.append(f"{self.rate:.1f} images/s; {left} left at this rate.")
        rows = [(str(one.number), one.host, duration(one.seconds)) for one in self.running]
        if rows:
            lines.append(Table("Running", (">shard", "machine", ">for"), tuple(rows)))
        lines += list_some("Failed:", [f"shard {one.number}: {one.reason}" for one in self.failed])
        slow = [
            (str(one.number), one.host, str(one.images), f"{one.images / one.seconds:.1f}")
            for one in self.slowest
            if one.seconds > 0
        ]
        if slow:
            columns = (">shard", "machine", ">images", ">images/s")
            lines.append(Table("The slowest finished shards", columns, tuple(slow)))
        return lines


def status(out: PathOrUrl) -> StatusResult:
    """Show how far the embedding of a folder is, from its files alone.

    It may run on any machine that can read the folder, while jobs write to it.

    Args:
        out: folder that `clipdistill embed` writes, or its URL.

    Raises:
        InputError: there are no embeddings in the folder and none are under way.
        FormatError: one of the files is damaged.
    """
    out = location(out)
    if not out.is_dir():
        raise InputError(f"{out}: there is no such folder of embeddings.")
    plan = read_plan(out)
    if plan is None:
        return _without_plan(out)
    done = sorted(done_parts(out) & set(plan.numbers))
    stats = [read_stats(out, number) for number in done]
    images_done = sum(one.images for one in stats)
    rate = _rate(stats)
    now = time.time()
    running = tuple(
        RunningShard(number, str(about.get("host")), max(0.0, now - _started(about, now)))
        for number, about in sorted(running_parts(out).items())
        if number not in done
    )
    failed = failed_parts(out)
    slowest = sorted(stats, key=lambda one: -one.seconds / max(1, one.images))[:SLOWEST]
    return StatusResult(
        out=out,
        complete=False,
        shards=plan.parts,
        done=len(done),
        images=plan.images,
        images_done=images_done,
        unusable=sum(len(one.failures) for one in stats),
        rate=rate,
        seconds_left=None if not rate else (plan.images - images_done) / rate,
        running=running,
        failed=tuple(
            FailedShard(number, reason)
            for number, reason in sorted(failed.items())
            if number not in done
        ),
        slowest=tuple(SlowShard(one.number, one.host, one.images, one.seconds) for one in slowest),
    )


def _started(about: dict[str, object], now: float) -> float:
    started = about.get("started")
    return float(started) if isinstance(started, int | float) else now


def _rate(stats: Sequence[ShardStats]) -> float | None:
    """Images per second over the last finished shards; None when there are none."""
    last = sorted(stats, key=lambda one: one.finished)[-RECENT:]
    if not last:
        return None
    seconds = last[-1].finished - min(one.finished - one.seconds for one in last)
    return sum(one.images for one in last) / seconds if seconds > 0 else None


def _without_plan(out: Path) -> StatusResult:
    files = shard_files(out)
    complete = (out / META).is_file()
    if not files and not complete:
        raise InputError(
            f"{out}: no embeddings in it, and none are under way. Make them with: clipdistill embed"
        )
    images, unusable = 0, 0
    for shard in files:
        with open_parquet(shard.rows) as file:
            images += int(file.metadata.num_rows)
    if complete:
        about = read_json(out / META, "the embeddings' card")
        unusable = int(about.get("failures") or 0)
    return StatusResult(
        out=out,
        complete=complete,
        shards=len(files),
        done=len(files),
        images=images if complete else None,
        images_done=images,
        unusable=unusable,
        rate=None,
        seconds_left=0.0 if complete else None,
    )

"""The download itself: workers fetch, threads decode, one function commits.

Even when a run is killed, the ledger and the folder agree: an image's row is in the journal before
the image gets its name, and the next run repeats unfinished work.  When several URLs have the same
bytes, the URL that keeps the file does not depend on the order of arrival: files of earlier,
finished runs stay; within a run the URL with the lowest name keeps it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from array import array
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...core.errors import ImageError
from ...core.files import TEMPORARY_PREFIX, remove_leftovers, writing
from ...core.keys import Keys
from ...core.progress import Step
from ...core.storage import RemotePath
from ...core.wording import size
from ...formats.ledger import (
    DUPLICATE,
    FAILED,
    OK,
    REFUSED,
    Ledger,
    LedgerRow,
    RowReader,
    digest_of,
    is_passing,
    key_of,
    key_of_url,
    placed_rows,
    read_index,
    stem_of,
)
from ...formats.urls import UrlRow, read_urls
from ...formats.webdataset import NAMED, Tars, pack, recall_ledger, recall_tars, tar_of
from ...images.intake import Intake, take_in
from ...images.loading import default_workers
from ...images.sources import read_file
from .fetch import Fetched, Fetcher, open_fetcher
from .frontier import DEAD_AFTER, Frontier, Job
from .options import DownloadOptions

BACKOFF = 0.5
"""Seconds before the first retry, doubled for each next one; a random share of it is waited."""
LONGEST_PAUSE = 120.0
"""Longest Retry-After in seconds; URLs with a longer one are left for another run."""


SETTLED, SEEN, LASTING, PRESENT = 1, 2, 4, 8
"""What is known of a URL: an earlier run finished it; it was in the list before; the index of a
finished run has its image; the folder has an image under its name, without a row."""
FLAGS = SETTLED | SEEN | LASTING
ENDING_SHIFT = 4
"""Above these bits is the ending of that image, its place in `NAMED` plus 1."""


@dataclass(frozen=True)
class _Stored:
    """An image under its temporary name."""

    temporary: str
    ending: str
    bytes: int
    width: int
    height: int
    sha256: str


class Download:
    """One run over one list.

    Args:
        urls: the list, text or parquet.
        images: the folder; must exist, and be locked by this process.
        options: how to download.
        step: called for every URL that is finished.
        store: where the tars are, if that is object storage.

    After `run` the attributes hold its outcome:

    Attributes:
        urls: number of different URLs in the list.
        kept: number of these that an earlier run finished.
        counts: rows written in this run, by status.
        kinds: kind of reason, such as "http 404" -> number of URLs of this run.
        examples: kind -> (a full reason, its URL).
        duplicates: rows in the whole ledger that are duplicates.
        pictures: rows in the whole ledger that are ok.
        received: bytes received in this run.
        stored: bytes of images stored in this run.
        tars: tars written in this run.
        stopped: why the run ended before the end of the list; empty when it did not.
    """

    def __init__(
        self,
        urls: Path,
        images: Path,
        options: DownloadOptions,
        step: Step,
        store: RemotePath | None = None,
    ) -> None:
        self._list = urls
        self._images = images
        self._tars_at = store
        self._options = options
        self._step = step
        self.urls = self.kept = self.received = self.stored = self.tars = 0
        self.duplicates = self.pictures = 0
        self.counts: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.examples: dict[str, tuple[str, str]] = {}
        self.stopped = ""
        self._reader = RowReader(images)
        self._forget()

    def run(self) -> None:
        """Download every URL that is not finished.

        Raises:
            OutputError: the folder cannot be written to.
            FormatError: the list, or the ledger, cannot be read.
        """
        remove_leftovers(self._images)
        if self._tars_at is not None:
            recall_ledger(self._images, self._tars_at)
        self._recall()
        ledger = Ledger(self._images)
        try:
            asyncio.run(self._download(ledger))
        except BaseException:
            ledger.close()
            raise
        self._forget()
        ledger.finish()
        packs = self._options.layout == "webdataset" and not self.stopped
        shard_size = self._options.shard_size if packs else 0
        self.tars = pack(self._list, self._images, shard_size, self._tars_at)
        statuses = Counter(row.status for row in read_index(self._images, ("url", "status")))
        self.duplicates, self.pictures = statuses[DUPLICATE], statuses[OK]

    def _forget(self) -> None:
        """Free what is remembered of URLs and images: at the end other tables need the memory."""
        self._known = Keys(np.uint8)
        self._owners = Keys(np.int64)

    # The results of earlier runs.

    def _recall(self) -> None:
        """Read from the ledger and the folder which URLs are finished."""
        tars = recall_tars(self._images, self._tars_at)
        for row in read_index(self._images, ("url", "status")):
            if row.status == OK:
                self._mark(row.url, LASTING)
        duplicates = array("q")
        for place, row in placed_rows(self._images):
            if row.status == OK and self._is_whole(row, tars):
                self._recall_owner(place, row)
            elif row.status == DUPLICATE:
                duplicates.append(place)
            elif row.status in (FAILED, REFUSED) and not self._again(row):
                self._mark(row.url, SETTLED)
        for place in duplicates:  # when all owners are known
            row = self._reader.row_at(place)
            if digest_of(row) in self._owners:
                self._settle_duplicate(row)
        with os.scandir(self._images) as entries:
            for entry in entries:
                stem, ending = os.path.splitext(entry.name)
                with suppress(ValueError):  # no name of ours
                    key, number = key_of(stem), NAMED.index(ending) + 1
                    flags = self._known.get(key) & FLAGS
                    if not flags & SETTLED:
                        self._known[key] = flags | PRESENT | number << ENDING_SHIFT

    def _mark(self, url: str, flag: int) -> bool:
        """Set a flag of a URL; return whether it was set before."""
        key = key_of_url(url)
        before = self._known.get(key)
        if not before & flag:
            self._known[key] = before | flag
        return bool(before & flag)

    def _is(self, url: str, flag: int) -> bool:
        return bool(self._known.get(key_of_url(url)) & flag)

    def _owner_of(self, row: LedgerRow) -> LedgerRow | None:
        """The row of the image that has the same bytes."""
        digest = digest_of(row)
        return self._reader.row_at(self._owners.get(digest)) if digest in self._owners else None

    def _path(self, name: str) -> str:
        """The path of an image.  Some versions of Python 3.12 keep the names of every `Path`."""
        return os.path.join(self._images, name)

    def _is_whole(self, row: LedgerRow, tars: Tars) -> bool:
        if tar_of(row):
            return tars.hold(row)
        try:
            return os.stat(self._path(row.file)).st_size == row.bytes
        except OSError:
            return False

    def _recall_owner(self, place: int, row: LedgerRow) -> None:
        other = self._owner_of(row)
        if other is not None and not self._wins(row, other):
            return  # neither finished nor deleted here; it is downloaded again
        if other is not None:
            key = key_of_url(other.url)
            self._known[key] = self._known.get(key) & ~SETTLED
        self._owners[digest_of(row)] = place
        self._mark(row.url, SETTLED)

    def _settle_duplicate(self, row: LedgerRow) -> None:
        stem = stem_of(row.url)
        self._mark(row.url, SETTLED)
        owner = self._owner_of(row)
        assert owner is not None
        own = stem + os.path.splitext(owner.file)[1]
        if own != owner.file:
            with suppress(OSError):  # a run was killed between writing the row and deleting it
                os.unlink(self._path(own))

    def _again(self, row: LedgerRow) -> bool:
        """Whether to try a failed or refused URL again with the options of this run."""
        kind = row.reason.partition(":")[0]
        allowed = {
            "robots": not self._options.respect_robots,
            "address": self._options.allow_private,
        }
        return row.transient or self._options.retry_failed or allowed.get(kind, False)

    def _todo(self) -> Iterator[UrlRow]:
        """Yield the list without finished URLs, each URL once."""
        for row in read_urls(self._list):
            if self._mark(row.url, SEEN):
                self._step()
                continue
            self.urls += 1
            if self._is(row.url, SETTLED):
                self.kept += 1
                self._step()
            else:
                yield row

    # The run.

    async def _download(self, ledger: Ledger) -> None:
        frontier = Frontier(self._todo(), per_host=self._options.per_host)
        with ThreadPoolExecutor(default_workers(), thread_name_prefix="decode") as decoders:
            async with open_fetcher(self._options, self._images) as fetcher:
                work = (
                    self._work(frontier, fetcher, decoders, ledger)
                    for _ in range(self._options.max_workers)
                )
                tasks = [asyncio.create_task(one) for one in work]
                try:
                    await asyncio.gather(*tasks)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(
        self, frontier: Frontier, fetcher: Fetcher, decoders: ThreadPoolExecutor, ledger: Ledger
    ) -> None:
        """Run one worker: take jobs until there are none."""
        while (job := await frontier.next()) is not None:
            if frontier.is_dead(job):
                reason = f"host: unreachable {DEAD_AFTER} times in a row"
                self._commit_failure(ledger, job, FAILED, reason, 0)
                frontier.done(job, reached=False)
                continue
            if await self._adopt(job, decoders, ledger):
                frontier.done(job)
                continue
            fetched = await fetcher.fetch(job.row.url)
            self.received += fetched.received
            retry_in, pause = self._patience(job, fetched)
            if retry_in is None:
                await self._settle(job, fetched, decoders, ledger)
            frontier.done(job, retry_in=retry_in, pause_host=pause, reached=not fetched.unreachable)
            limit = self._options.total_bytes
            if limit and self.received >= limit and not self.stopped:
                self.stopped = f"{self.received} bytes were received, --total-bytes is {limit}"
                frontier.stop()

    def _patience(self, job: Job, fetched: Fetched) -> tuple[float | None, float]:
        """Seconds until the next try (None: no further try), and seconds to pause the host."""
        asked = fetched.retry_after if fetched.http_status in (429, 503) else None
        pause = min(asked or 0.0, LONGEST_PAUSE)
        passing = is_passing(fetched.reason, fetched.http_status) and not fetched.refused
        # A name without an address is unlikely to get one within seconds.
        hopeless = fetched.reason.startswith("dns:") or (asked or 0.0) > LONGEST_PAUSE
        if not passing or hopeless or self.stopped or job.tries >= self._options.retries:
            return None, pause
        delay = BACKOFF * 2**job.tries * random.uniform(0.5, 1.0)
        return max(delay, pause), pause

    async def _settle(
        self, job: Job, fetched: Fetched, decoders: ThreadPoolExecutor, ledger: Ledger
    ) -> None:
        status = REFUSED if fetched.refused else FAILED
        if fetched.reason:
            self._commit_failure(ledger, job, status, fetched.reason, fetched.http_status)
            return
        loop = asyncio.get_running_loop()
        try:
            stored = await loop.run_in_executor(decoders, self._store, fetched, job)
        except ImageError as error:
            reason = f"picture: {error}"
            self._commit_failure(ledger, job, FAILED, reason, fetched.http_status)
            return
        self._commit(ledger, job, stored, fetched.http_status)

    def _store(self, fetched: Fetched, job: Job) -> _Stored:
        """Check, shrink and write an image under a temporary name; runs in a thread."""
        taken = self._take_in(fetched.read())
        temporary = self._path(f"{TEMPORARY_PREFIX}{stem_of(job.row.url)}{taken.ending}")
        with writing(temporary), open(temporary, "wb") as file:
            file.write(taken.data)
        return _Stored(
            temporary,
            taken.ending,
            len(taken.data),
            taken.width,
            taken.height,
            hashlib.sha256(taken.data).hexdigest(),
        )

    def _take_in(self, data: bytes) -> Intake:
        options = self._options
        return take_in(
            data,
            max_pixels=options.max_pixels,
            min_size=options.min_size,
            resize=options.resize,
        )

    async def _adopt(self, job: Job, decoders: ThreadPoolExecutor, ledger: Ledger) -> bool:
        """Commit a whole image that the folder already has under the URL's name.

        It is from the older script, or a power cut prevented its row.
        """
        stem = stem_of(job.row.url)
        known = self._known.get(key_of(stem))
        if not known & PRESENT:
            return False
        self._known[key_of(stem)] = known & FLAGS
        name = stem + NAMED[(known >> ENDING_SHIFT) - 1]
        loop = asyncio.get_running_loop()
        path = self._images / name
        try:
            stored = await loop.run_in_executor(decoders, self._existing, path)
        except (ImageError, OSError):
            with suppress(OSError):
                path.unlink()
            return False
        self._commit(ledger, job, stored, 200)
        return True

    def _existing(self, path: Path) -> _Stored:
        data = read_file(path)
        found = take_in(data, max_pixels=self._options.max_pixels, min_size=0, resize=0)
        digest = hashlib.sha256(data).hexdigest()
        return _Stored(str(path), path.suffix, len(data), found.width, found.height, digest)

    # Only these functions change the folder and the ledger; they run in the event loop's thread.

    def _commit(self, ledger: Ledger, job: Job, stored: _Stored, http_status: int) -> None:
        row = replace(
            _row(job.row),
            file=stem_of(job.row.url) + stored.ending,
            status=OK,
            http_status=http_status,
            bytes=stored.bytes,
            width=stored.width,
            height=stored.height,
            sha256=stored.sha256,
        )
        owner = self._owner_of(row)
        with writing(self._path(row.file)):
            if owner is not None and owner.url != row.url and not self._wins(row, owner):
                ledger.add([replace(row, status=DUPLICATE, file=owner.file)])
                os.unlink(stored.temporary)
                self._count(DUPLICATE)
                return
            place = ledger.add([row])
            os.replace(stored.temporary, self._path(row.file))
            self._owners[digest_of(row)] = place
            if owner is not None and owner.url != row.url:
                ledger.add([replace(owner, status=DUPLICATE, file=row.file)])
                with suppress(FileNotFoundError):
                    os.unlink(self._path(owner.file))
                self.counts[OK] -= 1
                self.stored -= owner.bytes
                self.counts[DUPLICATE] += 1
        self.stored += row.bytes
        self._count(OK)

    def _wins(self, row: LedgerRow, owner: LedgerRow) -> bool:
        """Whether `row` keeps the file when both URLs have the same bytes."""
        lasting = (self._is(row.url, LASTING), self._is(owner.url, LASTING))
        if lasting[0] != lasting[1]:
            return lasting[0]
        return stem_of(row.url) < stem_of(owner.url)

    def _commit_failure(
        self, ledger: Ledger, job: Job, status: str, reason: str, http_status: int
    ) -> None:
        row = replace(_row(job.row), status=status, reason=reason, http_status=http_status)
        ledger.add([row])
        kind, _, detail = reason.partition(": ")
        kind = f"http {detail}" if kind == "http" else kind
        self.kinds[kind] += 1
        self.examples.setdefault(kind, (reason, row.url))
        self._count(status)

    def _count(self, status: str) -> None:
        self.counts[status] += 1
        bad = self.counts[FAILED] + self.counts[REFUSED]
        self._step(1, size(self.received) + (f", {bad} failed or refused" if bad else ""))


def _row(found: UrlRow) -> LedgerRow:
    return LedgerRow(
        url=found.url,
        prompt=found.prompt,
        license=found.license,
        license_url=found.license_url,
        attribution=found.attribution,
    )

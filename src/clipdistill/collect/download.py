"""download: a list of URLs -> a folder of images, and a ledger with the outcome of each URL."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import InputError, OptionError
from ..core.files import ensure_folder
from ..core.locks import locked
from ..core.node_cache import staging_folder
from ..core.progress import track
from ..core.results import Result, Table, list_some
from ..core.signatures import PathOrUrl
from ..core.storage import RemotePath, location, remove_tree
from ..core.wording import many, size
from ..formats.ledger import FAILED, INDEX, OK, REFUSED
from ..formats.urls import count_urls
from .web.options import DownloadOptions

if TYPE_CHECKING:
    from .web.download import Download


@dataclass(frozen=True)
class Reason:
    """Why some URLs gave no image.

    Attributes:
        kind: kind of the reason, such as "http 404", "timeout", "picture", "address".
        count: number of these URLs.
        reason: full reason of one of them, as an example.
        url: the URL of the example.
    """

    kind: str
    count: int
    reason: str
    url: str


@dataclass(frozen=True, repr=False)
class DownloadResult(Result):
    """What `download` did.

    Attributes:
        images: the folder of images; its ledger is `index.parquet` in it.
        urls: number of different URLs in the list.
        downloaded: number of images stored in this run.
        kept: number of URLs finished by an earlier run.
        duplicates: number of URLs, over all runs, with the same bytes as another URL.
        failed: number of URLs of this run that could not be downloaded.
        refused: number of URLs of this run that must not be downloaded (addresses, robots).
        reasons: why URLs failed or were refused, grouped, the most frequent first.
        received_bytes: bytes received in this run.
        stored_bytes: bytes of the images stored in this run.
        seconds: duration of the run.
        stopped: why the run ended before the end of the list; empty when it did not.
        tars: tars written in this run.
    """

    images: Path
    urls: int
    downloaded: int
    kept: int
    duplicates: int
    failed: int
    refused: int
    reasons: tuple[Reason, ...]
    received_bytes: int
    stored_bytes: int
    seconds: float
    stopped: str
    tars: int = 0

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        rate = f" ({self.downloaded / self.seconds:.0f}/s)" if self.seconds > 0.5 else ""
        lines: list[str | Table] = [
            f"{many(self.downloaded, 'image')} downloaded{rate}, {size(self.received_bytes)} "
            f"received, {size(self.stored_bytes)} stored. Other URLs: {self.kept} finished by an "
            f"earlier run, {many(self.duplicates, 'duplicate')}, {self.failed} failed, "
            f"{self.refused} refused."
        ]
        if self.reasons:
            rows = tuple((r.kind, str(r.count), r.reason, r.url) for r in self.reasons)
            lines.append(Table("Not downloaded", ("kind", ">URLs", "example", "URL"), rows))
        if self.tars:
            lines.append(f"Written: {many(self.tars, 'tar')} of images, texts and JSON.")
        if self.stopped:
            lines.append(f"Stopped: {self.stopped}. Run the same command again to resume.")
        lines.append(f"Images and their ledger ({INDEX}): {self.images}")
        return lines


def download(
    urls: Path, images: PathOrUrl, options: DownloadOptions = DownloadOptions()
) -> DownloadResult:
    """Download the images of a list of URLs.

    The download can be stopped and run again at any time: finished URLs are skipped, and temporary
    failures are tried again.  The name of an image is uuid5(NAMESPACE_URL, url) with the ending
    of the format of its bytes.  Every URL gets a row in `index.parquet`, with the reason when there
    is no image.  Images with the same bytes are kept once.  With --layout webdataset the images end
    in tars, which are never changed: those of a later run go to further tars.

    Args:
        urls: text file with one URL per line, or a .parquet with a column url.
        images: folder for the images; with --layout webdataset also its URL, such as
            s3://bucket/images.
        options: how to download.

    Raises:
        InputError: there is no list, no URL in it, an option is out of range, or no URL gave an
            image.
        FormatError: the list or the ledger of an earlier run cannot be read.
        OutputError: the folder cannot be written to, or another process is writing to it.
    """
    urls, images = Path(urls), location(images)
    options.check()
    store = images if isinstance(images, RemotePath) else None
    if store is not None and options.layout != "webdataset":
        raise OptionError(
            f"--layout {options.layout} writes to folders of this machine only, not to {images}. "
            "Use --layout webdataset."
        )
    total = count_urls(urls)
    if not total:
        raise InputError(f"{urls}: the list has no URLs. Make one with: clipdistill search")
    from .web.download import Download

    start = time.monotonic()
    with locked(images, "download"), track("download", total, "URLs") as step:
        folder = images if store is None else ensure_folder(staging_folder(store))
        run = Download(urls, folder, options, step, store)
        run.run()
        if store is not None and not run.stopped:
            remove_tree(folder)
    result = _result(run, images, time.monotonic() - start)
    if not run.pictures and not run.stopped:
        raise _no_images(urls, result)
    return result


def _no_images(urls: Path, result: DownloadResult) -> InputError:
    reasons = [f"{r.count} x {r.reason} ({r.url})" for r in result.reasons]
    lines = [
        f"{urls}: none of its {many(result.urls, 'URL')} gave an image. The reason of each is in "
        f"{result.images}/{INDEX}.",
        *list_some("Reasons:", reasons, 5),
    ]
    if any(r.kind == "address" for r in result.reasons):
        lines.append("If these are your own servers, add --allow-private.")
    return InputError("\n".join(lines))


def _result(run: Download, images: Path, seconds: float) -> DownloadResult:
    reasons = tuple(
        Reason(kind, count, *run.examples[kind]) for kind, count in run.kinds.most_common()
    )
    return DownloadResult(
        images=images,
        urls=run.urls,
        downloaded=run.counts[OK],
        kept=run.kept,
        duplicates=run.duplicates,
        failed=run.counts[FAILED],
        refused=run.counts[REFUSED],
        reasons=reasons,
        received_bytes=run.received,
        stored_bytes=run.stored,
        seconds=seconds,
        stopped=run.stopped,
        tars=run.tars,
    )

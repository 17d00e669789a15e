"""download: a list of URLs -> a folder of pictures, and a ledger of what became of each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import InputError
from ..core.files import ensure_folder, locked
from ..core.progress import track
from ..core.results import Result, Table, list_some
from ..formats.ledger import FAILED, INDEX, OK, REFUSED
from ..formats.urls import count_urls
from .web.options import DownloadOptions

if TYPE_CHECKING:
    from .web.download import Download


@dataclass(frozen=True)
class Reason:
    """Why some URLs gave no picture.

    Attributes:
        kind: such as "http 404", "timeout", "picture", "address".
        count: how many.
        reason: of one of them, in full.
        url: that one.
    """

    kind: str
    count: int
    reason: str
    url: str


@dataclass(frozen=True, repr=False)
class DownloadResult(Result):
    """What `download` did.

    Attributes:
        images: the folder of pictures; its ledger is `index.parquet` in it.
        urls: different URLs in the list.
        downloaded: pictures stored in this run.
        kept: URLs settled by an earlier run.
        duplicates: URLs, in all, whose picture is the same, byte for byte, as another's.
        failed: URLs of this run that could not be had.
        refused: URLs of this run that must not be had (addresses, robots).
        reasons: both, grouped, the most frequent first.
        received_bytes: of bodies in this run.
        stored_bytes: of pictures stored in this run.
        seconds: of the run.
        stopped: why it ended before the list did; empty when it did not.
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

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        rate = f" ({self.downloaded / self.seconds:.0f}/s)" if self.seconds > 0.5 else ""
        lines: list[str | Table] = [
            f"{self.downloaded} pictures downloaded{rate}, {_mb(self.received_bytes)} received, "
            f"{_mb(self.stored_bytes)} stored; {self.kept} URLs were settled before, "
            f"{self.duplicates} are duplicates, {self.failed} failed, {self.refused} were refused.",
        ]
        if self.reasons:
            rows = tuple((r.kind, str(r.count), r.reason, r.url) for r in self.reasons)
            lines.append(Table("Not downloaded", ("kind", ">URLs", "such as", "of"), rows))
        if self.stopped:
            lines.append(f"Stopped: {self.stopped}. The same command goes on.")
        lines.append(f"Pictures and their ledger ({INDEX}): {self.images}")
        return lines


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def download(
    urls: Path, images: Path, options: DownloadOptions = DownloadOptions()
) -> DownloadResult:
    """Download pictures from a list of URLs, carefully.

    Can be stopped and run again at any time: what is settled stays, what failed for a passing
    reason is tried again.  A picture's name is uuid5(NAMESPACE_URL, url) and the ending of the type
    that its bytes show.  Every URL gets a row in `index.parquet`, with the reason when there is no
    picture; pictures that are the same byte for byte are kept once.

    Args:
        urls: text file, a URL a line, or a .parquet with a column url.
        images: folder for the pictures.
        options: how to download.

    Raises:
        InputError: no list, no URL in it, an option out of range, or no picture came of it at all.
        FormatError: the list or the ledger of an earlier run cannot be read.
        OutputError: the folder cannot be written to, or another download is at it.
    """
    urls, images = Path(urls), Path(images)
    options.check()
    total = count_urls(urls)
    if not total:
        raise InputError(f"{urls}: no URLs in it. Make a list with: clipdistill search")
    ensure_folder(images)
    from .web.download import Download

    start = time.monotonic()
    with locked(images, "download"), track("download", total, "URLs") as step:
        run = Download(urls, images, options, step)
        run.run()
    result = _result(run, images, time.monotonic() - start)
    if not run.pictures and not run.stopped:
        _refuse_emptiness(urls, result)
    return result


def _refuse_emptiness(urls: Path, result: DownloadResult) -> None:
    """Whoever goes on after a download counts on pictures."""
    reasons = [f"{r.count} x {r.reason} ({r.url})" for r in result.reasons]
    private = any(r.kind == "address" for r in result.reasons)
    raise InputError(
        "\n".join(
            [
                f"{urls}: none of its {result.urls} URLs gave a picture; "
                f"{result.images}/{INDEX} "
                "says why of each.",
                *list_some("Such as:", reasons, 5),
                *(
                    ["Are these your own servers? --allow-private asks them too."]
                    if private
                    else []
                ),
            ]
        )
    )


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
    )

"""Sources of the images: counts per prompt, failures, licences and authors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ...core.errors import FormatError
from ...core.files import read_json
from ...formats.embeddings import META, Failure, read_failures
from ...formats.ledger import DUPLICATE, FAILED, INDEX, JOURNAL, OK, REFUSED, LedgerRow, read_ledger
from ...formats.run import RunFolder

T = TypeVar("T")


@dataclass(frozen=True)
class PromptCount:
    """Outcome of the URLs that one prompt found.

    Attributes:
        prompt: the prompt; empty where it is unknown.
        found: number of URLs.
        kept: number of images that were stored.
        duplicates: number of URLs with the bytes of a stored image.
        failed: number of URLs that could not, or must not, be downloaded.
    """

    prompt: str
    found: int
    kept: int
    duplicates: int
    failed: int


@dataclass(frozen=True)
class LicenseCount:
    """Number of images under one licence.

    Attributes:
        name: short name of the licence; empty when unknown.
        url: address of its text; empty when unknown.
        images: number of images.
    """

    name: str
    url: str
    images: int


@dataclass(frozen=True)
class Credit:
    """An author to name.

    Attributes:
        attribution: the author, as the source gave it.
        license: short name of the licence; empty when unknown.
        license_url: address of the licence's text; empty when unknown.
        images: number of images.
    """

    attribution: str
    license: str
    license_url: str
    images: int


@dataclass(frozen=True)
class Data:
    """The images of a run.

    Attributes:
        embedded: number of images that the teacher embedded; None before that.
        unread: images that could not be embedded, each with its reason.
        downloaded: whether `download` fetched the images; without it the rest is empty.
        prompts: one per prompt, in alphabetical order.
        reasons: (kind of failure, count), the most frequent first.
        licenses: one per licence, the most frequent first.
        credits: one per author, the most frequent first.
        owners: file name -> ledger row, of images with a licence or an author.
    """

    embedded: int | None
    unread: tuple[Failure, ...]
    downloaded: bool
    prompts: tuple[PromptCount, ...]
    reasons: tuple[tuple[str, int], ...]
    licenses: tuple[LicenseCount, ...]
    credits: tuple[Credit, ...]
    owners: dict[str, LedgerRow]


def load_data(folder: RunFolder, images: Path) -> Data:
    """Read the ledger in `images`, and the card of a run's embeddings.

    Raises:
        FormatError: a ledger or the embeddings' card cannot be read.
        MissingExtraError: pyarrow is not installed, and there is a ledger.
    """
    rows: list[LedgerRow] = []
    if (images / INDEX).is_file() or (images / JOURNAL).is_file():
        rows = read_ledger(images)
    stored = [row for row in rows if row.status == OK]
    return Data(
        embedded=_embedded(folder.embeddings),
        unread=read_failures(folder.embeddings),
        downloaded=bool(rows),
        prompts=_prompts(rows),
        reasons=_reasons(rows),
        licenses=_licenses(stored),
        credits=_credits(stored),
        owners={row.file: row for row in stored if row.license or row.attribution},
    )


def _embedded(store: Path) -> int | None:
    if not (store / META).is_file():
        return None
    count = read_json(store / META, "the embeddings' card").get("rows")
    if not isinstance(count, int):
        raise FormatError(
            f"{store / META}: expected the number of rows of the embeddings, found {count!r}. Run "
            "`clipdistill embed` again."
        )
    return count


def _prompts(rows: Sequence[LedgerRow]) -> tuple[PromptCount, ...]:
    counts: dict[str, Counter[str]] = {}
    for row in sorted(rows, key=lambda row: row.prompt):
        counts.setdefault(row.prompt, Counter())[row.status] += 1
    return tuple(
        PromptCount(prompt, of.total(), of[OK], of[DUPLICATE], of[FAILED] + of[REFUSED])
        for prompt, of in counts.items()
    )


def _reasons(rows: Sequence[LedgerRow]) -> tuple[tuple[str, int], ...]:
    kinds = Counter(
        f"{row.status}, {row.reason.partition(':')[0] or 'no reason given'}"
        for row in rows
        if row.status in (FAILED, REFUSED)
    )
    return tuple(_commonest(kinds))


def _licenses(rows: Sequence[LedgerRow]) -> tuple[LicenseCount, ...]:
    counts = Counter((row.license, row.license_url) for row in rows)
    return tuple(LicenseCount(name, url, n) for (name, url), n in _commonest(counts))


def _credits(rows: Sequence[LedgerRow]) -> tuple[Credit, ...]:
    named = (row for row in rows if row.attribution)
    counts = Counter((row.attribution, row.license, row.license_url) for row in named)
    return tuple(Credit(*who, n) for who, n in _commonest(counts))


def _commonest(counts: Counter[T]) -> list[tuple[T, int]]:
    """Sort by descending count, then by name."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))

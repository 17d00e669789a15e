"""select: many images -> those that a class list needs, and contact sheets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from ..core.errors import InputError, OptionError
from ..core.locks import locked
from ..core.progress import message, track
from ..core.results import Result, Table, list_some
from ..core.signatures import PathOrUrl
from ..core.storage import location
from ..core.wording import many
from ..formats.selection import (
    LIST,
    SHEETS,
    SelectionRow,
    begin_selection,
    finish_selection,
    listable,
    sheet_path,
)
from ..formats.text import TextEmbeddings, load_text
from ..images.loading import default_workers, load_pixels
from ..images.preprocess import Preprocess
from ..images.sources import ImageItem, Listing, list_images
from .choose import (
    BELOW_THRESHOLD,
    NEAR_DUPLICATE,
    OVER_COUNT,
    OVER_MAX,
    STATUSES,
    TAKEN,
    Choice,
    choose,
)
from .clusters import repeats_in_clusters
from .contact_sheet import THUMBNAIL, Section, Tile, draw_sheet, save_sheet
from .pool import Pool, open_pool

BEST, LAST, BELOW, REPEATS = 24, 16, 16, 8
"""Images on a sheet: the best taken, the last taken, those below the cut, near-duplicates."""
DUPLICATES = 0.95
"""Cosine of near-duplicates.  Copies saved as JPEG 50, cropped by 3% or mirrored have 0.97 with the
original (medians of 120 photos; 0.93 at half the size).  Lower values remove too many images: at
0.90, 64 of the best 229 monarch butterflies, most of them other photos in the same pose; at 0.95, 8
of the best 208 (2026-11-24, lit-efficientnet-lite2)."""
EXACT_UP_TO = 100_000
"""Images up to which near-duplicates are searched among all pairs.  Beyond, the vectors of taken
images would take 2 kB each, and the time grows with the square of their number."""
GREEN, AMBER, RED, VIOLET = (64, 145, 92), (196, 150, 40), (190, 74, 66), (122, 92, 168)


@dataclass(frozen=True)
class LabelCount:
    """The outcome for the images of one label.

    Attributes:
        label: the label.
        images: number of images for which it is the most similar label.
        taken: number of these images in the selection.
        near_duplicates: number left out as near-duplicates of a taken image.
        below: number left out for their score.
        over: number left out because enough others were taken.
        lowest: lowest score of a taken image; None when none was taken.
    """

    label: str
    images: int
    taken: int
    near_duplicates: int
    below: int
    over: int
    lowest: float | None


@dataclass(frozen=True, repr=False)
class SelectResult(Result):
    """What `select` chose.

    Attributes:
        out: the folder; `selected.txt` in it is the list.
        images: number of images to choose from.
        taken: number of chosen images.
        labels: outcome for the images of each label.
        not_embedded: number of images without an embedding, or with one that is not finite.
        unlistable: images whose names have line breaks, which a list cannot hold.
    """

    out: Path
    images: int
    taken: int
    labels: tuple[LabelCount, ...]
    not_embedded: int
    unlistable: tuple[str, ...]

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        rows = tuple(
            (
                one.label,
                str(one.images),
                str(one.taken),
                str(one.near_duplicates),
                str(one.below),
                str(one.over),
                "" if one.lowest is None else f"{one.lowest:.3f}",
            )
            for one in self.labels
        )
        columns = ("label", ">images", ">taken", ">near-duplicate", ">below", ">over", ">lowest")
        lines: list[str | Table] = [
            Table(f"{self.taken} of {many(self.images, 'image')} selected", columns, rows)
        ]
        if self.not_embedded:
            lines.append(
                f"Left out, because not embedded: {many(self.not_embedded, 'image')}. Run "
                "`clipdistill embed` for them."
            )
        names = [repr(name) for name in self.unlistable]
        lines += list_some("Left out for the line breaks in their names:", names)
        lines.append(f"List: {self.out / LIST}. Contact sheets: {self.out / SHEETS}")
        return lines


@dataclass(frozen=True)
class _Pile:
    """The N images to choose from, in the order of their rows.

    Attributes:
        listed: all images.
        places: uint32 or int64 (N,), their places in `listed`.
        rows: uint32 or int64 (N,), their rows in the pool.
        labels: int32 (N,), the most similar label of each.
        scores: float32 (N,), the cosine of each with that label.
    """

    listed: Listing
    places: NDArray[np.integer]
    rows: NDArray[np.integer]
    labels: NDArray[np.int32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, number: int) -> ImageItem:
        """One of the N images."""
        return self.listed[int(self.places[number])]

    def key(self, number: int) -> str:
        """The key of one of the N images."""
        return self.listed.keys[int(self.places[number])]

    def vectors(self, pool: Pool, numbers: NDArray[np.integer]) -> NDArray[np.float32]:
        """The unit vectors of some of the images, float32 (n, D)."""
        return pool.vectors(self.rows[numbers].astype(np.int64))


def select(
    images: PathOrUrl,
    embeddings: PathOrUrl,
    text: Path,
    out: PathOrUrl,
    *,
    min_score: float | None = None,
    num_images: Annotated[int | None, Parameter(name=("--num-images", "-n"))] = None,
    max_images: int | None = None,
    duplicates: float = DUPLICATES,
    exact_up_to: int = EXACT_UP_TO,
    sheets: bool = True,
) -> SelectResult:
    """Select the images of a class list: relevant, balanced, without near-duplicates.

    Each image belongs to its most similar label.  The labels take turns, each with its best
    remaining image, so the list is balanced wherever it is cut.  Nothing is moved or copied: the
    result is a list, a table with the outcome for every image, and one contact sheet per label.

    Args:
        images: folder of images (searched recursively), or WebDataset tars, or its URL.
        embeddings: embeddings of these images, made by `clipdistill embed`, or their URL.
        text: text embeddings of the class list, made by `clipdistill embed-text`.
        out: folder for the selection, or its URL.
        min_score: least cosine with the label; CLIP models give about 0.2 to 0.35 for images that
            fit.  Use the contact sheets to choose it.
        num_images: most images per label.
        max_images: most images over all labels.
        duplicates: cosine from which an image is a near-duplicate of a better one and is left out;
            copies that were saved again, cropped a little or mirrored have about 0.97, other
            things in the same pose about 0.9; 1: keep all.
        exact_up_to: images up to which near-duplicates are searched among all pairs. Among more
            they are searched in clusters before the labels take turns, which needs little memory
            and misses some pairs; of two near-duplicates the one with the higher score stays.
        sheets: draw a contact sheet for each label.

    Raises:
        InputError: no limit was given, or there is no image to choose from.
        MismatchError: images and texts were embedded by different teachers.
        OutputError: `out` cannot be written to, or another process is writing to it.
    """
    images, embeddings, out = location(images), location(embeddings), location(out)
    text = Path(text)
    _check(min_score, num_images, max_images, duplicates, exact_up_to)
    classes = load_text(text)
    pool = open_pool(embeddings)
    classes.teacher.check_same(pool.teacher, text, embeddings)
    listed = list_images(images)
    fits = np.fromiter(map(listable, listed.keys), bool, len(listed))
    unlistable = tuple(listed.keys.take(np.flatnonzero(~fits)))
    count = len(listed)
    if unlistable:
        listed = listed.take(np.flatnonzero(fits))
    pile = _score(pool, classes, listed)
    if not len(pile):
        raise InputError(
            f"{embeddings} has no embedding of any image in {images}. Embed them with: "
            f"clipdistill embed {images} {embeddings}"
        )
    with locked(out, "select"):
        begin_selection(out)
        clustered = duplicates < 1 and len(pile) > exact_up_to
        choice = choose(
            pile.labels,
            pile.scores,
            lambda places: pile.vectors(pool, places),
            num_labels=len(classes.labels),
            min_score=min_score,
            per_label=num_images,
            most=max_images,
            duplicates=1.0 if clustered else duplicates,
            repeats=_repeats(pool, pile, min_score, duplicates) if clustered else None,
        )
        if sheets:
            _draw_sheets(out, pile, choice, classes.labels)
        result = SelectResult(
            out=out,
            images=len(pile),
            taken=len(choice.order),
            labels=_counts(pile, choice, classes.labels),
            not_embedded=count - len(unlistable) - len(pile),
            unlistable=unlistable,
        )
        card = {
            "min_score": min_score,
            "num_images": num_images,
            "max_images": max_images,
            "duplicates": duplicates,
            "clustered": clustered,
            "images": result.images,
            "selected": result.taken,
            "labels": {one.label: one.taken for one in result.labels},
            "teacher": classes.teacher.to_json(),
        }
        selected = map(pile.key, choice.order)
        finish_selection(out, selected, _rows(pile, choice, classes.labels), card)
    return result


def _check(
    min_score: float | None,
    num_images: int | None,
    max_images: int | None,
    duplicates: float,
    exact_up_to: int,
) -> None:
    if exact_up_to < 0:
        raise OptionError("--exact-up-to should be 0 or more.")
    if min_score is None and num_images is None and max_images is None:
        raise OptionError(
            "How many images should be selected? Give --num-images (per label), --min-score or "
            "--max-images."
        )
    if any(value is not None and value < 1 for value in (num_images, max_images)):
        raise OptionError("--num-images and --max-images should be 1 or more.")
    if not -1 <= (min_score or 0) <= 1 or not 0 < duplicates <= 1:
        raise OptionError("--min-score should be -1 to 1, and --duplicates above 0 and at most 1.")


def _score(pool: Pool, classes: TextEmbeddings, listed: Listing) -> _Pile:
    """Find the most similar label of each embedded image; this streams the pool."""
    places, rows = _embedded(pool, listed)
    labels = np.zeros(len(rows), np.int32)
    scores = np.full(len(rows), np.nan, np.float32)
    with track("compare", pool.stored, "images") as step:
        for block, vectors in pool.blocks():
            ends = [block[0], block[-1] + 1] if len(block) else [0, 0]
            low, high = np.searchsorted(rows, np.array(ends, rows.dtype))  # else `rows` is copied
            wanted = rows[low:high]
            found = np.minimum(np.searchsorted(block, wanted), max(0, len(block) - 1))
            there = block[found] == wanted if len(wanted) else np.zeros(0, bool)
            cosines = vectors[found[there]] @ classes.vectors.T
            mine = low + np.flatnonzero(there)
            labels[mine] = cosines.argmax(axis=1)
            scores[mine] = cosines.max(axis=1)
            step(len(block))
    fine = ~np.isnan(scores)
    if fine.all():
        return _Pile(listed, places, rows, labels, scores)
    return _Pile(listed, places[fine], rows[fine], labels[fine], scores[fine])


def _embedded(pool: Pool, listed: Listing) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """The places of the embedded images, uint32 or int64 (N,), and their rows, ascending."""
    found = pool.find(listed.keys)
    order = np.argsort(found, kind="stable")
    order = order[np.count_nonzero(found < 0) :]
    rows = _short(found[order], pool.stored)
    del found
    return _short(order, len(listed)), rows


def _short(numbers: NDArray[np.integer], stop: int) -> NDArray[np.integer]:
    """Numbers below `stop` in four bytes, if they fit."""
    return numbers.astype(np.uint32 if stop < 1 << 32 else np.int64)


def _repeats(
    pool: Pool, pile: _Pile, min_score: float | None, duplicates: float
) -> NDArray[np.integer]:
    """Find near-duplicates in clusters; of two, the image with the higher score stays.

    Returns:
        int (N,), as `choose` takes them.
    """
    order = _short(np.argsort(-pile.scores, kind="stable"), len(pile))
    if min_score is not None:
        order = order[pile.scores[order] >= np.float32(min_score)]
    message(
        f"Searching near-duplicates among {many(len(order), 'image')} in clusters: pairs that "
        "share no cluster are not found (--exact-up-to compares all pairs of more images)."
    )
    found = repeats_in_clusters(
        len(order), lambda places: pile.vectors(pool, order[places]), duplicates
    )
    kind = np.int32 if len(pile) < 1 << 31 else np.int64
    result: NDArray[np.integer] = np.full(len(pile), -1, kind)
    same = found >= 0
    result[order[same]] = order[found[same]]
    return result


def _counts(pile: _Pile, choice: Choice, labels: Sequence[str]) -> tuple[LabelCount, ...]:
    kinds = len(STATUSES)
    counted = np.bincount(pile.labels * kinds + choice.codes, minlength=len(labels) * kinds)
    every = {
        (number, status): int(counted[number * kinds + code])
        for number in range(len(labels))
        for code, status in enumerate(STATUSES)
    }
    lowest: dict[int, float] = {}
    for place in choice.order:
        lowest[int(pile.labels[place])] = float(pile.scores[place])
    return tuple(
        LabelCount(
            label=label,
            images=sum(every[number, status] for status in STATUSES),
            taken=every[number, TAKEN],
            near_duplicates=every[number, NEAR_DUPLICATE],
            below=every[number, BELOW_THRESHOLD],
            over=every[number, OVER_COUNT] + every[number, OVER_MAX],
            lowest=lowest.get(number),
        )
        for number, label in enumerate(labels)
    )


def _rows(pile: _Pile, choice: Choice, labels: Sequence[str]) -> Iterator[SelectionRow]:
    """Yield the table: the taken images in their order, then the others by label and rank."""
    ranked = _short(np.lexsort((choice.rank, pile.labels)), len(pile))
    others = (place for place in ranked if STATUSES[choice.codes[place]] != TAKEN)
    for place in itertools.chain(choice.order, others):
        same = int(choice.duplicate_of[place])
        yield SelectionRow(
            image_path=pile.key(place),
            label=labels[pile.labels[place]],
            score=float(pile.scores[place]),
            rank=int(choice.rank[place]),
            status=STATUSES[choice.codes[place]],
            duplicate_of="" if same < 0 else pile.key(same),
        )


def _draw_sheets(out: Path, pile: _Pile, choice: Choice, labels: Sequence[str]) -> None:
    order = _short(np.lexsort((choice.rank, pile.labels)), len(pile))
    numbers = np.arange(len(labels) + 1, dtype=pile.labels.dtype)
    bounds = np.searchsorted(pile.labels, numbers, sorter=order)
    with track("sheets", len(labels), "labels") as step:
        for number, label in enumerate(labels):
            mine = order[bounds[number] : bounds[number + 1]]
            sections, missing = _sections(pile, choice, mine)
            taken = int(choice.are(mine, TAKEN).sum())
            of = many(len(mine), "image")
            subtitle = f"{taken} taken of {of} that are most similar to this label"
            save_sheet(sheet_path(out, number + 1, label), draw_sheet(label, subtitle, sections))
            if missing:
                message(f"{label}: {many(missing, 'image')} of its contact sheet cannot be read.")
            step()


def _sections(pile: _Pile, choice: Choice, mine: NDArray[np.integer]) -> tuple[list[Section], int]:
    """A label's sections and the number of unreadable images in them; `mine` is ordered by rank."""
    taken = mine[choice.are(mine, TAKEN)]
    below = mine[choice.are(mine, BELOW_THRESHOLD, OVER_COUNT, OVER_MAX)]
    repeats = mine[choice.are(mine, NEAR_DUPLICATE)]
    best, last = taken[:BEST].tolist(), taken[BEST:][-LAST:].tolist()
    skipped = len(taken) - len(best) - len(last)
    parts = [
        ("Taken: the best" if last else "Taken", GREEN, best, False),
        (f"Taken: the last before the cut ({skipped} more between)", AMBER, last, False),
        (f"Left out: the first below the cut (of {len(below)})", RED, below[:BELOW].tolist(), True),
        (
            f"Left out: near-duplicates of taken images (of {len(repeats)})",
            VIOLET,
            repeats[:REPEATS].tolist(),
            True,
        ),
    ]
    shown = [place for _, _, places, _ in parts for place in places]
    size = Preprocess(THUMBNAIL)
    loaded = load_pixels([pile.item(place) for place in shown], size, workers=default_workers())
    tiles: dict[int, Tile] = {}
    for place, one in zip(shown, loaded, strict=True):
        problem = "unreadable" if one.content else "missing"
        tiles[place] = Tile(one.pixels, _caption(pile, choice, place), problem)
    sections = [
        Section(title, colour, [tiles[place] for place in places], dim)
        for title, colour, places, dim in parts
    ]
    return sections, sum(tile.pixels is None for tile in tiles.values())


def _caption(pile: _Pile, choice: Choice, place: int) -> str:
    same = int(choice.duplicate_of[place])
    text = f"#{choice.rank[place]}  {pile.scores[place]:.3f}"
    if same < 0:
        return text
    other = "" if pile.labels[same] == pile.labels[place] else " elsewhere"
    return f"{text} = #{choice.rank[same]}{other}"

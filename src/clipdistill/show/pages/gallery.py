"""Images that the report shows, with their predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from ...core.progress import track
from ...core.wording import UNKNOWN
from ...core.zeroshot import Floats, Independent
from ...formats.ledger import LedgerRow
from ...formats.predictions import Picture, Predictions, Ranked
from .gather import Gathered, student_predictions, teacher_predictions
from .thumbnails import thumbnail

MOST = {"wrong": 12, "unsure": 8, "apart": 8, "right": 12}
"""Most images per section, so that a page stays below 3 MB."""
NO_LABEL = "no label"
"""What is shown for an image that has none in a table of labels."""
A_CLASS = {"wrong": 2, "unsure": 2, "apart": 2, "right": 1}
"""Most images of one class in a section while there are images of other classes."""


@dataclass(frozen=True)
class Said:
    """Prediction of one model for one image.

    Attributes:
        who: "Teacher" or "Student".
        label: the best label; where an image may have several, all that it is given.
        share: probability of the best label, 0 to 1.
        right: whether that is the true label, or where an image may have several, some of its
            labels and no other; None without labels.
        others: (label, probability) of the next best labels that it is not given.
    """

    who: str
    label: str
    share: float
    right: bool | None
    others: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Card:
    """One image with its predictions.

    Attributes:
        key: key of the image.
        image: data URI; empty where the image cannot be read.
        truth: true label or labels; empty without labels.
        said: predictions, the teacher's first.
        cosine: cosine of the student's and the teacher's embeddings; None where unknown.
        owner: ledger row with licence and author; None where they are unknown.
    """

    key: str
    image: str
    truth: str
    said: tuple[Said, ...]
    cosine: float | None
    owner: LedgerRow | None


@dataclass(frozen=True)
class Wall:
    """One section of images.

    Attributes:
        name: "wrong", "unsure", "apart" or "right".
        cards: images that are shown.
        total: number of images of this section, including those not shown.
    """

    name: str
    cards: tuple[Card, ...]
    total: int


@dataclass(frozen=True)
class Gallery:
    """The images of the report.

    Attributes:
        walls: sections in the order in which they are shown, none of them empty.
        labelled: whether there are true labels; otherwise the teacher's labels count as true.
        images: number of images with predictions.
        differing: number of images with different labels of teacher and student; None without
            predictions of the teacher.
        pairs: (teacher's label, student's label, count), the most frequent first.
    """

    walls: tuple[Wall, ...]
    labelled: bool
    images: int
    differing: int | None
    pairs: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class _One:
    """An image with its predictions; of the teacher and the student also the labels they give."""

    index: int
    his: Ranked
    hers: Ranked | None
    truth: frozenset[int] | None
    cosine: float | None
    his_given: tuple[int, ...]
    hers_given: tuple[int, ...]

    @property
    def expected(self) -> frozenset[int] | None:
        """The true labels, or without labels the teacher's."""
        if self.truth is not None:
            return self.truth
        return frozenset([self.hers[0][0]]) if self.hers else None

    @property
    def wrong(self) -> bool:
        return self.expected is not None and not _fits(self.his_given, self.expected)

    @property
    def differs(self) -> bool:
        return self.hers is not None and self.his[0][0] != self.hers[0][0]


def gallery_of(run: Gathered, kind: str) -> Gallery | None:
    """Choose images by the predictions of the student of `kind`; None without predictions."""
    student, teacher = student_predictions(run, kind), teacher_predictions(run)
    predictions = run.predictions
    if predictions is None or student is None:
        return None
    hers = (None,) * len(predictions.pictures) if teacher is None else teacher.ranked
    his_least, hers_least = _thresholds(run, len(predictions.labels))
    several = run.text is not None and isinstance(run.text.logits, Independent)
    every = [
        _One(
            index,
            his,
            her,
            picture.true_labels,
            cosine,
            _given(his, picture, his_least, several),
            _given(her, picture, hers_least, several),
        )
        for index, (picture, his, her, cosine) in enumerate(
            zip(predictions.pictures, student.ranked, hers, student.cosine, strict=True)
        )
        if his
    ]
    differing = [one for one in every if one.differs]
    return Gallery(
        walls=_walls(run, predictions, every),
        labelled=any(one.truth is not None for one in every),
        images=len(every),
        differing=None if teacher is None else len(differing),
        pairs=_pairs(predictions, differing),
    )


def _fits(given: tuple[int, ...], truth: frozenset[int]) -> bool:
    """Whether a model gives some of the true labels and no other, or none where there is none."""
    return truth.issuperset(given) and bool(given or not truth)


def _thresholds(run: Gathered, count: int) -> tuple[Floats, Floats]:
    """Probabilities (C,) from which the student and the teacher give each label."""
    if run.text is None:
        return np.zeros(count, np.float32), np.zeros(count, np.float32)
    student, teacher = (
        np.array(one.thresholds if isinstance(one, Independent) else [least] * count, np.float32)
        for one, least in ((run.text.logits, run.text.threshold), (run.text.teacher_logits, 0.0))
    )
    return student, teacher


def _given(
    ranked: Ranked | None, picture: Picture, least: Floats, several: bool
) -> tuple[int, ...]:
    """The labels that a model gives an image; the best one where an image has one label."""
    if not ranked:
        return ()
    if picture.truths is None:
        return (ranked[0][0],)
    able = ranked if several else ranked[:1]
    return tuple(label for label, share in able if share >= least[label])


def _walls(run: Gathered, predictions: Predictions, every: list[_One]) -> tuple[Wall, ...]:
    sorts: dict[str, list[_One]] = {
        "wrong": sorted((one for one in every if one.wrong), key=lambda one: -one.his[0][1]),
        "unsure": sorted(every, key=lambda one: one.his[0][1]),
        "apart": sorted(
            (one for one in every if one.cosine is not None), key=lambda one: one.cosine or 0.0
        ),
        "right": sorted(
            (one for one in every if one.expected is not None and not one.wrong),
            key=lambda one: -one.his[0][1],
        ),
    }
    shown: set[int] = set()
    picked = {}
    for name, ones in sorts.items():
        fresh = [one for one in ones if one.index not in shown]
        picked[name] = _varied(fresh, MOST[name], A_CLASS[name])
        shown |= {one.index for one in picked[name]}
    with track("report", len(shown), "images") as step:
        return tuple(
            Wall(name, tuple(_card(run, predictions, one, step) for one in ones), len(sorts[name]))
            for name, ones in picked.items()
            if ones
        )


def _varied(ones: list[_One], most: int, a_class: int) -> list[_One]:
    """Choose `most` images in order, at most `a_class` of a class while there are others."""
    counts: dict[int, int] = {}
    first: list[_One] = []
    later: list[_One] = []
    for one in ones:
        label = min(one.expected or {one.his[0][0]})
        counts[label] = counts.get(label, 0) + 1
        (first if counts[label] <= a_class else later).append(one)
    chosen = {one.index for one in [*first, *later][:most]}
    return [one for one in ones if one.index in chosen]


def _card(run: Gathered, predictions: Predictions, one: _One, step: Callable[[], object]) -> Card:
    picture = predictions.pictures[one.index]
    models = [("Teacher", one.hers, one.hers_given), ("Student", one.his, one.his_given)]
    step()
    return Card(
        key=picture.key,
        image=thumbnail(picture, run.folder),
        truth="" if one.truth is None else _named(sorted(one.truth), predictions, NO_LABEL),
        said=tuple(
            _said(who, ranked, given, predictions, one.truth)
            for who, ranked, given in models
            if ranked is not None
        ),
        cosine=one.cosine,
        owner=run.data.owners.get(PurePath(picture.key).name),
    )


def _said(
    who: str,
    ranked: Ranked,
    given: tuple[int, ...],
    predictions: Predictions,
    truth: frozenset[int] | None,
) -> Said:
    others = [(label, share) for label, share in ranked if label not in given]
    return Said(
        who,
        _named(given, predictions, UNKNOWN),
        ranked[0][1],
        None if truth is None else _fits(given, truth),
        tuple((predictions.labels[label], share) for label, share in others),
    )


def _named(indices: Sequence[int], predictions: Predictions, nothing: str) -> str:
    return ", ".join(predictions.labels[index] for index in indices) or nothing


def _pairs(predictions: Predictions, ones: list[_One]) -> tuple[tuple[str, str, int], ...]:
    counts = Counter((one.hers[0][0], one.his[0][0]) for one in ones if one.hers)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple((predictions.labels[a], predictions.labels[b], n) for (a, b), n in ranked)

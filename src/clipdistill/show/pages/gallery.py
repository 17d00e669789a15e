"""Which pictures are shown, and as what."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePath

from ...core.progress import track
from ...formats.ledger import LedgerRow
from ...formats.predictions import Predictions, Ranked
from .gather import Gathered, student_predictions, teacher_predictions
from .thumbnails import thumbnail

MOST = {"wrong": 12, "unsure": 8, "apart": 8, "right": 12}
"""Pictures a section, so that a page stays below 3 MB whatever the classes."""
A_CLASS = {"wrong": 2, "unsure": 2, "apart": 2, "right": 1}
"""Of one class in a section, before others had their turn."""


@dataclass(frozen=True)
class Said:
    """What one model says of one picture.

    Attributes:
        who: the model's title.
        label: its best.
        share: probability of it.
        right: whether that is true; None where nobody knows.
        others: (label, probability) of the next best.
    """

    who: str
    label: str
    share: float
    right: bool | None
    others: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Card:
    """One picture with what is said of it.

    Attributes:
        key: its name.
        image: a data URI; empty where it could not be read.
        truth: its label; empty without labels.
        said: the teacher first.
        cosine: of the student's embedding with the teacher's; None where unknown.
        owner: whom to name; None where nobody has to be, or it is unknown.
    """

    key: str
    image: str
    truth: str
    said: tuple[Said, ...]
    cosine: float | None
    owner: LedgerRow | None


@dataclass(frozen=True)
class Wall:
    """Pictures of one sort.

    Attributes:
        name: "wrong", "unsure", "apart" or "right".
        cards: some of them.
        total: how many there are of the sort.
    """

    name: str
    cards: tuple[Card, ...]
    total: int


@dataclass(frozen=True)
class Gallery:
    """The pictures that are shown.

    Attributes:
        walls: in the order in which they are shown; none is empty.
        labelled: whether right and wrong are known; otherwise "right" is what the teacher says.
        images: how many were asked about.
        differing: to how many teacher and student give different labels; None without a teacher.
        pairs: (teacher's label, student's label, how often), the commonest first.
    """

    walls: tuple[Wall, ...]
    labelled: bool
    images: int
    differing: int | None
    pairs: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class _One:
    """A picture with its predictions, while it is decided what is shown."""

    index: int
    his: Ranked
    hers: Ranked | None
    truth: int | None
    cosine: float | None

    @property
    def expected(self) -> int | None:
        """The right label, or without labels the teacher's."""
        if self.truth is not None:
            return self.truth
        return self.hers[0][0] if self.hers else None

    @property
    def wrong(self) -> bool:
        return self.expected is not None and self.his[0][0] != self.expected

    @property
    def differs(self) -> bool:
        return self.hers is not None and self.his[0][0] != self.hers[0][0]


def gallery_of(run: Gathered, kind: str) -> Gallery | None:
    """Pick pictures by what the student of `kind` and the teacher say; None without predictions."""
    student, teacher = student_predictions(run, kind), teacher_predictions(run)
    predictions = run.predictions
    if predictions is None or student is None:
        return None
    hers = (None,) * len(predictions.pictures) if teacher is None else teacher.ranked
    every = [
        _One(index, his, her, picture.truth, cosine)
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
    with track("report", len(shown), "pictures") as step:
        return tuple(
            Wall(name, tuple(_card(run, predictions, one, step) for one in ones), len(sorts[name]))
            for name, ones in picked.items()
            if ones
        )


def _varied(ones: list[_One], most: int, a_class: int) -> list[_One]:
    """The first `most`, in order, but of no class more than `a_class` while others wait."""
    counts: dict[int, int] = {}
    first: list[_One] = []
    later: list[_One] = []
    for one in ones:
        label = one.his[0][0] if one.expected is None else one.expected
        counts[label] = counts.get(label, 0) + 1
        (first if counts[label] <= a_class else later).append(one)
    chosen = {one.index for one in [*first, *later][:most]}
    return [one for one in ones if one.index in chosen]


def _card(run: Gathered, predictions: Predictions, one: _One, step: Callable[[], object]) -> Card:
    picture = predictions.pictures[one.index]
    told = [("Teacher", one.hers), ("Student", one.his)]
    step()
    return Card(
        key=picture.key,
        image=thumbnail(picture, run.folder),
        truth="" if one.truth is None else predictions.labels[one.truth],
        said=tuple(
            _said(who, ranked, predictions, one.truth) for who, ranked in told if ranked is not None
        ),
        cosine=one.cosine,
        owner=run.data.owners.get(PurePath(picture.key).name),
    )


def _said(who: str, ranked: Ranked, predictions: Predictions, truth: int | None) -> Said:
    (best, share), *others = ranked
    return Said(
        who,
        predictions.labels[best],
        share,
        None if truth is None else best == truth,
        tuple((predictions.labels[index], other) for index, other in others),
    )


def _pairs(predictions: Predictions, ones: Iterable[_One]) -> tuple[tuple[str, str, int], ...]:
    counts: dict[tuple[int, int], int] = {}
    for one in ones:
        if one.hers is not None:
            pair = (one.hers[0][0], one.his[0][0])
            counts[pair] = counts.get(pair, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple((predictions.labels[a], predictions.labels[b], n) for (a, b), n in ranked)

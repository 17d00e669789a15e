"""Labels of which an image may have several or none: thresholds, and scores if measured."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.zeroshot import Independent
from ...formats.measurements import LabelScores, SeveralLabels
from .gather import Gathered
from .naming import model_name
from .standing import Standing


@dataclass(frozen=True)
class LabelRow:
    """One label.

    Attributes:
        label: the label.
        threshold: probability from which an image has it, 0 to 1.
        matched: number of images with it among those that it was fitted on.
        scores: its scores on labelled images; None without.
    """

    label: str
    threshold: float
    matched: int
    scores: LabelScores | None


@dataclass(frozen=True)
class Several:
    """Independent classes.

    Attributes:
        method: what they were fitted to, as in `Independent`.
        source: name of the pool or of the images; empty: none.
        images: number of these images.
        unmatched: labels with a cautious threshold, for want of images.
        f1: mean F1 of the shown student, 0 to 1; None without labelled images.
        mean_average_precision: the same of average precision.
        rows: one per label, the lowest F1 first.
    """

    method: str
    source: str
    images: int
    unmatched: tuple[str, ...]
    f1: float | None
    mean_average_precision: float | None
    rows: tuple[LabelRow, ...]


def several_of(run: Gathered, shown: Standing | None) -> Several | None:
    """Describe independent classes; None where every image has one label."""
    logits = None if run.text is None else run.text.logits
    if run.text is None or not isinstance(logits, Independent):
        return None
    measured = _measured(run, shown)
    known = {} if measured is None else measured.per_label
    columns = zip(run.text.labels, logits.thresholds, logits.matched, strict=True)
    rows = [LabelRow(*values, known.get(values[0])) for values in columns]
    rows.sort(key=lambda row: 2.0 if row.scores is None else row.scores.f1 or 0.0)
    return Several(
        logits.method,
        logits.source,
        logits.images,
        logits.unmatched,
        None if measured is None else measured.f1,
        None if measured is None else measured.mean_average_precision,
        tuple(rows),
    )


def _measured(run: Gathered, shown: Standing | None) -> SeveralLabels | None:
    """Scores of the shown student, else of one of its kind."""
    if run.evaluated is None or shown is None:
        return None
    rows = [
        (model_name(row.model, row.role, run.classifier_of), row.several)
        for row in run.evaluated.rows
        if row.several is not None
    ]
    own = [found for name, found in rows if name == shown.name]
    alike = [found for name, found in rows if name.kind == shown.name.kind]
    return next(iter(own or alike), None)

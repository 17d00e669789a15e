"""Scores of labels, of which an image may have several or none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..core import metrics
from ..core.model_names import short_names
from ..core.results import Table
from ..core.wording import percent, shown_labels
from ..core.zeroshot import Floats
from ..formats.measurements import LabelScores, ModelEvaluation, SeveralLabels


def several_labels(
    scores: Floats,
    has: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    labels: Sequence[str],
    thresholds: NDArray[np.floating] | None,
) -> SeveralLabels:
    """Score a model.

    Args:
        scores: probabilities, float32 (N, C).
        has: whether the model gives each image each label, (N, C).
        truth: whether each image has each label, (N, C).
        labels: C labels.
        thresholds: of each label (C,); None where only the best label is given.
    """
    precision, recall, f1 = metrics.label_scores(has, truth)
    areas = np.array(
        [metrics.average_precision(scores[:, one], truth[:, one]) for one in range(len(labels))]
    )
    there, given = truth.sum(axis=0).tolist(), has.sum(axis=0).tolist()
    per_label = {
        label: LabelScores(
            images=there[one],
            given=given[one],
            threshold=None if thresholds is None else float(thresholds[one]),
            precision=_known(precision[one]),
            recall=_known(recall[one]),
            f1=_known(f1[one]),
            average_precision=_known(areas[one]),
        )
        for one, label in enumerate(labels)
    }
    nothing = ~truth.any(axis=1)
    return SeveralLabels(
        mean_average_precision=_mean(areas),
        precision=_mean(precision),
        recall=_mean(recall),
        f1=_mean(f1),
        exact=float((has == truth).all(axis=1).mean()),
        none=float((~has[nothing].any(axis=1)).mean()) if nothing.any() else None,
        per_label=per_label,
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _mean(values: NDArray[np.floating]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def several_tables(rows: Sequence[ModelEvaluation], most: int) -> list[Table]:
    """Show the labels of each model that may give several, the lowest F1 first.

    Args:
        rows: the models.
        most: labels of the longest table that is shown.
    """
    names = short_names([row.model for row in rows], [row.runtime for row in rows])
    return [
        _table(name, row.several)
        for name, row in zip(names, rows, strict=True)
        if row.several is not None and len(row.labels) <= most
    ]


def _table(name: str, found: SeveralLabels) -> Table:
    shown = shown_labels(found.per_label)
    order = sorted(found.per_label.items(), key=lambda pair: (pair[1].f1 is None, pair[1].f1 or 0))
    lines = tuple(
        (
            shown[label],
            str(one.images),
            str(one.given),
            percent(one.threshold, 0),
            percent(one.precision),
            percent(one.recall),
            percent(one.f1),
            percent(one.average_precision),
        )
        for label, one in order
    )
    none = "" if found.none is None else f"; none given where there is none: {percent(found.none)}"
    title = f"Labels given by {name}; exactly right: {percent(found.exact)} of the images{none}"
    columns = (
        "label",
        ">images",
        ">given",
        ">threshold",
        ">precision",
        ">recall",
        ">F1",
        ">average precision",
    )
    return Table(title, columns, lines)

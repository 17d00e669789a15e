"""Metrics, as small pure functions (numpy only).

A share of nothing is NaN, never 0 or 1: an empty class must not look like a bad or a perfect one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .zeroshot import Floats, normalized, top_k

Labels = NDArray[np.intp]
Doubles = NDArray[np.float64]

CALIBRATION_BINS = 15
"""Of confidence, all equally wide (Guo et al. 2017, "On Calibration of Modern Neural Networks")."""
SAME_COSINE = 0.002
"""Loss of mean cosine up to which INT8 lost nothing.  Of three students on photos, calibrated INT8
lost at most 0.001 of cosine and at most 0.6 points of top-1, where 2 points are within chance
(benchmarks/compression-2026-11-24.md)."""


def accuracy(predicted: Labels, truth: Labels) -> float:
    """Share of equal entries; int (N,) each."""
    return float(np.mean(predicted == truth)) if len(truth) else float("nan")


def top_k_accuracy(scores: Floats, truth: Labels, k: int) -> float:
    """Share of rows whose true class is among the `k` largest; (N, C) and int (N,)."""
    if not len(truth):
        return float("nan")
    return float(np.mean((top_k(scores, k) == truth[:, None]).any(axis=1)))


def any_right(scores: Floats, truth: NDArray[np.bool_], k: int) -> float:
    """Share of the rows with a label of which one is among the `k` largest; (N, C) each."""
    there = truth.any(axis=1)
    if not there.any():
        return float("nan")
    best = np.take_along_axis(truth, top_k(scores, k), axis=1)
    return float(np.mean(best[there].max(axis=1)))


def confusion(predicted: Labels, truth: Labels, classes: int) -> NDArray[np.int64]:
    """Counts int64 (C, C): row is the true class, column the predicted one."""
    counts = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def class_accuracy(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Accuracy of each true class of a confusion matrix: float64 (C,), NaN for absent classes."""
    totals = counts.sum(axis=1)
    return np.where(totals > 0, np.diagonal(counts) / np.maximum(totals, 1), np.nan)


def agreement(mine: Floats, theirs: Floats) -> float:
    """Share of rows with the same best class; scores (N, C) each."""
    if not len(mine):
        return float("nan")
    return accuracy(top_k(mine, 1)[:, 0], top_k(theirs, 1)[:, 0])


def cosines(mine: NDArray[np.floating], theirs: NDArray[np.floating]) -> Floats:
    """Cosine of each pair of rows: (N, D) each, of any length -> float32 (N,)."""
    result: Floats = np.einsum("nd,nd->n", normalized(mine), normalized(theirs))
    return result


def lost_nothing(before: float | None, after: float | None) -> bool:
    """Whether the second mean cosine is as good as the first; False where one is unknown."""
    return before is not None and after is not None and before - after <= SAME_COSINE


def mean_cosine(mine: NDArray[np.floating], theirs: NDArray[np.floating]) -> float:
    """Mean cosine of paired rows; (N, D) each, of any length."""
    return float(cosines(mine, theirs).mean(dtype=np.float64)) if len(mine) else float("nan")


def reliability(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_]
) -> tuple[Doubles, Doubles, NDArray[np.intp]]:
    """How often answers of one confidence are right, bin by bin.

    Args:
        confidence: probability of each answer, (N,), 0 to 1.
        correct: whether it is right, (N,).

    Returns:
        Of each bin the mean confidence and the share that is right, float64 (15,), NaN in an empty
        bin; and how many answers it has, int (15,).
    """
    values = np.asarray(confidence, np.float64)
    place = np.minimum((values * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    images = np.bincount(place, minlength=CALIBRATION_BINS)
    sums = [
        np.bincount(place, weights=one, minlength=CALIBRATION_BINS)
        for one in (values, correct.astype(np.float64))
    ]
    said, right = (np.where(images, total / np.maximum(images, 1), np.nan) for total in sums)
    return said, right, images


def calibration_error(confidence: NDArray[np.floating], correct: NDArray[np.bool_]) -> float:
    """Expected calibration error: how far confidence is from accuracy, 0 to 1; (N,) each."""
    said, right, images = reliability(confidence, correct)
    return float(np.nansum(np.abs(said - right) * images) / len(confidence))


def average_precision(scores: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """Mean of the precisions at the rank of each image that has the label; (N,) each.

    Images of equal scores count as one rank, so their order does not matter.  NaN where no image
    has the label.
    """
    positives = int(truth.sum())
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(truth[order])
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    recalled = np.diff(right[last], prepend=0)
    return float((recalled * right[last] / (last + 1)).sum() / positives)


def label_scores(
    given: NDArray[np.bool_], truth: NDArray[np.bool_]
) -> tuple[Doubles, Doubles, Doubles]:
    """Precision, recall and F1 of each label: float64 (C,) each, 0 to 1.

    Args:
        given: whether each label was given to each image, (N, C).
        truth: whether each image has each label, (N, C).

    Returns:
        NaN where there is nothing to share: precision of a label that was never given, recall and
        F1 of a label that no image has.
    """
    both = (given & truth).sum(axis=0)
    said, there = given.sum(axis=0), truth.sum(axis=0)
    precision = np.where(said, both / np.maximum(said, 1), np.nan)
    recall = np.where(there, both / np.maximum(there, 1), np.nan)
    f1 = np.where(there, 2 * both / np.maximum(said + there, 1), np.nan)
    return precision, recall, f1

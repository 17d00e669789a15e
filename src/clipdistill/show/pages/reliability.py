"""Reliability of the student's probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core import metrics
from .gather import Gathered, student_predictions, teacher_predictions

FEWEST = 5
"""Least images of a bin that is drawn; the share of fewer images is not meaningful."""


@dataclass(frozen=True)
class Reliability:
    """Share of correct labels by probability.

    Attributes:
        truth: "label", or without labels "teacher": the labels that count as correct.
        said: mean probability of the best label of each bin that has enough images, 0 to 1.
        right: share of correct labels of each of these bins, 0 to 1.
        images: number of images of each of these bins.
        total: number of all images, including those of small bins.
        error: expected calibration error over all images, 0 to 1.
    """

    truth: str
    said: tuple[float, ...]
    right: tuple[float, ...]
    images: tuple[int, ...]
    total: int
    error: float


def reliability_of(run: Gathered, kind: str) -> Reliability | None:
    """Measure it on the predictions of a run; None without labels and without a teacher."""
    student = student_predictions(run, kind)
    if run.predictions is None or student is None:
        return None
    truth = [picture.true_labels for picture in run.predictions.pictures]
    by_labels = any(true is not None for true in truth)
    if not by_labels:
        teacher = teacher_predictions(run)
        if teacher is None:
            return None
        truth = [frozenset([ranked[0][0]]) if ranked else None for ranked in teacher.ranked]
    pairs = [
        (ranked[0][1], ranked[0][0] in true)
        for ranked, true in zip(student.ranked, truth, strict=True)
        if ranked and true is not None
    ]
    return _bins(pairs, "label" if by_labels else "teacher") if pairs else None


def _bins(pairs: list[tuple[float, bool]], truth: str) -> Reliability:
    confidence = np.array([one for one, _ in pairs])
    correct = np.array([one for _, one in pairs], dtype=bool)
    said, right, images = metrics.reliability(confidence, correct)
    drawn = images >= FEWEST
    return Reliability(
        truth,
        tuple(said[drawn].tolist()),
        tuple(right[drawn].tolist()),
        tuple(images[drawn].tolist()),
        len(pairs),
        metrics.calibration_error(confidence, correct),
    )

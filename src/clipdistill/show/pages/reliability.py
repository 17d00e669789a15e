"""Whether the student's probabilities can be believed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core import metrics
from .gather import Gathered, student_predictions, teacher_predictions

FEWEST = 5
"""Pictures a bin needs to be drawn; the share of fewer says nothing."""


@dataclass(frozen=True)
class Reliability:
    """Probability said, against share right.

    Attributes:
        truth: "label", or without labels "teacher".
        said: mean probability of each bin that has enough pictures.
        right: share of them that are right.
        images: how many they are.
        total: pictures, those of small bins as well.
        error: expected calibration error over all pictures, 0 to 1.
    """

    truth: str
    said: tuple[float, ...]
    right: tuple[float, ...]
    images: tuple[int, ...]
    total: int
    error: float


def reliability_of(run: Gathered, kind: str) -> Reliability | None:
    """Measured on the pictures of predictions.json; None where nobody knows what is right."""
    student = student_predictions(run, kind)
    if run.predictions is None or student is None:
        return None
    truth: list[int | None] = [picture.truth for picture in run.predictions.pictures]
    by_labels = any(true is not None for true in truth)
    if not by_labels:
        teacher = teacher_predictions(run)
        if teacher is None:
            return None
        truth = [told[0][0] if told else None for told in teacher.ranked]
    pairs = [
        (told[0][1], told[0][0] == true)
        for told, true in zip(student.ranked, truth, strict=True)
        if told and true is not None
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

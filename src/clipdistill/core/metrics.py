"""Metrics, as small pure functions (numpy only).

A share of nothing is NaN, never 0 or 1: an empty class must not look like a bad or a perfect one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .zeroshot import Floats, normalized, top_k

Labels = NDArray[np.intp]


def accuracy(predicted: Labels, truth: Labels) -> float:
    """Share of equal entries; int (N,) each."""
    return float(np.mean(predicted == truth)) if len(truth) else float("nan")


def top_k_accuracy(scores: Floats, truth: Labels, k: int) -> float:
    """Share of rows whose true class is among the `k` largest; (N, C) and int (N,)."""
    if not len(truth):
        return float("nan")
    return float(np.mean((top_k(scores, k) == truth[:, None]).any(axis=1)))


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


def mean_cosine(mine: NDArray[np.floating], theirs: NDArray[np.floating]) -> float:
    """Mean cosine of paired rows; (N, D) each, of any length."""
    return float(cosines(mine, theirs).mean(dtype=np.float64)) if len(mine) else float("nan")

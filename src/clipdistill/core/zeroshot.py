"""Embeddings x text embeddings -> probabilities and ranked labels (numpy only)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LogitScale:
    """How a teacher turns cosines into logits: `scale * cosine + bias`.

    Attributes:
        scale: CLIP's learnt temperature, exp(logit_scale) (about 100 for OpenAI's and LAION's
            models; Radford et al. 2021, section 2.5).
        bias: None for softmax models; SigLIP's logit bias for sigmoid models (Zhai et al. 2023).
    """

    scale: float = 100.0
    bias: float | None = None


@dataclass(frozen=True)
class Calibration:
    """How a student's cosines become calibrated probabilities, and when the answer is "unknown".

    Attributes:
        logits: fitted scale (and bias, for sigmoid teachers) in place of the teacher's own.
        threshold: probability of the best label below which the answer is "unknown", 0 to 1.
        method: what it was fitted to: the "teacher"'s probabilities, or true "labels".
        model: name of the student it was fitted for, without its folder.
        images: number of images it was fitted on.
        ece_before: expected calibration error with the teacher's own scale, 0 to 1.
        ece_after: the same with the fitted scale, on images that it was not fitted on.
        coverage: share of the images whose answer is not "unknown".
    """

    logits: LogitScale
    threshold: float
    method: Literal["teacher", "labels"]
    model: str
    images: int
    ece_before: float
    ece_after: float
    coverage: float


def normalized(vectors: NDArray[np.floating]) -> Floats:
    """Scale rows to unit length: (N, D) of any float type -> float32.  Zero rows stay zero."""
    values = np.asarray(vectors, dtype=np.float32)
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    unit: Floats = values / np.maximum(length, 1e-12)
    return unit


def halfway(text: Floats, means: Floats) -> Floats:
    """Class vectors (C, D) between text vectors and the means of images, both of unit length.

    Half text and half images: with less text, a pool that is half junk takes the classes with it.
    """
    return normalized(text + means)


def moved_along(text: Floats, shift: Floats) -> Floats:
    """Class vectors (C, D) of labels without images, given what others moved by: `shift` (D,)."""
    return halfway(text, normalized(text + shift))


def probabilities(embeddings: Floats, text: Floats, logits: LogitScale) -> Floats:
    """Compute zero-shot probabilities.

    Args:
        embeddings: float32 (N, D), L2-normalised.
        text: float32 (C, D), L2-normalised.
        logits: the teacher's scale and bias.

    Returns:
        float32 (N, C): softmax over the labels (rows sum to 1), or for a sigmoid teacher an
        independent probability per label.
    """
    values: Floats = logits.scale * (embeddings @ text.T)
    if logits.bias is not None:
        # Evaluated on the side where exp cannot overflow.
        values = values + logits.bias
        small = np.exp(-np.abs(values))
        values = np.where(values >= 0, 1 / (1 + small), small / (1 + small))
    else:
        values = np.exp(values - values.max(axis=-1, keepdims=True))
        values = values / values.sum(axis=-1, keepdims=True)
    return values.astype(np.float32)


def top_k(scores: Floats, k: int) -> NDArray[np.intp]:
    """Indices of the `k` largest of each row of (N, C), largest first; ties to the lower index."""
    return np.argsort(-scores, axis=-1, kind="stable")[:, :k]


def ranked(scores: Floats, labels: Sequence[str], most: int) -> tuple[tuple[str, float], ...]:
    """Pair the `most` best labels with their scores, float32 (C,), the best first."""
    return tuple((labels[index], float(scores[index])) for index in top_k(scores[None], most)[0])

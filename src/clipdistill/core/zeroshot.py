"""Embeddings x text embeddings -> probabilities and ranked labels (numpy only)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CAUTIOUS = 0.9
"""Threshold of an independent class that was fitted to fewer than 3 images."""


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
class Independent:
    """A probability for each class on its own: sigmoid(scale * cosine + bias), per class.

    An image may have several labels or none: those whose probability reaches their threshold.

    Attributes:
        scales: slope of each class (C,), above 0.
        biases: offset of each class (C,).
        thresholds: probability of each class (C,) from which an image has the label, 0 to 1.
        method: what it was fitted to: the images of a "pool", true "labels", or a student to its
            "teacher"; "scale": not fitted, the teacher's own scale and bias.
        source: name of the pool or of the images; empty: none.
        images: number of images it was fitted on.
        matched: images of each label (C,) among them: those that reach its threshold, or that have
            the label.
        unmatched: labels with too few images to be fitted; they have a cautious default.
    """

    scales: tuple[float, ...]
    biases: tuple[float, ...]
    thresholds: tuple[float, ...]
    method: Literal["scale", "pool", "teacher", "labels"]
    source: str
    images: int
    matched: tuple[int, ...]
    unmatched: tuple[str, ...]

    def __post_init__(self) -> None:
        numbers = (*self.scales, *self.biases, *self.thresholds)
        if not all(map(math.isfinite, numbers)) or min(self.scales, default=1) <= 0:
            raise ValueError("independent probabilities with a scale or bias that is no number")
        if not all(0 <= one <= 1 for one in self.thresholds):
            raise ValueError("independent probabilities with a threshold that is none, 0 to 1")
        counts = {len(self.scales), len(self.biases), len(self.thresholds), len(self.matched)}
        if len(counts) != 1:
            raise ValueError(f"independent probabilities of {sorted(counts)} classes")

    def for_labels(self, old: Sequence[str], new: Sequence[str]) -> Independent:
        """Return the probabilities of other labels, `new`, given that these are of `old`.

        Labels that are in both keep theirs.  The others get a cautious default: the usual slope,
        and as high a cosine as three quarters of the old labels need at most.
        """
        place = {label: index for index, label in enumerate(old)}
        scale = float(np.median(self.scales))
        middle = float(np.quantile(-np.array(self.biases) / np.array(self.scales), 0.75))
        default = (scale, -scale * middle, CAUTIOUS, 0)
        rows = list(zip(self.scales, self.biases, self.thresholds, self.matched, strict=True))
        chosen = [rows[place[label]] if label in place else default for label in new]
        scales, biases, thresholds, matched = zip(*chosen, strict=True)
        cautious = {*self.unmatched, *(label for label in new if label not in place)}
        return replace(
            self,
            scales=scales,
            biases=biases,
            thresholds=thresholds,
            matched=matched,
            unmatched=tuple(label for label in new if label in cautious),
        )


Logits = LogitScale | Independent
"""What turns cosines into probabilities."""


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
        independent: probabilities of the student for each class on its own, in place of `logits`
            and `threshold`; the errors are then those of all pairs of image and label. None: one
            answer per image.
    """

    logits: LogitScale
    threshold: float
    method: Literal["teacher", "labels"]
    model: str
    images: int
    ece_before: float
    ece_after: float
    coverage: float
    independent: Independent | None = None


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


def probabilities(embeddings: Floats, text: Floats, logits: Logits) -> Floats:
    """Compute zero-shot probabilities.

    Args:
        embeddings: float32 (N, D), L2-normalised.
        text: float32 (C, D), L2-normalised.
        logits: the teacher's scale and bias, or those of each class.

    Returns:
        float32 (N, C): softmax over the labels (rows sum to 1), or for a sigmoid teacher and for
        independent classes a probability for each label on its own.
    """
    cosines: Floats = embeddings @ text.T
    if isinstance(logits, Independent):
        scales, biases = (np.array(one, np.float32) for one in (logits.scales, logits.biases))
        return sigmoid(scales * cosines + biases)
    if logits.bias is not None:
        return sigmoid(logits.scale * cosines + logits.bias)
    values: Floats = logits.scale * cosines
    values = np.exp(values - values.max(axis=-1, keepdims=True))
    shares: Floats = values / values.sum(axis=-1, keepdims=True)
    return shares.astype(np.float32)


def sigmoid(values: NDArray[np.floating]) -> Floats:
    """1 / (1 + exp(-values)), float32, computed on the side where exp cannot overflow."""
    small = np.exp(-np.abs(values))
    result: Floats = np.where(values >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
    return result


def top_k(scores: Floats, k: int) -> NDArray[np.intp]:
    """Indices of the `k` largest of each row of (N, C), largest first; ties to the lower index."""
    return np.argsort(-scores, axis=-1, kind="stable")[:, :k]


def judged(
    scores: Floats, labels: Sequence[str], most: int, least: float | Floats
) -> tuple[tuple[tuple[str, float], ...], tuple[str, ...]]:
    """Say which labels an image has.

    Args:
        scores: probabilities of one image, float32 (C,).
        labels: C labels.
        most: labels to rank; all that the image has are ranked.
        least: probability from which the best label is the answer; float32 (C,) for independent
            classes: probability from which the image has each of them.

    Returns:
        (label, probability) pairs, those that the image has first, each part by probability; and
        the labels that it has, which may be none.
    """
    if not isinstance(least, np.ndarray):
        best = ranked(scores, labels, most)
        return best, () if best[0][1] < least else (best[0][0],)
    has = scores >= least
    order = np.lexsort((-scores, ~has))[: max(most, int(has.sum()))]
    best = tuple((labels[index], float(scores[index])) for index in order)
    return best, tuple(labels[index] for index in order if has[index])


def ranked(scores: Floats, labels: Sequence[str], most: int) -> tuple[tuple[str, float], ...]:
    """Pair the `most` best labels with their scores, float32 (C,), the best first."""
    return tuple((labels[index], float(scores[index])) for index in top_k(scores[None], most)[0])

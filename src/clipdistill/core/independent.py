"""Fitting a probability for each class on its own: the arithmetic of `--independent` (numpy only).

An image has a label where its cosine with the class vector stands out of the class's background:
the cosines of images that are nearer to another class.  Each class has a background of its own, by
its centre (median) and width (median deviation).  In widths from the centre the classes look alike,
so that one mixture of two normal distributions, background and matches, is fitted to all classes
together; what it says about a match is a logistic function of the cosine.  A class that no image of
the pool shows is judged as the others are, with a cautious threshold.

Fitting one mixture per class, and other ways, are compared in benchmarks/independent.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .metrics import Doubles
from .zeroshot import CAUTIOUS, Floats, Independent

Mask = NDArray[np.bool_]

Blocks = Callable[[], Iterable[Floats]]
"""Streams a pool: float32 (n, D) of unit length, the same rows in the same order at each call."""

MOST_IMAGES, MOST_COSINES = 20_000, 1 << 24
"""Images, and cosines of images with classes, that a background is measured on at most."""
LEAST_IMAGES = 20
"""Images that a background needs."""
SUPPORTED = 3
"""Images from which a class counts as present."""
THRESHOLD = 0.5
"""Probability from which an image has a label, where there are no labels to fit it to."""
USUAL = (2.5, 2.8)
"""Slope, and widths from the centre where the probability is 0.5, of a pool without matches.  Pools
of 300 to 9,500 photos of 20 kinds gave 2.5 to 2.9 and 2.6 to 2.9, with class vectors of text and
with adapted ones (one teacher, lit-efficientnet-lite2; 2026-11-28)."""
FAR = 3.0
"""Widths above the centre from which cosines are taken for matches at first."""
APART = 3.0
"""Widths that the mean of the matches has to lie above the centre of the background."""
SPREAD = 1.4826
"""Standard deviation of a normal distribution over its median deviation."""
BINS = np.arange(-10.0, 40.0, 0.02)
"""Lower edges of the bins in which standardised cosines are counted."""
ROUNDS = 500
STEPS = 100
SMALLEST = 1e-8
PRIOR = 5.0
"""Positives of all classes that are added to those of a class when its threshold is chosen."""
GRID = np.arange(0.05, 0.96, 0.05)
"""Thresholds that are tried."""


@dataclass(frozen=True)
class Background:
    """Cosines of images that do not show a class.

    Attributes:
        centre: median of each class, (C,).
        width: standard deviation of each class, (C,), by the median deviation; above 0.
    """

    centre: Doubles
    width: Doubles

    def standardise(self, cosines: Floats) -> Doubles:
        """Widths above the centre, (N, C)."""
        return (cosines - self.centre) / self.width

    def logistic(self, slope: float, offset: float) -> tuple[Doubles, Doubles]:
        """Scales and biases (C,) of cosines: those of standardised ones are alike for all."""
        return slope / self.width, offset - slope * self.centre / self.width


def background(cosines: Floats, matches: Mask) -> Background:
    """Measure the background.

    Args:
        cosines: float32 (N, C).
        matches: images that count for the class and not for its background, (N, C). A class
            without other images is measured on all.
    """
    count = cosines.shape[1]
    centre, width = np.empty(count), np.empty(count)
    for one in range(count):
        others = cosines[~matches[:, one], one].astype(np.float64)
        values = others if len(others) else cosines[:, one].astype(np.float64)
        centre[one] = np.median(values)
        width[one] = SPREAD * np.median(np.abs(values - centre[one]))
    usual = np.median(width[width > 0]) if (width > 0).any() else 1.0
    return Background(centre, np.maximum(width, usual / 10))


def nearest(cosines: Floats) -> Mask:
    """Mark the nearest class of each image, (N, C); none where there is only one class."""
    if cosines.shape[1] == 1:
        return np.zeros(cosines.shape, bool)
    return np.asarray(cosines.argmax(axis=1)[:, None] == np.arange(cosines.shape[1]))


def fit_pool(
    vectors: Floats, blocks: Blocks, labels: tuple[str, ...], source: str
) -> Independent | None:
    """Fit probabilities to a pool without labels.

    Args:
        vectors: class vectors, float32 (C, D) of unit length.
        blocks: the pool; it is read twice.
        labels: the classes.
        source: name of the pool, to be recorded.

    Returns:
        None where the pool has fewer than `LEAST_IMAGES`.
    """
    cosines = sample(blocks, len(vectors)) @ vectors.T
    if len(cosines) < LEAST_IMAGES:
        return None
    found = background(cosines, nearest(cosines))
    slope, offset = mixture(found.standardise(cosines)) or (USUAL[0], -USUAL[0] * USUAL[1])
    scales, biases = found.logistic(slope, offset)
    images, seen = 0, np.zeros(len(vectors), np.int64)
    for block in blocks():
        cosines = block @ vectors.T
        reached = scales * cosines + biases >= 0
        # Images that are nearer to another class say little about a class.
        seen += (reached & nearest(cosines) if len(vectors) > 1 else reached).sum(axis=0)
        images += len(block)
    least = np.where(seen < SUPPORTED, CAUTIOUS, THRESHOLD)
    return Independent(
        scales=tuple(scales.tolist()),
        biases=tuple(biases.tolist()),
        thresholds=tuple(least.tolist()),
        method="pool",
        source=source,
        images=images,
        matched=tuple(seen.tolist()),
        unmatched=tuple(labels[one] for one in np.flatnonzero(seen < SUPPORTED)),
    )


def sample(blocks: Blocks, classes: int) -> Floats:
    """Take evenly spaced images of a pool, (n, D): all, or at least half of what fits."""
    most = max(LEAST_IMAGES, min(MOST_IMAGES, MOST_COSINES // classes))
    kept: list[Floats] = []
    stride, start, count = 1, 0, 0
    for block in blocks():
        kept.append(block[-start % stride :: stride])
        start, count = start + len(block), count + len(kept[-1])
        while count > most:
            whole = np.concatenate(kept)[::2]
            kept, count, stride = [whole], len(whole), 2 * stride
    return np.concatenate(kept)


def mixture(values: Doubles) -> tuple[float, float] | None:
    """Fit two normal distributions, background and matches, by expectation maximisation.

    The background has mean 0 and variance 1, for so the values were standardised; mean, variance
    and share of the matches are fitted.

    Args:
        values: standardised cosines, of any shape.

    Returns:
        Slope and offset of the logistic function nearest to the share of the matches; None where
        there are no matches, or where they lie less than `APART` above the background.
    """
    counts, edges = np.histogram(np.clip(values, BINS[0], BINS[-1] - 1e-9), bins=BINS)
    there = counts > 0
    weights, places = counts[there].astype(np.float64), ((edges[1:] + edges[:-1]) / 2)[there]
    shares = (places > FAR).astype(np.float64)
    for _ in range(ROUNDS):
        total = float((weights * shares).sum())
        if total < SUPPORTED or total >= weights.sum():
            return None
        mean = float((weights * shares * places).sum() / total)
        variance = float((weights * shares * (places - mean) ** 2).sum() / total)
        odds = np.log(total / (weights.sum() - total)) - np.log(max(variance, 0.01)) / 2
        odds = odds - (places - mean) ** 2 / (2 * max(variance, 0.01)) + places**2 / 2
        new = _expit(odds)
        new[places < 0] = 0  # a wide distribution of matches also covers the other end
        done = np.abs(new - shares).max() < SMALLEST
        shares = new
        if done:
            break
    return logistic(places, shares, weights) if mean >= APART else None


def fit_target(
    base: Independent,
    cosines: Floats,
    target: Floats,
    labels: tuple[str, ...],
    *,
    method: Literal["teacher", "labels"],
    source: str,
) -> Independent:
    """Fit a student's probabilities to those of its teacher, or to true labels.

    The teacher's logits of the student's cosines are stretched and moved, all classes alike: two
    numbers, for which 30 images are enough.  Labels also choose the threshold of each class that
    `SUPPORTED` images have; the others keep the teacher's.

    Args:
        base: probabilities of the teacher.
        cosines: cosines of the student's embeddings with the class vectors, float32 (N, C).
        target: probability that each image has each label, float32 (N, C): 0 or 1 for true labels.
        labels: the classes.
        method: what the target is.
        source: name of the images, to be recorded.
    """
    scales, biases = np.array(base.scales), np.array(base.biases)
    values = scales * cosines + biases
    slope, offset = logistic(values.ravel(), target.ravel().astype(np.float64))
    has = target >= THRESHOLD
    count = has.sum(axis=0)
    least, unmatched = np.array(base.thresholds), base.unmatched
    if method == "labels":
        fitted = best_thresholds(_expit(slope * values + offset), has)
        least = np.where(count < SUPPORTED, least, fitted)
        now = {label for label, images in zip(labels, count, strict=True) if images >= SUPPORTED}
        unmatched = tuple(label for label in unmatched if label not in now)
    return Independent(
        scales=tuple((slope * scales).tolist()),
        biases=tuple((slope * biases + offset).tolist()),
        thresholds=tuple(least.tolist()),
        method=method,
        source=source,
        images=len(cosines),
        matched=tuple(count.tolist()),
        unmatched=unmatched,
    )


def best_thresholds(shares: Doubles, has: Mask) -> Doubles:
    """Find the threshold of each class (C,) with the best F1, of equal ones that nearest to 0.5.

    Each class counts `PRIOR` of the positives of all classes as its own, so that a few images do
    not decide alone.

    Args:
        shares: probabilities (N, C), 0 to 1.
        has: whether each image has each label, (N, C).
    """
    positives = has.sum(axis=0)
    own = PRIOR / max(int(positives.sum()), 1)
    best, least = np.full(shares.shape[1], -1.0), np.full(shares.shape[1], THRESHOLD)
    for one in sorted(GRID, key=lambda value: abs(value - THRESHOLD)):
        given = shares >= one
        hits, said = (given & has).sum(axis=0), given.sum(axis=0)
        hits, said = hits + own * hits.sum(), said + own * said.sum()
        f1 = 2 * hits / np.maximum(said + positives + own * positives.sum(), 1e-9)
        better = f1 > best
        best, least = np.where(better, f1, best), np.where(better, one, least)
    return np.round(least, 2)


def logistic(
    values: Doubles, target: Doubles, weights: Doubles | None = None
) -> tuple[float, float]:
    """Fit sigmoid(slope * value + offset) to targets by maximum likelihood (Platt 1999).

    Args:
        values: (M,).
        target: probabilities (M,), 0 to 1.
        weights: of each value (M,); None: all alike.

    Returns:
        Slope, at least 0.01 and at most 100, and offset.
    """
    weights = np.ones(len(values)) if weights is None else weights
    features = np.stack([values, np.ones(len(values))], axis=1)
    share = np.clip(np.average(target, weights=weights), 1e-6, 1 - 1e-6)
    found = np.array([0.0, np.log(share / (1 - share))])
    penalty = np.diag([1e-3, 1e-6])  # where a value separates the targets, likelihood has no end

    def loss(at: Doubles) -> float:
        line = features @ at
        entropy = weights * (np.logaddexp(0, line) - target * line)
        return float(entropy.sum() + at @ penalty @ at / 2)

    now = loss(found)
    for _ in range(STEPS):
        shares = _expit(features @ found)
        gradient = features.T @ (weights * (shares - target)) + penalty @ found
        curvature = (features * (weights * shares * (1 - shares))[:, None]).T @ features + penalty
        step = np.linalg.solve(curvature, gradient)
        new = found - step
        while (then := loss(new)) > now and np.abs(new - found).max() > SMALLEST:
            new = (new + found) / 2
        found, before, now = new, now, then
        if before - now < SMALLEST * max(now, 1.0):
            break
    return float(np.clip(found[0], 0.01, 100)), float(found[1])


def _expit(values: Doubles) -> Doubles:
    result: Doubles = 0.5 * (1 + np.tanh(0.5 * values))
    return result

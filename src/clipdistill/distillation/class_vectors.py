"""Class vectors learnt from unlabelled embeddings: the arithmetic of `adapt` (numpy only).

A text vector says where a class should lie; the images of a pool show where it does.  Each round
gives every image to the nearest class vector, keeps of each class the images nearest to it, and
moves the class vector half the way from its text vector to their mean.  Nearness is a cosine and
images are chosen by rank, so there is no temperature: nothing depends on a teacher's logit scale
or on the number of classes.

A class with few images counts on the movement that the other classes have in common: images lie
elsewhere than texts, and a vector that stayed at its text while the others moved would lose its
images to them.

The idea is transductive zero-shot classification (TransCLIP, arXiv 2406.01837; compared with it and
others in `benchmarks/adapt.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.independent import Blocks
from ..core.zeroshot import Floats, halfway, normalized

METHOD = "best share"
SHARE = 0.3
"""Of the images of a class, the share nearest to it that is averaged: the rest may be junk."""
ROUNDS = 3
LEAST = 5
"""Images of a class that are averaged even where its best share is smaller."""
PRIOR = 5.0
"""Images that the others' movement counts for in the mean of a class: a class with the least number
of images follows its own half the way (more and fewer: benchmarks/adapt-2026-11-28.md)."""
SUPPORTED = 3
"""Images from which a class counts as present in the pool."""
HELD = 0.75
"""What has to be left of `likeness` after the last round.  Measured 2026-11-28 with one teacher
(lit-efficientnet-lite2), 10 draws each of 2 to 15 of 20 kinds: 0.81 to 0.95 where the pool holds
three or more classes of the list (0.67 to 0.89 for two), 0.39 to 0.73 where it holds none."""


@dataclass(frozen=True)
class Assignment:
    """Which class each image of a pool belongs to.

    Attributes:
        labels: int32 (N,), the nearest class vector.
        scores: float32 (N,), the cosine with it, -1 to 1.
    """

    labels: NDArray[np.int32]
    scores: Floats

    def counts(self, classes: int) -> NDArray[np.int64]:
        """Images of each class: int64 (classes,)."""
        return np.bincount(self.labels, minlength=classes).astype(np.int64)


@dataclass(frozen=True)
class ClassVectors:
    """What was learnt.

    Attributes:
        vectors: float32 (C, D) of unit length; the text vectors where `kept_text` says why.
        shift: float32 (D,), the movement from text to images that the classes have in common; zero
            where text was kept.
        assigned: the images under `vectors`.
        chosen: bool (N,), the images that were averaged in the last round.
        refused: bool (C,), the classes that no image was nearest to: they only moved with the
            others; all of them where text was kept.
        changed: share of the images whose label is another one than with text, 0 to 1.
        kept_text: why the pool was refused as a whole, as part of a sentence; empty: it was not.
    """

    vectors: Floats
    shift: Floats
    assigned: Assignment
    chosen: NDArray[np.bool_]
    refused: NDArray[np.bool_]
    changed: float
    kept_text: str = ""


def learn(text: Floats, blocks: Blocks, *, keep_text: bool = False) -> ClassVectors:
    """Learn class vectors from a pool.

    Memory is that of one block's cosines (n, C), some tens of bytes per image, and a few (C, D).
    The order of the images changes nothing but the last digits.

    Args:
        text: float32 (C, D) of unit length.
        blocks: the pool, at least one image.
        keep_text: keep the class vectors of the text.
    """
    assigned = first = assign(text, blocks)
    if keep_text:
        return _keeping(text, first, "--keep-text")
    if reason := unsupported(first.counts(len(text))):
        return _keeping(text, first, reason)
    alike = []
    for _ in range(ROUNDS):
        chosen = nearest_share(assigned, len(text))
        sums, counts = sums_of(assigned.labels, chosen, blocks, len(text))
        alike.append(likeness(text, sums, counts))
        vectors, shift = moved(text, sums, counts)
        assigned = assign(vectors, blocks)
    if alike[-1] < HELD * alike[0]:
        return _keeping(
            text, first, "the images nearest to the classes drift away from their texts"
        )
    changed = float(np.mean(assigned.labels != first.labels))
    return ClassVectors(vectors, shift, assigned, chosen, counts == 0, changed)


def _keeping(text: Floats, first: Assignment, reason: str) -> ClassVectors:
    still = np.zeros(text.shape[1], np.float32)
    nobody = np.zeros(len(first.labels), bool)
    return ClassVectors(text, still, first, nobody, np.ones(len(text), bool), 0.0, reason)


def unsupported(counts: NDArray[np.int64]) -> str:
    """Why a pool with so many images of each class (C,) cannot be used; empty: it can."""
    if len(counts) < 2:
        return "there is only one class"
    present = int((counts >= SUPPORTED).sum())
    if 2 * present < len(counts):
        return (
            f"only {present} of the {len(counts)} classes have {SUPPORTED} images or more "
            "(at least half of them should)"
        )
    return ""


def assign(vectors: Floats, blocks: Blocks) -> Assignment:
    """Give every image to its nearest class vector; ties go to the first."""
    labels, scores = [], []
    for block in blocks():
        cosines = block @ vectors.T
        nearest = cosines.argmax(axis=1)
        labels.append(nearest.astype(np.int32))
        scores.append(np.take_along_axis(cosines, nearest[:, None], axis=1)[:, 0])
    return Assignment(np.concatenate(labels), np.concatenate(scores))


def nearest_share(assigned: Assignment, classes: int) -> NDArray[np.bool_]:
    """Mark the best `SHARE` of each class, and at least `LEAST`: bool (N,).

    Images as near as the last one are marked too, so that their order does not matter.
    """
    counts = assigned.counts(classes)
    wanted = np.minimum(np.maximum(np.ceil(SHARE * counts).astype(np.int64), LEAST), counts)
    order = np.lexsort((-assigned.scores, assigned.labels))
    starts = np.cumsum(counts) - counts
    lowest = np.full(classes, np.inf, np.float32)
    there = counts > 0
    lowest[there] = assigned.scores[order[(starts + wanted - 1)[there]]]
    marked: NDArray[np.bool_] = assigned.scores >= lowest[assigned.labels]
    return marked


def sums_of(
    labels: NDArray[np.int32], chosen: NDArray[np.bool_], blocks: Blocks, classes: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Sums float32 (C, D) of the chosen images of each class, and how many they are (C,)."""
    counts = np.bincount(labels[chosen], minlength=classes).astype(np.int64)
    sums: NDArray[np.float64] | None = None
    start = 0
    for block in blocks():
        if sums is None:
            sums = np.zeros((classes, block.shape[1]))
        wanted = np.flatnonzero(chosen[start : start + len(block)])
        mine = labels[start : start + len(block)][wanted]
        order = np.argsort(mine, kind="stable")
        found, first = np.unique(mine[order], return_index=True)
        if len(found):
            rows = block[wanted[order]].astype(np.float64)
            sums[found] += np.add.reduceat(rows, first, axis=0)
        start += len(block)
    assert sums is not None
    return sums.astype(np.float32), counts


def likeness(text: Floats, sums: Floats, counts: NDArray[np.int64]) -> float:
    """How far the classes differ in their images as they do in their texts: -1 to 1.

    The mean cosine of each class's text vector with the mean of its images, both without what all
    classes have in common.  A first choice of images agrees with any text, for they were chosen so;
    in later rounds the images of classes that the pool does not hold follow one another instead.
    """
    there = counts > 0
    means = normalized(sums[there])
    texts = text[there] - text[there].mean(axis=0)
    pairs = normalized(texts) * normalized(means - means.mean(axis=0))
    return float(pairs.sum(axis=1).mean())


def moved(text: Floats, sums: Floats, counts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Class vectors (C, D) from text and the sums of their images, and the common movement (D,).

    The mean of a class is that of its images and of `PRIOR` images that lie where the common
    movement puts it; of a class without images it is that place.
    """
    there = counts > 0
    shift = (normalized(sums[there]) - text[there]).mean(axis=0)
    sums = np.where(there[:, None], sums, 0)
    means = normalized(sums + PRIOR * normalized(text + shift))
    return halfway(text, means), shift

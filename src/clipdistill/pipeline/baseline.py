"""The teacher's baseline, measured from stored embeddings, and what it means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core import metrics
from ..core.results import Table, list_some
from ..core.wording import many, percent
from ..core.zeroshot import top_k
from ..formats.embeddings import Embeddings, load_embeddings, match_rows
from ..formats.measurements import Baseline
from ..formats.text import TextEmbeddings, load_text
from ..measure.task import scores_of, share_right, true_labels

BLURRED = 0.5
"""Share of two labels' images with nearly equal probabilities above which it hardly does."""
NEARLY = 0.5
"""The second label is nearly as likely when its probability is above this share of the first's."""
LEAST_BLURRED = 10
"""The fewest such images for a warning."""
BLOCK = 8192
"""Images scored at a time."""
MOST_ROWS = 40
"""Labels in the table."""


@dataclass(frozen=True)
class _Best:
    """The two best labels of each image, int (N, 2), and their probabilities, float32 (N, 2)."""

    labels: NDArray[np.intp]
    shares: NDArray[np.float32]


def measure(
    embeddings: Path, text: Path, labelled: Path | None, labelled_embeddings: Path
) -> Baseline:
    """How well the teacher separates the classes.

    Args:
        embeddings: of the unlabelled images.
        text: the class list.
        labelled: folder of labelled images, or table of labels; None without.
        labelled_embeddings: of those.

    Raises:
        InputError: something is missing.
        FormatError: something is damaged.
    """
    classes, stored = load_text(text), load_embeddings(embeddings)
    best = _best(stored, classes)
    counts = np.bincount(best.labels[:, 0], minlength=len(classes.labels))
    accuracy, per_class, images = (
        (None, {}, 0) if labelled is None else _accuracy(labelled, labelled_embeddings, classes)
    )
    learnt = classes.adaptation if classes.adaptation and not classes.adaptation.kept_text else None
    text_accuracy = None
    if labelled is not None and learnt is not None:
        plain = replace(classes, vectors=learnt.text)
        text_accuracy, _, _ = _accuracy(labelled, labelled_embeddings, plain)
    return Baseline(
        teacher=str(stored.teacher),
        labelled=labelled is not None,
        images=len(best.labels),
        labelled_images=images,
        accuracy=accuracy,
        confidence=float(best.shares[:, 0].mean(dtype=np.float64)),
        margin=float((best.shares[:, 0] - best.shares[:, 1]).mean(dtype=np.float64)),
        counts=dict(zip(classes.labels, counts.tolist(), strict=True)),
        per_class=per_class,
        overlapping=_overlapping(classes, best),
        empty=tuple(np.array(classes.labels, dtype=object)[counts == 0].tolist()),
        text_accuracy=text_accuracy,
        changed=None if learnt is None else learnt.changed,
    )


def _best(stored: Embeddings, classes: TextEmbeddings) -> _Best:
    labels, shares = [], []
    for block in stored.mapped.blocks(BLOCK):
        scores = scores_of(block.astype(np.float32), classes)
        if scores.shape[1] == 1:  # the only label has no rival
            scores = np.concatenate([scores, np.zeros_like(scores)], axis=1)
        first = top_k(scores, 2)
        labels.append(first)
        shares.append(np.take_along_axis(scores, first, axis=1))
    return _Best(np.concatenate(labels), np.concatenate(shares))


def _accuracy(
    labelled: Path, embeddings: Path, classes: TextEmbeddings
) -> tuple[float | None, dict[str, float], int]:
    """Accuracy, accuracy of each class where an image has one, and the number of images."""
    found = true_labels(labelled, None, classes.labels)
    stored = load_embeddings(embeddings)
    keys = [item.key for item in found.items]
    rows = match_rows(stored, keys)
    read = [index for index, key in enumerate(keys) if key in rows]
    scores = scores_of(
        stored.mapped[[rows[keys[index]] for index in read]].astype(np.float32), classes
    )
    accuracy = share_right(scores, found.truths[read])
    if found.truth is None:
        return accuracy, {}, len(read)
    counts = metrics.confusion(top_k(scores, 1)[:, 0], found.truth[read], len(classes.labels))
    shares = zip(classes.labels, metrics.class_accuracy(counts), strict=True)
    known = {label: float(share) for label, share in shares if not np.isnan(share)}
    return accuracy, known, len(read)


def _overlapping(classes: TextEmbeddings, best: _Best) -> tuple[tuple[str, str, float], ...]:
    """Pairs of labels that the teacher hardly separates, by their texts or on the images."""
    count = len(classes.labels)
    near = best.shares[:, 1] > NEARLY * best.shares[:, 0]
    first, second = best.labels[near].T if count > 1 else np.zeros((2, 0), dtype=np.intp)
    codes, times = np.unique(
        np.minimum(first, second) * count + np.maximum(first, second), return_counts=True
    )
    pairs = np.stack([codes // count, codes % count], axis=1)
    mine = np.bincount(best.labels[:, 0], minlength=count)[:count]
    both = mine[pairs].sum(axis=1)
    blurred = (times >= LEAST_BLURRED) & (times > BLURRED * np.maximum(both, 1))
    return classes.overlapping(pairs[blurred])


def table(baseline: Baseline) -> Table:
    """Images and accuracy of each label, the fewest images first."""
    labels = sorted(baseline.counts, key=lambda label: baseline.counts[label])
    more = len(labels) - MOST_ROWS
    columns = ("label", ">images", *((">accuracy",) if baseline.per_class else ()))
    rows = [
        (
            label,
            str(baseline.counts[label]),
            *((percent(baseline.per_class.get(label)),) if baseline.per_class else ()),
        )
        for label in labels[:MOST_ROWS]
    ]
    title = "Labels that the teacher gives the images"
    return Table(title + (f" ({more} more labels)" if more > 0 else ""), columns, tuple(rows))


def sentence(baseline: Baseline) -> str:
    """The baseline in one line."""
    sure = (
        f"on {many(baseline.images, 'image')} its best label has a mean probability of "
        f"{percent(baseline.confidence)}, {100 * baseline.margin:.1f} points above the second"
    )
    learnt = ""
    if baseline.text_accuracy is not None:
        learnt = (
            " with class vectors learnt from the images "
            f"({percent(baseline.text_accuracy)} with those of the text)"
        )
    elif baseline.changed is not None:
        learnt = f"{percent(baseline.changed)} of the images get another label than by text alone; "
    if baseline.accuracy is None:
        return f"The teacher's baseline: {learnt}{sure}."
    return (
        f"The teacher's baseline: {percent(baseline.accuracy)} accuracy on "
        f"{baseline.labelled_images} labelled images{learnt}; {sure}."
    )


def warnings(baseline: Baseline) -> list[str]:
    """What the user should look at before hours of training; empty when all is well."""
    pairs = [f"{a} ~ {b} (cosine of the texts {near:.3f})" for a, b, near in baseline.overlapping]
    return [
        *list_some("The teacher hardly separates these labels; reword or join them:", pairs, 5),
        *list_some(
            "The teacher gives no image these labels; add images, or reword:",
            baseline.empty,
            5,
        ),
    ]

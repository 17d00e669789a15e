"""Accuracy of each class with the student, and the confused classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.metrics import class_accuracy, confusion
from .gather import Gathered, student_predictions, teacher_predictions
from .naming import model_name
from .standing import Standing


@dataclass(frozen=True)
class ClassRow:
    """One class.

    Attributes:
        label: label of the class.
        images: number of its images.
        student: share of them that the student gives this label, 0 to 1.
        teacher: share of them that the teacher gives this label; None where unknown.
        taken_for: label that the student gives most of the others; empty without others.
        mistaken: number of images with that label.
    """

    label: str
    images: int
    student: float
    teacher: float | None
    taken_for: str
    mistaken: int


@dataclass(frozen=True)
class Classes:
    """All classes.

    Attributes:
        truth: "label", or without labels "teacher": the labels that the student is compared with.
        model: title of the student.
        labels: all labels, in order.
        counts: int64 (C, C), images by true label (row) and label of the student (column).
        rows: classes with images, the weakest first.
        pairs: (true label, label of the student, count) of the errors, the most frequent first.
    """

    truth: str
    model: str
    labels: tuple[str, ...]
    counts: NDArray[np.int64]
    rows: tuple[ClassRow, ...]
    pairs: tuple[tuple[str, str, int], ...]


def classes_of(run: Gathered, shown: Standing | None) -> Classes | None:
    """Measure each class of the shown student by the labels, or else by the teacher's labels.

    Returns:
        None when the run has no measurements or predictions of it.
    """
    if shown is None:
        return None
    labelled = _by_labels(run, shown)
    return labelled if labelled is not None else _by_teacher(run, shown)


def _by_labels(run: Gathered, shown: Standing) -> Classes | None:
    if run.evaluated is None or not run.evaluated.labelled:
        return None
    rows = [(model_name(row.model, row.role, run.classifier_of), row) for row in run.evaluated.rows]
    own = [row for name, row in rows if name == shown.name and row.confusion] or [
        row for name, row in rows if name.kind == shown.name.kind and row.confusion
    ]
    if not own:
        return None
    teacher = next((row.per_class for name, row in rows if name.kind == "teacher"), {})
    counts = np.array(own[0].confusion, dtype=np.int64)
    return _classes("label", shown.name.title, run.evaluated.labels, counts, teacher)


def _by_teacher(run: Gathered, shown: Standing) -> Classes | None:
    if run.predictions is None:
        return None
    student, teacher = student_predictions(run, shown.name.kind), teacher_predictions(run)
    if student is None or teacher is None:
        return None
    both = [
        (hers[0][0], his[0][0])
        for hers, his in zip(teacher.ranked, student.ranked, strict=True)
        if hers and his
    ]
    labels = run.predictions.labels
    given = np.array(both, dtype=np.intp).reshape(-1, 2)
    counts = confusion(given[:, 1], given[:, 0], len(labels))
    return _classes("teacher", shown.name.title, labels, counts, {})


def _classes(
    truth: str,
    model: str,
    labels: tuple[str, ...],
    counts: NDArray[np.int64],
    teacher: dict[str, float | None],
) -> Classes:
    totals, shares = counts.sum(axis=1), class_accuracy(counts)
    wrong = counts - np.diag(np.diagonal(counts))
    rows = []
    for index, label in enumerate(labels):
        if totals[index]:
            other = int(wrong[index].argmax())
            taken = int(wrong[index, other])
            rows.append(
                ClassRow(
                    label,
                    int(totals[index]),
                    float(shares[index]),
                    teacher.get(label),
                    labels[other] if taken else "",
                    taken,
                )
            )
    rows.sort(key=lambda row: row.student)
    pairs = [
        (labels[i], labels[j], int(wrong[i, j])) for i, j in zip(*wrong.nonzero(), strict=True)
    ]
    pairs.sort(key=lambda pair: -pair[2])
    return Classes(truth, model, labels, counts, tuple(rows), tuple(pairs))

"""How each class fares with the student, and what is taken for what."""

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
        label: its name.
        images: that belong to it.
        student: share that the student gave it.
        teacher: likewise; None where unknown or beside the point.
        taken_for: what the others were mostly called; empty when there are none.
        mistaken: how many of them.
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
        truth: "label", or without labels "teacher": what the student is measured by.
        model: the student's title.
        labels: in order.
        counts: int64 (C, C), rows are the truth, columns the student's answers.
        rows: classes with pictures, the weakest first.
        pairs: (truth, answer, how often), the commonest mistakes first.
    """

    truth: str
    model: str
    labels: tuple[str, ...]
    counts: NDArray[np.int64]
    rows: tuple[ClassRow, ...]
    pairs: tuple[tuple[str, str, int], ...]


def classes_of(run: Gathered, shown: Standing | None) -> Classes | None:
    """Per-class figures of the shown student, by labels or else by the teacher; None: unknown."""
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
    told = np.array(both, dtype=np.intp).reshape(-1, 2)
    counts = confusion(told[:, 1], told[:, 0], len(labels))
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

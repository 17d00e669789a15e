"""Calibrating the student in `evaluate`, and storing the calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError, OptionError
from ...core.results import list_some
from ...core.wording import many, percent
from ...core.zeroshot import Calibration, normalized, top_k
from ...formats.cards import last_name
from ...formats.litert import TFLITE
from ...formats.text import TextEmbeddings, pair_of, save_text
from ...models.embedder import Embedder, carried_text
from ..task import Embedded, Reference, Task, scores_of
from .fitting import calibrate, calibrate_independent


def where_to_store(
    opened: Sequence[Embedder],
    classes: TextEmbeddings,
    text: Path | None,
    labelled: Path | None,
    reference: Reference | None,
) -> tuple[Path, ...]:
    """Choose the files in which the calibration will be stored.

    Raises:
        InputError: there is not exactly one student, nothing to fit to, or no file to store it in.
    """
    students = [embedder for embedder in opened if embedder.spec.role == "student"]
    if len(students) != 1:
        raise OptionError(
            f"--calibrate: expected one student among the models, found {len(students)}. Give one "
            "student or classifier (and its teacher, to compare with)."
        )
    if labelled is None and reference is None:
        raise OptionError(
            "--calibrate needs labels or the teacher. Add --labelled FOLDER, the teacher as "
            "another MODEL, or its --embeddings of the same images."
        )
    student = students[0]
    file = Path(student.spec.name)
    found = [] if text is None else [_described(text)]
    own = carried_text(student)
    if own is not None and own.labels == classes.labels:
        if file.suffix.lower() not in (".onnx", TFLITE):
            raise InputError(
                f"{file}: the temperature is fixed when an engine is built. Calibrate the .onnx it "
                "was built from, then build it again with: clipdistill engine"
            )
        found.append(file)
    if not found:
        raise InputError(
            f"{student.spec.name} has no labels, with which a calibration is stored. Add --text "
            "with text embeddings, or calibrate a classifier."
        )
    return tuple(found)


def calibrated(
    embedder: Embedder, embedded: Embedded, reference: Reference | None, task: Task
) -> Task:
    """Return the task with its classes calibrated for this student."""
    text = replace(task.text, calibration=None)
    if text.independent is not None:
        found = _independent(embedder, embedded, reference, task, text)
        return replace(task, text=replace(text, calibration=found))
    cosines = normalized(embedded.vectors) @ text.vectors.T
    if task.truths is not None and task.truth is None:
        raise OptionError(
            "--calibrate: the images have several labels or none, and these text embeddings give "
            "each image one. Fit them to a pool first: clipdistill adapt TEXT EMBEDDINGS TEXT "
            "--independent"
        )
    if task.truth is not None:
        right = task.truth[embedded.rows]
        target = np.eye(len(text.labels), dtype=np.float32)[right]
    else:
        cosines, target = _of_reference(cosines, embedded, reference, text)
        right = top_k(target, 1)[:, 0]
    found = calibrate(
        cosines,
        target,
        right,
        text.teacher.logits,
        method="teacher" if task.truth is None else "labels",
        model=last_name(embedder.spec.name),
    )
    return replace(task, text=replace(text, calibration=found))


def _of_reference(
    cosines: NDArray[np.float32],
    embedded: Embedded,
    reference: Reference | None,
    text: TextEmbeddings,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines of the images that both models embedded, and the reference's probabilities."""
    assert reference is not None
    _, mine, theirs = np.intersect1d(embedded.rows, reference.embedded.rows, return_indices=True)
    return cosines[mine], scores_of(reference.embedded.vectors[theirs], text)


def _independent(
    embedder: Embedder,
    embedded: Embedded,
    reference: Reference | None,
    task: Task,
    text: TextEmbeddings,
) -> Calibration:
    """Calibrate the probability of each class on its own."""
    assert text.independent is not None
    cosines = normalized(embedded.vectors) @ text.vectors.T
    if task.truths is not None:
        target = task.truths[embedded.rows].astype(np.float32)
    else:
        cosines, target = _of_reference(cosines, embedded, reference, text)
    return calibrate_independent(
        text,
        cosines,
        target,
        method="teacher" if task.truths is None else "labels",
        model=last_name(embedder.spec.name),
        source=last_name(str(task.items[0].path.parent)),
    )


def store(files: Sequence[Path], text: TextEmbeddings) -> None:
    """Store classes with their calibration in text embeddings (.npy) and classifiers."""
    for file in files:
        if file.suffix == ".npy":
            save_text(file, text)
        elif file.suffix.lower() == TFLITE:
            from ...deploy.litert import change_litert_classes

            change_litert_classes(file, text, file)
        else:
            from ...deploy.graph import change_classes

            change_classes(file, text, file)


def describe_calibration(found: Calibration, files: Sequence[Path]) -> list[str]:
    """Describe the fitted calibration and its files in sentences."""
    to = "true labels" if found.method == "labels" else "the teacher's probabilities"
    if found.independent is not None:
        return [
            f"Probability of each class calibrated on {many(found.images, 'image')} against {to}; "
            f"expected calibration error {percent(found.ece_before)} before, "
            f"{percent(found.ece_after)} after.",
            f'{percent(1 - found.coverage)} of these images get no label and are "unknown".',
            *list_some(
                "Too few images showed these labels; their threshold is cautious:",
                found.independent.unmatched,
            ),
            f"Stored in: {', '.join(map(str, files))}",
        ]
    bias = "" if found.logits.bias is None else f", bias {found.logits.bias:.2f}"
    return [
        f"Calibrated on {many(found.images, 'image')} against {to}: scale "
        f"{found.logits.scale:.1f}{bias}; "
        f"expected calibration error {percent(found.ece_before)} before, "
        f"{percent(found.ece_after)} after.",
        f'Below a probability of {found.threshold:.3f} the answer is "unknown": '
        f"{percent(1 - found.coverage)} of these images.",
        f"Stored in: {', '.join(map(str, files))}",
    ]


def _described(text: Path) -> Path:
    """Return the `.npy` of text embeddings with a .json, in which a calibration can be stored.

    Raises:
        InputError: it is a bare `.npy` of the older scripts.
    """
    array, card = pair_of(text)
    if not card.is_file():
        raise InputError(
            f"{text}: expected a .json beside it to store the calibration in, found none. Make the "
            "text embeddings with: clipdistill embed-text"
        )
    return array

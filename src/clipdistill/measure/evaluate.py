"""evaluate: accuracy and agreement of models, with or without labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core import metrics
from ..core.errors import MismatchError, OptionError
from ..core.locks import locked_files
from ..core.model_names import short_names
from ..core.results import Result, Table, list_some, scalars
from ..core.signatures import NameOrPath
from ..core.wording import many, percent, shown_labels
from ..core.zeroshot import Independent, top_k
from ..formats.embeddings import load_embeddings, match_rows
from ..formats.label_table import is_label_table
from ..formats.measurements import Evaluation, ModelEvaluation
from ..formats.predictions import (
    MOST_RANKED,
    ModelPredictions,
    Picture,
    Predictions,
    save_predictions,
)
from ..formats.text import TextEmbeddings
from ..images.loading import default_workers, load_one, stack
from ..images.sources import list_images
from ..models.embedder import Embedder, carried_text
from ..models.open import open_embedder
from ..models.recognizer import logits_for
from .calibration import calibrated, describe_calibration, store, where_to_store
from .several import several_labels, several_tables
from .task import (
    Embedded,
    Reference,
    Task,
    against,
    choose_text,
    embed,
    latency_ms,
    scores_of,
    share_right,
    true_labels,
)

TABLE_MODELS, TABLE_CLASSES = 4, 40
"""Size of the largest per-class table in a summary; the JSON always has everything."""


@dataclass(frozen=True, repr=False)
class EvaluateResult(Result, Evaluation):
    """Result of `evaluate`, with the attributes of `Evaluation`."""

    def records(self) -> list[dict[str, Any]]:
        """See `Result.records`: a row per model."""
        return [scalars(row) for row in self.rows]

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        lines: list[str | Table] = [_models_table(self)]
        if self.reference is not None:
            lines.append(f"Agreement and cosine compare with {self.reference}.")
        lines += several_tables(self.rows, TABLE_CLASSES)
        if self.labelled and len(self.rows) <= TABLE_MODELS:
            lines += _class_table(self.rows)
        elif not self.labelled:
            lines.append(_counts_table(self.rows))
        if self.calibration is not None:
            lines += describe_calibration(self.calibration, self.calibrated)
        lines += list_some("Class folders without images:", self.empty_folders)
        lines += list_some("Not used:", [f"{f.image_path}: {f.reason}" for f in self.failures])
        return lines


def evaluate(
    *models: NameOrPath,
    labelled: Path | None = None,
    images: Path | None = None,
    embeddings: Path | None = None,
    text: Path | None = None,
    calibrate: bool = False,
    predictions: Path | None = None,
    batch_size: int = 64,
    num_workers: int | None = None,
    device: str = "auto",
    arch: str | None = None,
    image_size: int | None = None,
) -> EvaluateResult:
    """Measure teachers, students, ONNX files and engines on the same images.

    With --labelled it measures zero-shot top-1 and top-5 accuracy, the accuracy of each class, and
    the confusion matrix.  With --images there are no labels, and it counts the images of each
    label.  Agreement (share of images with the same best label) and cosine compare with the
    teacher: with its stored --embeddings, or with a teacher among MODELS.

    An image may have several labels or none: --labelled then is a table (.csv, .tsv: the columns
    image_path and labels, separated by ";"; .jsonl: lists), whose images are beside it or in
    --images.  The result has precision, recall, F1 and average precision of each label, and so it
    has for independent classes (see `adapt`).

    With --calibrate it fits the temperature of the student among MODELS to the labels, or without
    labels to the teacher's probabilities.  It also fits the threshold below which the answer is
    "unknown", so that 95% of the correct answers stay above it.  Of independent classes it fits
    the probability of each, and with labels also the threshold of each, for the best F1.  Both are
    stored in --text, and in the student's file when that is an .onnx classifier; predict and demo
    use them.

    Latency is the median time of one embedding at batch size 1, from resized pixels, without
    decoding.

    Args:
        models: .onnx, .tflite or .engine files, students' folders or checkpoints (.pth), teachers
            (NAME/PRETRAINED, hf-hub:ORG/REPO, local-dir:FOLDER); "openvino:FILE.onnx" runs a file
            in OpenVINO.
        labelled: folder with one folder of images per class, each named like its label, or a table
            of labels (.csv, .tsv, .jsonl).
        images: folder of images without labels, or of the images of a table.
        embeddings: the teacher's embeddings of the same folder, from `clipdistill embed`.
        text: text embeddings from `clipdistill embed-text`; not needed when a MODEL contains its
            own.
        calibrate: fit and store the temperature and the "unknown" threshold of the one student
            among MODELS.
        predictions: .json file to write the predictions of all models to, for a report.
        batch_size: images per batch, 1 or more.
        num_workers: threads that decode images; one per processor unless given.
        device: auto, cpu, cuda, cuda:1 ...; tensorrt selects TensorRT in ONNX Runtime.
        arch: timm's model name, only for checkpoints of the older scripts, which do not contain it.
        image_size: side of the input in pixels, only for checkpoints of the older scripts, which do
            not contain it.

    Raises:
        InputError: there is nothing to measure, a class folder is no label, or there is nothing to
            calibrate.
        MismatchError: models, text and embeddings are of different teachers.
        OutputError: predictions or the calibration cannot be written, or another process is writing
            them.
    """
    _check_arguments(models, labelled, images, batch_size)
    labelled = None if labelled is None else Path(labelled)
    text = None if text is None else Path(text)
    predictions = None if predictions is None else Path(predictions)
    opened = [
        open_embedder(model, arch=arch, image_size=image_size, device=device) for model in models
    ]
    classes = choose_text([(one.spec, carried_text(one)) for one in opened], text)
    workers = default_workers() if num_workers is None else num_workers
    task, empty = _task(labelled, images, classes, batch_size, workers)
    done: dict[int, Embedded] = {}
    reference = _find_reference(opened, embeddings, task, done)
    files = where_to_store(opened, classes, text, labelled, reference) if calibrate else ()
    with locked_files("evaluate", predictions, *files):
        rows, predicted, failures = [], [], {}
        for index, embedder in enumerate(opened):
            embedded = done.pop(index) if index in done else embed(embedder, task)
            failures.update({failure.image_path: failure for failure in embedded.failures})
            if calibrate and embedder.spec.role == "student":
                task = calibrated(embedder, embedded, reference, task)
            rows.append(_measure(embedder, embedded, reference, task))
            if predictions is not None:
                predicted.append(_predictions_of(embedder, embedded, reference, task))
        if calibrate:
            store(files, task.text)
        if predictions is not None:
            save_predictions(
                predictions, Predictions(classes.labels, _pictures(task), tuple(predicted))
            )
    return EvaluateResult(
        tuple(rows),
        None if reference is None else reference.name,
        labelled is not None,
        len(task.items),
        empty,
        tuple(failures.values()),
        task.text.calibration if calibrate else None,
        files,
    )


def _task(
    labelled: Path | None,
    images: Path | None,
    classes: TextEmbeddings,
    batch_size: int,
    workers: int,
) -> tuple[Task, tuple[str, ...]]:
    """Return what is to be measured on, and the class folders without images."""
    if labelled is not None:
        found = true_labels(labelled, images, classes.labels)
        task = Task(found.items, found.truth, classes, batch_size, workers, found.truths)
        return task, found.empty
    assert images is not None
    return Task(list_images(images), None, classes, batch_size, workers), ()


def _check_arguments(
    models: Sequence[str], labelled: Path | None, images: Path | None, batch_size: int
) -> None:
    if not models:
        raise OptionError("No models given. Run: clipdistill evaluate MODEL ... --labelled FOLDER")
    if labelled is not None and images is not None and not is_label_table(Path(labelled)):
        raise OptionError(
            "--labelled FOLDER and --images exclude each other. Give one of them. (Of a table, "
            "--images gives the folder of its images.)"
        )
    if labelled is None and images is None:
        raise OptionError(
            "No images given. Add --labelled FOLDER (one folder per class) or --images FOLDER."
        )
    if batch_size < 1:
        raise OptionError(f"--batch-size {batch_size}: expected 1 or more.")


def _find_reference(
    opened: Sequence[Embedder], embeddings: Path | None, task: Task, done: dict[int, Embedded]
) -> Reference | None:
    """Return the stored embeddings, or else those of the first teacher (also put into `done`)."""
    if embeddings is not None:
        stored = load_embeddings(embeddings)
        for embedder in opened:
            embedder.spec.check_space(stored.teacher, embeddings)
        stored.teacher.check_same(task.text.teacher, embeddings, "the text embeddings")
        found = match_rows(stored, [item.key for item in task.items])
        if not found:
            raise MismatchError(
                f"{embeddings}: expected embeddings of the {many(len(task.items), 'image')}, "
                "found none of "
                f"them (such as {task.items[0].key}). Embed the same folder with: clipdistill embed"
            )
        rows = [index for index, item in enumerate(task.items) if item.key in found]
        vectors = stored.mapped[[found[task.items[index].key] for index in rows]]
        embedded = Embedded(np.array(rows, dtype=np.intp), vectors.astype(np.float32))
        return Reference(f"the embeddings in {embeddings}", embedded)
    for index, embedder in enumerate(opened):
        if embedder.spec.role == "teacher":
            done[index] = embed(embedder, task)
            return Reference(embedder.spec.name, done[index])
    return None


def _measure(
    embedder: Embedder, embedded: Embedded, reference: Reference | None, task: Task
) -> ModelEvaluation:
    labels = task.text.labels
    logits = logits_for(embedder, task.text)
    scores = scores_of(embedded.vectors, task.text, logits)
    predicted = top_k(scores, 1)[:, 0]
    truth = None if task.truth is None else task.truth[embedded.rows]
    truths = None if task.truths is None else task.truths[embedded.rows]
    best = predicted[:, None] == np.arange(len(labels))
    least = np.array(logits.thresholds) if isinstance(logits, Independent) else None
    # Of classes of which an image has one, the best label is given where it reaches the threshold.
    own = task.text.threshold if embedder.spec.role == "student" else 0.0
    has = best & (scores >= own) if least is None else scores >= least
    several = None
    if truths is not None and (least is not None or truth is None):
        several = several_labels(scores, has, truths, labels, least)
    counts = None if truth is None else metrics.confusion(predicted, truth, len(labels))
    agreement, cosine = against(embedded, scores, reference, task.text)
    sample = load_one(task.items[embedded.rows[0]], embedder.spec.preprocess)
    given = (best if least is None else has).sum(axis=0).tolist()
    return ModelEvaluation(
        model=embedder.spec.name,
        runtime=embedder.spec.runtime,
        role=embedder.spec.role,
        accuracy=None if truths is None else share_right(scores, truths),
        top5=None if truths is None else share_right(scores, truths, 5),
        agreement=agreement,
        cosine=cosine,
        confidence=float(scores.max(axis=1).mean(dtype=np.float64)),
        size_mb=embedder.spec.size_bytes / 1e6,
        latency_ms=latency_ms(embedder, stack([sample])),
        images=len(scores),
        per_class={} if counts is None else _per_class(counts, labels),
        counts=dict(zip(labels, given, strict=True)),
        confusion=[] if counts is None else counts.tolist(),
        labels=list(labels),
        several=several,
    )


def _pictures(task: Task) -> tuple[Picture, ...]:
    truth = [None] * len(task.items) if task.truth is None else task.truth.tolist()
    truths: list[tuple[int, ...] | None] = [None] * len(task.items)
    if task.truths is not None and task.truth is None:
        truths = [tuple(np.flatnonzero(row).tolist()) for row in task.truths]
    return tuple(
        Picture(str(item.path.resolve()), item.key, one, several)
        for item, one, several in zip(task.items, truth, truths, strict=True)
    )


def _predictions_of(
    embedder: Embedder, embedded: Embedded, reference: Reference | None, task: Task
) -> ModelPredictions:
    scores = scores_of(embedded.vectors, task.text, logits_for(embedder, task.text))
    ranked: list[tuple[tuple[int, float], ...] | None] = [None] * len(task.items)
    for row, best, shares in zip(embedded.rows, top_k(scores, MOST_RANKED), scores, strict=True):
        ranked[row] = tuple((int(index), float(shares[index])) for index in best)
    cosine: list[float | None] = [None] * len(task.items)
    if reference is not None:
        rows, mine, theirs = np.intersect1d(
            embedded.rows, reference.embedded.rows, return_indices=True
        )
        values = metrics.cosines(embedded.vectors[mine], reference.embedded.vectors[theirs])
        for row, value in zip(rows, values, strict=True):
            cosine[row] = float(value)
    spec = embedder.spec
    return ModelPredictions(spec.name, spec.runtime, spec.role, tuple(ranked), tuple(cosine))


def _per_class(counts: NDArray[np.int64], labels: Sequence[str]) -> dict[str, float | None]:
    shares = metrics.class_accuracy(counts).tolist()
    return {
        label: None if math.isnan(share) else share
        for label, share in zip(labels, shares, strict=True)
    }


def _models_table(result: EvaluateResult) -> Table:
    first = (">accuracy", ">top-5") if result.labelled else (">confidence",)
    if any(row.several for row in result.rows):
        first = (*first, ">mAP", ">F1")
    columns = ("model", "runtime", *first, ">agreement", ">cosine", ">MB", ">ms", ">images")
    rows = []
    for name, row in zip(_short_names(result.rows), result.rows, strict=True):
        shares = (row.accuracy, row.top5) if result.labelled else (row.confidence,)
        if len(first) > len(shares):
            found = row.several
            shares = (
                *shares,
                None if found is None else found.mean_average_precision,
                None if found is None else found.f1,
            )
        cosine = "-" if row.cosine is None else f"{row.cosine:.4f}"
        rows.append(
            (
                name,
                row.runtime,
                *map(percent, shares),
                percent(row.agreement),
                cosine,
                f"{row.size_mb:.1f}",
                f"{row.latency_ms:.2f}",
                str(row.images),
            )
        )
    counts = f"{many(len(result.labels), 'label')}, {many(result.images, 'image')}"
    title = f"{counts}; ms: one embedding at batch size 1, roughly (`benchmark` is more exact)"
    return Table(title, columns, tuple(rows))


def _class_table(rows: Sequence[ModelEvaluation]) -> list[Table]:
    labels = [label for label in rows[0].labels if rows[0].per_class.get(label) is not None]
    if any(row.several for row in rows):  # they have a table of their own
        return []
    if not 0 < len(labels) <= TABLE_CLASSES:
        return []
    labels.sort(key=lambda label: rows[0].per_class[label] or 0.0)
    shown = shown_labels(rows[0].labels)
    lines = tuple(
        (
            shown[label],
            str(sum(rows[0].confusion[rows[0].labels.index(label)])),
            *(percent(row.per_class[label]) for row in rows),
            _mistaken(rows[0], label, shown),
        )
        for label in labels
    )
    names = (f">{name}" for name in _short_names(rows))
    columns = ("label", ">images", *names, "most often confused with")
    return [Table("Accuracy of each class, the lowest first", columns, lines)]


def _mistaken(row: ModelEvaluation, label: str, shown: Mapping[str, str]) -> str:
    """Return the wrong label that the images of a class are given most often, and its count."""
    index = row.labels.index(label)
    wrong = [(count, other) for other, count in enumerate(row.confusion[index]) if other != index]
    count, other = max(wrong, key=lambda pair: pair[0], default=(0, 0))
    return f"{shown[row.labels[other]]} ({count})" if count else ""


def _counts_table(rows: Sequence[ModelEvaluation]) -> Table:
    labels = sorted(rows[0].labels, key=lambda label: -rows[0].counts[label])[:TABLE_CLASSES]
    shown = shown_labels(rows[0].labels)
    lines = tuple((shown[label], *(str(row.counts[label]) for row in rows)) for label in labels)
    names = (f">{name}" for name in _short_names(rows))
    return Table("Images given to each label", ("label", *names), lines)


def _short_names(rows: Sequence[ModelEvaluation]) -> list[str]:
    return short_names([row.model for row in rows], [row.runtime for row in rows])

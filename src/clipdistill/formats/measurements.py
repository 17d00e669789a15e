"""Measurements: `evaluation.json`, `benchmark.json` and `baseline.json` in a run's folder.

Each is the JSON of one dataclass below, with `format` and `version` first.  `evaluate --json` and
`benchmark --json` print the same JSON, except that `evaluation.json` has `confusion_entries` in
place of `confusion`: with 1,000 classes, a list of [true class, predicted class, count] has a
hundredth of the matrix's size.  Both are read, and so are files without `format`, which older
versions wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from ..core.errors import FormatError
from ..core.files import check_format, read_json, write_json
from ..core.results import Versioned, from_json, to_json
from ..core.two_four import is_sparse
from ..core.zeroshot import Calibration
from .embeddings import Failure
from .run import present

AGAIN = "Delete it and run the same `clipdistill run` command again."


@dataclass(frozen=True)
class LabelScores:
    """How one label is given, where an image may have several.

    Measures of nothing are None: precision of a label that was never given, the others of a label
    that no image has.

    Attributes:
        images: number of images that have it.
        given: number of images that it was given.
        threshold: probability from which it is given; None where only the best label is.
        precision: share of the images that it was given that have it, 0 to 1.
        recall: share of the images that have it that it was given, 0 to 1.
        f1: harmonic mean of both, 0 to 1.
        average_precision: area under precision over recall of all thresholds, 0 to 1.
    """

    images: int
    given: int
    threshold: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None


@dataclass(frozen=True)
class SeveralLabels:
    """Result of `evaluate` where an image may have several labels or none.

    Attributes:
        mean_average_precision: mean over the labels that an image has, 0 to 1.
        precision: mean over the labels that were given, 0 to 1.
        recall: mean over the labels that an image has, 0 to 1.
        f1: mean over the same, 0 to 1.
        exact: share of the images that were given exactly their labels, 0 to 1.
        none: share of the images without a label that were given none, 0 to 1; None: there are no
            such images.
        per_label: label -> its scores.
    """

    mean_average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    exact: float
    none: float | None
    per_label: dict[str, LabelScores]


@dataclass(frozen=True)
class ModelEvaluation:
    """Result of `evaluate` for one model.

    Measures that do not apply are None: accuracies without labels, agreement and cosine without a
    reference.

    Attributes:
        model: name of the model.
        runtime: "torch", "onnxruntime", "openvino" or "tensorrt".
        role: "teacher" or "student".
        accuracy: zero-shot top-1 accuracy, 0 to 1; where an image may have several labels, the
            share of the images with labels whose best one is among them.
        top5: zero-shot top-5 accuracy, 0 to 1; likewise one of the best five.
        agreement: share of images whose best label is the reference's, 0 to 1.
        cosine: mean cosine with the reference's embeddings.
        confidence: mean probability of the best label.
        size_mb: size of the weights in 10^6 bytes.
        latency_ms: median milliseconds of 20 embeddings of one image at batch size 1, from resized
            pixels, without decoding and without the choice of a label.
        images: number of images that were measured.
        per_class: label -> accuracy; None for classes without images.
        counts: label -> number of images with this best label, or of independent classes, that
            were given it.
        confusion: images by true class (row) and predicted class (column), in label order; empty
            without labels, and where an image may have several.
        labels: all labels, in order.
        several: scores of the labels, where an image may have several; else None.

    Raises:
        ValueError: the confusion is not a square over the labels.
    """

    model: str
    runtime: str
    role: str
    accuracy: float | None
    top5: float | None
    agreement: float | None
    cosine: float | None
    confidence: float
    size_mb: float
    latency_ms: float
    images: int
    per_class: dict[str, float | None]
    counts: dict[str, int]
    confusion: list[list[int]]
    labels: list[str]
    several: SeveralLabels | None = None

    def __post_init__(self) -> None:
        sides = {len(self.confusion), *map(len, self.confusion)}
        if self.confusion and sides != {len(self.labels)}:
            raise ValueError(f"confusion of {self.model}: {sides} for {len(self.labels)} labels")


@dataclass(frozen=True)
class Evaluation(Versioned):
    """Result of `evaluate`.

    Attributes:
        rows: one per model, in the order given; at least one.
        reference: the teacher that agreement and cosine compare with; None without one.
        labelled: whether the images had labels.
        images: number of images that were found.
        empty_folders: class folders without images.
        failures: images that could not be used, each with its reason.
        calibration: the fitted calibration; None without --calibrate.
        calibrated: files in which the calibration was stored.

    Raises:
        ValueError: there are no rows.
    """

    FORMAT: ClassVar[str] = "clipdistill.evaluation"
    VERSION: ClassVar[int] = 1

    rows: tuple[ModelEvaluation, ...]
    reference: str | None
    labelled: bool
    images: int
    empty_folders: tuple[str, ...]
    failures: tuple[Failure, ...]
    calibration: Calibration | None = None
    calibrated: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("no model was evaluated")

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in order."""
        return tuple(self.rows[0].labels)


@dataclass(frozen=True)
class BenchmarkRow:
    """Result of `benchmark` for one model in one runtime.

    Measures that do not apply, or that were not reached, are None.

    Attributes:
        model: model as it was given, without a runtime.
        runtime: runtime that it ran in.
        device: device that it ran on.
        role: "teacher" or "student".
        arch: name of the network.
        precision: "fp32", "fp16", "int8" ...
        sparse: share of its weights that are 2:4, 0 to 1.
        size_mb: size of its weights in 10^6 bytes.
        latency_ms: median milliseconds of one image, from preprocessed pixels.
        latency_p90_ms: 90th percentile of the same, in milliseconds.
        throughput: batch size -> images per second.
        peak_mb: largest resident set of its process in 10^6 bytes, with runtime and Python, before
            it embedded the folders; memory of a GPU is not included.
        preprocess_ms: milliseconds to read, decode, resize, crop and normalise one image on one
            thread.
        accuracy: zero-shot top-1 accuracy, 0 to 1, as in `ModelEvaluation`.
        agreement: share of images whose best label is the reference's, 0 to 1.
        cosine: mean cosine with the reference's embeddings.
        images: number of images on which agreement and cosine were measured.
        round_ms: median milliseconds of one image, one value per round.
        reason: why it was not measured completely; empty when it was.
    """

    model: str
    runtime: str
    device: str = ""
    role: str = ""
    arch: str = ""
    precision: str = ""
    sparse: float | None = None
    size_mb: float | None = None
    latency_ms: float | None = None
    latency_p90_ms: float | None = None
    throughput: dict[str, float] = field(default_factory=dict)
    peak_mb: float | None = None
    preprocess_ms: float | None = None
    accuracy: float | None = None
    agreement: float | None = None
    cosine: float | None = None
    images: int = 0
    round_ms: tuple[float, ...] = ()
    reason: str = ""

    @property
    def kind(self) -> str:
        """Precision and sparsity, such as "int8 2:4"; empty when unknown."""
        return f"{self.precision} {'2:4' if is_sparse(self.sparse) else ''}".strip()


@dataclass(frozen=True)
class Benchmark(Versioned):
    """Result of `benchmark`.

    Attributes:
        rows: one per model and runtime.
        reference: the model that agreement and cosine compare with.
        conclusions: sentences about what is slower than FP32, and about the effect of sparsity.
        images: number of images on which agreement and cosine were measured.
        labelled: number of images on which accuracy was measured.
        batches: batch sizes.
        rounds: number of rounds in which every model was timed.
        threads: threads that each model could use; None: the runtime's own number.
        machine: description of the machine, in one line.
        failures: images that could not be used, each with its reason.
        out: markdown file, if one was written.
        plot: chart, if one was drawn.
    """

    FORMAT: ClassVar[str] = "clipdistill.benchmark"
    VERSION: ClassVar[int] = 1

    rows: tuple[BenchmarkRow, ...]
    reference: str
    conclusions: tuple[str, ...]
    images: int
    labelled: int
    batches: tuple[int, ...]
    rounds: int
    threads: int | None
    machine: str
    failures: tuple[Failure, ...]
    out: Path | None = None
    plot: Path | None = None


@dataclass(frozen=True)
class Baseline(Versioned):
    """The teacher's own zero-shot result; a student can hardly be better.

    Confidence, margin and counts are measured on the unlabelled images, accuracy on the labelled.

    Attributes:
        teacher: name of the teacher.
        labelled: whether there were labelled images.
        images: number of unlabelled images.
        labelled_images: number of labelled images.
        accuracy: zero-shot top-1 accuracy, 0 to 1, as in `ModelEvaluation`; None without labels.
        text_accuracy: accuracy with the class vectors of the text, where `adapt` changed them.
        changed: share of the unlabelled images whose label `adapt` changed, 0 to 1.
        confidence: mean probability of the best label.
        margin: mean difference of the probabilities of the two best labels.
        counts: label -> number of images with this best label.
        per_class: label -> accuracy, of the classes that have labelled images; empty where an
            image may have several labels.
        overlapping: (label, label, cosine of their text embeddings), the nearest first.
        empty: labels that are the best label of no image.
    """

    FORMAT: ClassVar[str] = "clipdistill.baseline"
    VERSION: ClassVar[int] = 1

    teacher: str
    labelled: bool
    images: int
    labelled_images: int
    accuracy: float | None
    confidence: float
    margin: float
    counts: dict[str, int]
    per_class: dict[str, float]
    overlapping: tuple[tuple[str, str, float], ...]
    empty: tuple[str, ...]
    text_accuracy: float | None = None
    changed: float | None = None


NAMES = {
    Evaluation.FORMAT: "the result of evaluate",
    Benchmark.FORMAT: "the result of benchmark",
    Baseline.FORMAT: "the teacher's baseline",
}
"""Format -> its name in messages."""
FORMER = {Baseline.FORMAT: "clipdistill.ceiling"}
"""Format -> its name before version 0.1.0."""

Kind = TypeVar("Kind", bound=Versioned)


def save_measurement(path: Path, value: Versioned) -> None:
    """Write a measurement atomically."""
    card = to_json(value)
    if isinstance(value, Evaluation):
        for row in card["rows"]:
            row["confusion_entries"] = _entries(row.pop("confusion"))
    write_json(path, card)


def load_measurement(path: Path, kind: type[Kind]) -> Kind:
    """Read what `save_measurement` wrote, or what a verb printed with --json.

    Args:
        path: the file.
        kind: `Evaluation`, `Benchmark`, `Baseline`, or the result of a verb that extends it.

    Raises:
        InputError: there is no such file.
        FormatError: it cannot be read, or is of a newer version.
    """
    what = NAMES[kind.FORMAT]
    try:
        value = read_json(path, what)
    except FormatError as error:
        raise FormatError(f"{error} {AGAIN}") from error
    if "format" in value:  # version 0 had none
        check_format(path, value, kind.FORMAT, kind.VERSION, former=FORMER.get(kind.FORMAT, ""))
    if "verdicts" in value:  # version 0
        value.setdefault("conclusions", value["verdicts"])
    try:
        if issubclass(kind, Evaluation):
            _fill_matrices(value)
        return from_json(kind, value)
    except ValueError as error:
        raise FormatError(f"{path}: {what} cannot be read: {error}. {AGAIN}") from error


def find_measurement(path: Path, kind: type[Kind]) -> Kind | None:
    """Read a measurement, also under the former name of its file; None where there is none.

    Raises:
        FormatError: it cannot be read, or is of a newer version.
    """
    path = present(path)
    return load_measurement(path, kind) if path.is_file() else None


def _entries(confusion: list[list[int]]) -> list[list[int]]:
    """Return [true class, predicted class, count] of each count that is not 0."""
    return [
        [true, predicted, count]
        for true, counts in enumerate(confusion)
        for predicted, count in enumerate(counts)
        if count
    ]


def _fill_matrices(value: dict[str, Any]) -> None:
    """Replace the entries by the matrix, in every row that has entries.

    Raises:
        ValueError: the entries do not fit the labels.
    """
    rows = value.get("rows")
    for row in rows if isinstance(rows, list) else ():
        if not isinstance(row, dict) or "confusion_entries" not in row:
            continue
        entries, labels = row["confusion_entries"], row.get("labels")
        size = len(labels) if isinstance(labels, list) else 0
        row["confusion"] = _matrix(entries, size) if entries != [] else []


def _matrix(entries: Any, size: int) -> list[list[int]]:
    wrong = ValueError(
        f"confusion_entries: expected a list of [true, predicted, count] with classes below {size}"
    )
    try:
        found = np.array(entries)
    except ValueError as error:
        raise wrong from error
    if found.ndim != 2 or found.shape[1] != 3 or found.dtype.kind != "i":
        raise wrong
    true, predicted, count = found.T
    if found.min() < 0 or max(true.max(), predicted.max()) >= size:
        raise wrong
    matrix = np.zeros((size, size), dtype=np.int64)
    matrix[true, predicted] = count
    rows: list[list[int]] = matrix.tolist()
    return rows

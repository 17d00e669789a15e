"""Reads a run's folder for its report into frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.files import TEMPORARY_PREFIX
from ...formats.cards import Compression, StudentCard, TeacherCard
from ...formats.classifier import OnnxCard
from ...formats.measurements import Baseline, Benchmark, Evaluation, find_measurement
from ...formats.onnx_wire import read_onnx
from ...formats.predictions import ModelPredictions, Predictions, load_predictions
from ...formats.run import EXPORTS, STUDENTS, RunFolder, RunRecord, load_run, present
from ...formats.student import is_student, load_card, read_metrics
from ...formats.text import TextEmbeddings, load_text
from .data import Data, load_data
from .labels import Labelled
from .naming import model_name


@dataclass(frozen=True)
class Student:
    """A student of the run.

    Attributes:
        name: one of `formats.run.STUDENTS`.
        card: card of the student.
        metrics: one row per epoch, see `formats.student`; empty where that file is missing.
    """

    name: str
    card: StudentCard
    metrics: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Made:
    """A file or folder that the run made.

    Attributes:
        name: name below the run's folder.
        files: number of files; 1 for a file.
        size: size of all files in bytes.
    """

    name: str
    files: int
    size: int


@dataclass(frozen=True)
class Gathered:
    """A run.

    Attributes:
        folder: paths of the run.
        record: record of how it was made.
        classifier_of: name of the student in `classifier.onnx`; empty without that file.
        text: the classes; None where they are missing.
        students: finished students, in order.
        evaluated: result of `evaluate`; None where it is missing.
        raced: result of `benchmark`; None where it is missing.
        baseline: baseline of the teacher; None where it is missing.
        predictions: predictions for each image; None where they are missing.
        data: sources of the images.
        made: files and folders of the run.
    """

    folder: RunFolder
    record: RunRecord
    classifier_of: str
    text: TextEmbeddings | None
    students: tuple[Student, ...]
    evaluated: Evaluation | None
    raced: Benchmark | None
    baseline: Baseline | None
    predictions: Predictions | None
    data: Data
    made: tuple[Made, ...]

    @property
    def teacher(self) -> TeacherCard | None:
        """The teacher of the run; None where it is unknown."""
        if self.text is not None:
            return self.text.teacher
        return self.students[0].card.teacher if self.students else None

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in order."""
        if self.text is not None:
            return self.text.labels
        return () if self.evaluated is None else self.evaluated.labels

    @property
    def labelled(self) -> bool:
        """Whether accuracy was measured."""
        return self.evaluated is not None and self.evaluated.labelled


def gather(run: Path) -> Gathered:
    """Read a run's folder; only `run.json` is required.  Labels are as they are displayed.

    Raises:
        InputError: there is no run.
        FormatError: a file is damaged.
        MissingExtraError: pyarrow is not installed, and there is a ledger of a download.
    """
    folder = RunFolder(run)
    record = load_run(folder)
    predictions = present(folder.predictions)
    named = Labelled(
        load_text(folder.text) if folder.text.is_file() else None,
        find_measurement(folder.evaluation, Evaluation),
        find_measurement(folder.baseline, Baseline),
        load_predictions(predictions) if predictions.is_file() else None,
    ).shown()
    return Gathered(
        folder=folder,
        record=record,
        classifier_of=_classifier_of(folder),
        text=named.text,
        students=_students(folder),
        evaluated=named.evaluated,
        raced=find_measurement(folder.benchmark, Benchmark),
        baseline=named.baseline,
        predictions=named.predictions,
        data=load_data(folder, images_folder(folder, record)),
        made=_made(folder),
    )


def images_folder(folder: RunFolder, record: RunRecord) -> Path:
    """Return the folder of the images: the downloaded ones, or the folder that was given."""
    given = record.settings.get("images")
    return Path(str(given)) if given and not folder.images.is_dir() else folder.images


def _students(folder: RunFolder) -> tuple[Student, ...]:
    found = []
    for name in STUDENTS:
        path = folder.student(name)
        if is_student(path):
            found.append(Student(name, load_card(path), read_metrics(path)))
    return tuple(found)


def _classifier_of(folder: RunFolder) -> str:
    """Name of the student in `classifier.onnx`, by its card; empty without that file."""
    if not folder.classifier.is_file():
        return ""
    card = OnnxCard.from_metadata(folder.classifier, read_onnx(folder.classifier).metadata)
    done = card.compression or Compression()
    parts = [name for name, how in (("sparse", done.sparse), ("int8", done.int8)) if how]
    return "-".join(parts) or "dense"


def _made(folder: RunFolder) -> tuple[Made, ...]:
    """Files and folders of a run, without the report, hidden and temporary files."""
    ours = {folder.report.name, folder.model_card.name}
    found = []
    for path in sorted(folder.out.iterdir()):
        if path.name in ours or path.name.startswith((".", TEMPORARY_PREFIX)):
            continue
        files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
        name = path.name if path.is_file() else f"{path.name}/"
        found.append(Made(name, len(files), sum(one.stat().st_size for one in files)))
    return tuple(found)


def teacher_predictions(run: Gathered) -> ModelPredictions | None:
    """Return the predictions of the teacher; None where there are none."""
    models = () if run.predictions is None else run.predictions.models
    return next((one for one in models if one.role == "teacher"), None)


def student_predictions(run: Gathered, kind: str) -> ModelPredictions | None:
    """Return the predictions of a student of `kind`, else of any student.

    Those of an exported file are preferred to those of the student's folder.
    """
    models = () if run.predictions is None else run.predictions.models
    named = [(model_name(one.model, one.role, run.classifier_of), one) for one in models]
    students = [(name, one) for name, one in named if name.kind != "teacher"]
    own = [(name, one) for name, one in students if name.kind == kind]
    folders = (*EXPORTS.values(), "student", "")
    best = min(own or students[:1], key=lambda pair: folders.index(pair[0].folder), default=None)
    return None if best is None else best[1]

"""Everything that a run's folder holds for its report, read once into frozen dataclasses."""

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
        card: what it is.
        metrics: a row an epoch, see `formats.student`; empty where that file is missing.
    """

    name: str
    card: StudentCard
    metrics: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Made:
    """A file or folder that the run made.

    Attributes:
        name: below the run's folder.
        files: how many; 1 for a file.
        size: bytes, of all together.
    """

    name: str
    files: int
    size: int


@dataclass(frozen=True)
class Gathered:
    """A run.

    Attributes:
        folder: where it lies.
        record: how it was made.
        classifier_of: which student `classifier.onnx` is; empty when there is none.
        text: the classes; None, like all that follows, where it is not there.
        students: those that are finished, in order.
        evaluated: `evaluate`'s result.
        raced: `benchmark`'s.
        baseline: the teacher's.
        predictions: of each picture.
        data: where the pictures came from.
        made: what lies in the folder.
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
        """Whose space everything lives in."""
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
        """Whether accuracy is known."""
        return self.evaluated is not None and self.evaluated.labelled


def gather(run: Path) -> Gathered:
    """Read a run's folder; only `run.json` has to be there.  Labels are as they are shown.

    Raises:
        InputError: there is no run.
        FormatError: something in it is damaged.
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
    """Where the pictures lie: those that were downloaded, or the folder that was given."""
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
    """Which student `classifier.onnx` is, by its own card."""
    if not folder.classifier.is_file():
        return ""
    card = OnnxCard.from_metadata(folder.classifier, read_onnx(folder.classifier).metadata)
    done = card.compression or Compression()
    parts = [name for name, how in (("sparse", done.sparse), ("int8", done.int8)) if how]
    return "-".join(parts) or "dense"


def _made(folder: RunFolder) -> tuple[Made, ...]:
    """What lies in the folder, without the report itself, hidden files and left-overs."""
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
    """The teacher's; None where it was not asked."""
    told = () if run.predictions is None else run.predictions.models
    return next((one for one in told if one.role == "teacher"), None)


def student_predictions(run: Gathered, kind: str) -> ModelPredictions | None:
    """Those of a student of a kind, as its exported file where it has one; else of any student."""
    told = () if run.predictions is None else run.predictions.models
    named = [(model_name(one.model, one.role, run.classifier_of), one) for one in told]
    students = [(name, one) for name, one in named if name.kind != "teacher"]
    own = [(name, one) for name, one in students if name.kind == kind]
    folders = (*EXPORTS.values(), "student", "")
    best = min(own or students[:1], key=lambda pair: folders.index(pair[0].folder), default=None)
    return None if best is None else best[1]

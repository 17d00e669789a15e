"""The folder of a `run`: the path of each artefact, and `run.json`, the record of how it was made.

prompts.txt            the prompts
probe.json             speeds, measured by a short probe, for estimates
student-choice.json    the student that was chosen; only with --student auto
image_urls.txt         URLs that a search found, and images/ the downloaded images; both only with
                       a search, otherwise the images stay in their folder
embeddings/            the teacher's embeddings of the images
labelled-embeddings/   the teacher's embeddings of the labelled images, if there are any
labelled-images/       links to the labelled images; only where a table gives the labels
text.npy, text.json    the text embeddings
training.txt, holdout/ keys of the training images, one per line, and links to the holdout; only
                       where a share is held out
baseline.json          the teacher's own zero-shot result
student/               the dense student; student-sparse/, student-int8/, student-sparse-int8/
cpu/*.onnx, trt/*.onnx one classifier per student, for ONNX Runtime, and for TensorRT and OpenVINO
classifier.onnx        the classifier that the settings name
evaluation.json        the result of `evaluate`; predictions.json: each model's predictions
benchmark.json         the result of `benchmark`; benchmark.svg: its chart
report.html            the report; README.md: the model card
replaced/              artefacts of settings that have changed since
run.json               settings, steps with their commands and fingerprints, versions, machine
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..core.errors import FormatError, InputError
from ..core.files import check_format, describing, read_json, write_json
from ..core.results import Versioned, from_json, to_json
from .cards import MODEL_CARD
from .classifier import CLASSIFIER

STUDENTS = ("dense", "sparse", "int8", "sparse-int8")
"""Names of the students of a run, in the order in which they are made and shown."""

EXPORTS = {"onnxruntime": "cpu", "tensorrt": "trt"}
"""Target of a classifier -> its folder."""


FORMER_NAMES = {"baseline.json": "ceiling.json", "predictions.json": "opinions.json"}
"""File -> its name before version 0.1.0."""


def present(path: Path) -> Path:
    """Return `path`, or its former name where only a file of that name exists."""
    former = path.with_name(FORMER_NAMES.get(path.name, path.name))
    return former if former.is_file() and not path.is_file() else path


class _Inside:
    """A path below a run's folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: RunFolder, kind: type[RunFolder]) -> Path:
        return folder.out / self.name


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run; the docstring of this module describes each.

    Attributes:
        out: folder of the run.
    """

    out: Path

    record = _Inside("run.json")
    prompts = _Inside("prompts.txt")
    probe = _Inside("probe.json")
    choice = _Inside("student-choice.json")
    urls = _Inside("image_urls.txt")
    images = _Inside("images")
    embeddings = _Inside("embeddings")
    labelled_embeddings = _Inside("labelled-embeddings")
    labelled_images = _Inside("labelled-images")
    text = _Inside("text.npy")
    training_list = _Inside("training.txt")
    holdout = _Inside("holdout")
    baseline = _Inside("baseline.json")
    classifier = _Inside(CLASSIFIER)
    evaluation = _Inside("evaluation.json")
    predictions = _Inside("predictions.json")
    benchmark = _Inside("benchmark.json")
    chart = _Inside("benchmark.svg")
    report = _Inside("report.html")
    model_card = _Inside(MODEL_CARD)
    replaced = _Inside("replaced")

    def student(self, name: str) -> Path:
        """Return the folder of one of `STUDENTS`."""
        return self.out / ("student" if name == "dense" else f"student-{name}")

    def export(self, name: str, target: str) -> Path:
        """Return the classifier of one of `STUDENTS` for a target."""
        return self.out / EXPORTS[target] / f"{name}.onnx"


@dataclass(frozen=True)
class StepRecord:
    """A finished or an interrupted step.

    Attributes:
        name: such as "embed" or "distill sparse".
        command: command line that does only this step; empty where only `run` can do it.
        fingerprint: digest of the step's settings and inputs; when it changes, the step runs again.
        seconds: duration, over all calls of `run` that worked on the step.
        outputs: files and folders, relative to the run's folder.
        settings: settings of `run` that this step depends on.
        inputs: fingerprint of each file, folder and step that it uses.
        result: fingerprint of its outcome, for the steps that use it.
    """

    name: str
    command: str
    fingerprint: str
    seconds: float
    outputs: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    result: str = ""


@dataclass(frozen=True)
class RunRecord(Versioned):
    """Record of how a run was made.

    Attributes:
        settings: settings of `run`, as in its TOML file.
        steps: finished steps, in order.
        versions: package -> version.
        machine: description of the machine, in one line.
        started: time of the first start, ISO 8601 with the zone.
        finished: time when all steps but the report were last completed; empty until then.
        unfinished: interrupted steps.
        others: finished steps that the settings no longer include; their files are kept.
    """

    FORMAT: ClassVar[str] = "clipdistill.run"
    VERSION: ClassVar[int] = 1

    settings: dict[str, Any]
    steps: tuple[StepRecord, ...]
    versions: dict[str, str]
    machine: str
    started: str
    finished: str
    unfinished: tuple[StepRecord, ...] = ()
    others: tuple[StepRecord, ...] = ()

    def known(self) -> dict[str, StepRecord]:
        """Return every finished step by its name."""
        return {step.name: step for step in (*self.others, *self.steps)}

    def begun(self) -> dict[str, StepRecord]:
        """Return every interrupted step by its name."""
        return {step.name: step for step in self.unfinished}


def save_run(folder: RunFolder, record: RunRecord) -> None:
    """Write `run.json` atomically."""
    write_json(folder.record, to_json(record))


def load_run(folder: RunFolder) -> RunRecord:
    """Read `run.json`.

    Raises:
        InputError: there is no such file.
        FormatError: it cannot be read, or is of a newer version.
    """
    if not folder.record.is_file():
        raise InputError(
            f"{folder.record}: the record of the run is missing. Give the folder of a `clipdistill "
            "run` or `clipdistill quickstart`."
        )
    card = read_json(folder.record, "a run's record")
    check_format(folder.record, card, RunRecord.FORMAT, RunRecord.VERSION)
    with describing(folder.record):
        try:
            return from_json(RunRecord, card)
        except ValueError as error:
            raise FormatError(f"the record of a run cannot be read: {error}") from error

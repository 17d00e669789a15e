"""The folder of a `run`: where each artefact lies in it, and `run.json` that says how it was made.

prompts.txt            the prompts, as they were given
probe.json             what a short probe of speed measured, for estimates
image_urls.txt         what a search found, and images/ what was downloaded of it; only with
                       a search, otherwise the pictures stay where they are
embeddings/            what the teacher said of the pictures
labelled-embeddings/   what it said of the labelled pictures, if there are any
text.npy, text.json    the class list in the teacher's space
training.txt, holdout/ names of the pictures to learn from, links to those held out; only
                       where a share is held out
baseline.json           how well the teacher itself separates the prompts on these pictures
student/               the dense student; student-sparse/, student-int8/, student-sparse-int8/
cpu/*.onnx, trt/*.onnx one classifier a student, for ONNX Runtime, and for TensorRT and OpenVINO
classifier.onnx        the one that was asked for
evaluation.json        `evaluate`'s result; predictions.json: what each model says of each picture
benchmark.json         `benchmark`'s result
report.html            all of it, to be read
replaced/              what was trained or embedded with settings that have changed since
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

STUDENTS = ("dense", "sparse", "int8", "sparse-int8")
"""Names of the students that a run can make, in the order in which they are made and shown."""

EXPORTS = {"onnxruntime": "cpu", "tensorrt": "trt"}
"""What a file is for -> the folder that it lies in."""


FORMER_NAMES = {"baseline.json": "ceiling.json", "predictions.json": "opinions.json"}
"""File -> its name before version 0.1.0."""


def present(path: Path) -> Path:
    """Where a file of a run lies: `path`, or its former name where only that is there."""
    former = path.with_name(FORMER_NAMES.get(path.name, path.name))
    return former if former.is_file() and not path.is_file() else path


@dataclass(frozen=True)
class RunFolder:
    """Where everything of a run lies.

    Attributes:
        out: the folder.
    """

    out: Path

    @property
    def record(self) -> Path:
        """How it was made."""
        return self.out / "run.json"

    @property
    def prompts(self) -> Path:
        """The prompts file."""
        return self.out / "prompts.txt"

    @property
    def urls(self) -> Path:
        """What a search found."""
        return self.out / "image_urls.txt"

    @property
    def images(self) -> Path:
        """Downloaded pictures, only with a search."""
        return self.out / "images"

    @property
    def embeddings(self) -> Path:
        """The teacher's embeddings of the pictures."""
        return self.out / "embeddings"

    @property
    def labelled_embeddings(self) -> Path:
        """The teacher's embeddings of the labelled pictures."""
        return self.out / "labelled-embeddings"

    @property
    def holdout(self) -> Path:
        """Links to the pictures that are held out."""
        return self.out / "holdout"

    @property
    def training_list(self) -> Path:
        """Names of the pictures to learn from, a line each; only where some are held out."""
        return self.out / "training.txt"

    @property
    def probe(self) -> Path:
        """What a short probe measured."""
        return self.out / "probe.json"

    @property
    def chart(self) -> Path:
        """`benchmark`'s chart."""
        return self.out / "benchmark.svg"

    @property
    def replaced(self) -> Path:
        """What was made with settings that have changed since."""
        return self.out / "replaced"

    @property
    def text(self) -> Path:
        """Text embeddings."""
        return self.out / "text.npy"

    @property
    def baseline(self) -> Path:
        """The teacher's baseline."""
        return self.out / "baseline.json"

    @property
    def evaluation(self) -> Path:
        """The result of `evaluate`."""
        return self.out / "evaluation.json"

    @property
    def predictions(self) -> Path:
        """What each model says of each picture."""
        return self.out / "predictions.json"

    @property
    def benchmark(self) -> Path:
        """The result of `benchmark`."""
        return self.out / "benchmark.json"

    @property
    def classifier(self) -> Path:
        """The classifier that was asked for."""
        return self.out / "classifier.onnx"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.out / "report.html"

    @property
    def model_card(self) -> Path:
        """The page for people, as Hugging Face has it."""
        return self.out / MODEL_CARD

    def student(self, name: str) -> Path:
        """The folder of one of `STUDENTS`."""
        return self.out / ("student" if name == "dense" else f"student-{name}")

    def export(self, name: str, target: str) -> Path:
        """The classifier of one of `STUDENTS` for a target."""
        return self.out / EXPORTS[target] / f"{name}.onnx"


@dataclass(frozen=True)
class StepRecord:
    """A finished step, or one that was begun.

    Attributes:
        name: such as "embed" or "distill sparse".
        command: the command line that does this step alone; empty: only `run` does it.
        fingerprint: of the step's settings and inputs; another one makes it run again.
        seconds: it took, over all runs that worked on it.
        outputs: files and folders, relative to the run's folder.
        settings: of `run`, those that this step depends on.
        inputs: a fingerprint of each file, folder and step that it uses.
        result: what tells its outcome from another one, for the steps that use it.
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
    """How a run was made.

    Attributes:
        settings: of `run`, as in its TOML file.
        steps: those that are finished, in order.
        versions: package -> version.
        machine: in one line.
        started: when it was first started, ISO 8601 with the zone.
        finished: when all but the report was last completed; empty until then.
        unfinished: steps that were begun and interrupted.
        others: finished steps that the settings no longer ask for; their files are still there.
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
        """Every finished step by its name."""
        return {step.name: step for step in (*self.others, *self.steps)}

    def begun(self) -> dict[str, StepRecord]:
        """Every unfinished step by its name."""
        return {step.name: step for step in self.unfinished}


def save_run(folder: RunFolder, record: RunRecord) -> None:
    """Write `run.json` atomically."""
    write_json(folder.record, to_json(record))


def load_run(folder: RunFolder) -> RunRecord:
    """Read `run.json`.

    Raises:
        InputError: there is none.
        FormatError: it cannot be read, or is of a newer version.
    """
    if not folder.record.is_file():
        raise InputError(
            f"{folder.record}: there is no record of a run. Expected the folder of a "
            "`clipdistill run` or `clipdistill quickstart`."
        )
    card = read_json(folder.record, "a run's record")
    check_format(folder.record, card, RunRecord.FORMAT, RunRecord.VERSION)
    with describing(folder.record):
        try:
            return from_json(RunRecord, card)
        except ValueError as error:
            raise FormatError(f"the record of a run cannot be read: {error}") from error

"""The folder of a `run`: where each artefact lies in it, and `run.json` that says how it was made.

prompts.txt            the prompts, as they were given
image_urls.txt         what a search found, and images/ what was downloaded of it; only with
                       a search, otherwise the pictures stay where they are
embeddings/            what the teacher said of the pictures
text.npy, text.json    the class list in the teacher's space
ceiling.json           how well the teacher itself separates the prompts on these pictures
student/               the dense student; student-sparse/, student-int8/, student-sparse-int8/
cpu/*.onnx, trt/*.onnx one classifier a student, for ONNX Runtime, and for TensorRT and OpenVINO
classifier.onnx        the one that was asked for
evaluation.json        `evaluate`'s result; opinions.json: what each model says of each picture
benchmark.json         `benchmark`'s result
report.html            all of it, to be read
run.json               settings, steps with their commands and fingerprints, versions, machine
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..files import check_format, describing, read_json, write_json

FORMAT = "clipdistill.run"
VERSION = 1
STUDENTS = ("dense", "sparse", "int8", "sparse-int8")
"""Names of the students that a run can make, in the order in which they are made and shown."""


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
    def text(self) -> Path:
        """Text embeddings."""
        return self.out / "text.npy"

    @property
    def ceiling(self) -> Path:
        """The teacher's ceiling."""
        return self.out / "ceiling.json"

    @property
    def evaluation(self) -> Path:
        """The result of `evaluate`."""
        return self.out / "evaluation.json"

    @property
    def opinions(self) -> Path:
        """What each model says of each picture."""
        return self.out / "opinions.json"

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

    def student(self, name: str) -> Path:
        """The folder of one of `STUDENTS`."""
        return self.out / ("student" if name == "dense" else f"student-{name}")

    def export(self, name: str, target: str) -> Path:
        """The classifier of one of `STUDENTS` for a target."""
        return self.out / ("cpu" if target == "onnxruntime" else "trt") / f"{name}.onnx"


@dataclass(frozen=True)
class StepRecord:
    """A finished step.

    Attributes:
        name: such as "embed" or "distill sparse".
        command: the command line that does this step alone.
        fingerprint: of the step's settings and inputs; another one makes it run again.
        seconds: it took, over all runs that worked on it.
        outputs: files and folders, relative to the run's folder.
    """

    name: str
    command: str
    fingerprint: str
    seconds: float
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class RunRecord:
    """How a run was made.

    Attributes:
        settings: of `run`, as in its TOML file.
        steps: those that are finished, in order.
        versions: package -> version.
        machine: in one line.
        started: when it was first started, ISO 8601 with the zone.
        finished: when it was last completed; empty until then.
    """

    settings: dict[str, Any]
    steps: tuple[StepRecord, ...]
    versions: dict[str, str]
    machine: str
    started: str
    finished: str


def save_run(folder: RunFolder, record: RunRecord) -> None:
    """Write `run.json` atomically."""
    write_json(folder.record, {"format": FORMAT, "version": VERSION, **asdict(record)})


def load_run(folder: RunFolder) -> RunRecord:
    """Read `run.json`.

    Raises:
        InputError: there is none.
        FormatError: it cannot be read, or is of a newer version.
    """
    card = read_json(folder.record, "a run's record")
    check_format(folder.record, card, FORMAT, VERSION)
    with describing(folder.record):
        try:
            steps = tuple(
                StepRecord(
                    str(step["name"]), str(step["command"]), str(step["fingerprint"]),
                    float(step["seconds"]), tuple(str(one) for one in step["outputs"]),
                )
                for step in card["steps"]
            )  # fmt: skip
            return RunRecord(
                dict(card["settings"]),
                steps,
                {str(name): str(value) for name, value in card["versions"].items()},
                str(card["machine"]),
                str(card["started"]),
                str(card["finished"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"the record of a run cannot be read: {error!r}") from error

"""What a run does not have, and the command that adds it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from ...formats.run import RunFolder
from .gather import Gathered


@dataclass(frozen=True)
class Missing:
    """Something that a run does not have.

    Attributes:
        text: a sentence that names it.
        command: command that adds it; RUN is the run's folder.
    """

    text: str
    command: str


RUN = RunFolder(Path("RUN"))
AGAIN = f"clipdistill run {RUN.prompts} {RUN.out}"
EVALUATION = f"--predictions {RUN.predictions} --json > {RUN.evaluation}"


def missing_of(run: Gathered) -> dict[str, Missing]:
    """Return what is missing by its name: "text", "students", "evaluation", "labels" ..."""
    folder = "--labelled FOLDER" if run.labelled else "--images FOLDER"
    student = RUN.student("dense")
    both = f"{student} {_teacher(run)} {folder} --text {RUN.text}"
    students = f"{student} {RUN.classifier}" if run.classifier_of else f"{student}"
    checks = {
        "students": (not run.students, "No student has been trained.", AGAIN),
        "text": (
            run.text is None,
            "There are no text embeddings yet.",
            f"clipdistill embed-text {RUN.prompts} {RUN.text}",
        ),
        "evaluation": (
            run.evaluated is None,
            "The models have not been evaluated.",
            f"clipdistill evaluate {both} {EVALUATION}",
        ),
        "labels": (
            run.evaluated is not None and not run.labelled,
            "Accuracy is unknown, since there were no labelled images. A few labelled images per "
            "class are enough to measure it.",
            f"{AGAIN} --labelled FOLDER",
        ),
        "benchmark": (
            run.raced is None,
            "The speed of the models has not been compared.",
            f"clipdistill benchmark {students} {folder} --text {RUN.text} --json > {RUN.benchmark}",
        ),
        "predictions": (
            run.predictions is None,
            "There are no predictions for single images.",
            f"clipdistill evaluate {both} {EVALUATION}",
        ),
        "compressed": (
            len(run.students) == 1 and run.students[0].name == "dense",
            "There is no sparse or INT8 student to compare with.",
            f"{AGAIN} --sparse --qat",
        ),
        "calibration": (
            run.text is not None and run.text.calibration is None,
            "Probabilities are not calibrated: they use the teacher's logit scale, and no answer "
            "is “unknown”.",
            f"clipdistill evaluate {both} --calibrate",
        ),
        "baseline": (
            run.baseline is None,
            "The teacher's baseline has not been measured.",
            AGAIN,
        ),
        "data": (
            not run.data.downloaded,
            "This run did not download the images: their sources, licences and authors are "
            "unknown.",
            f"{AGAIN} --search commons --contact YOU",
        ),
        "metrics": (
            bool(run.students) and not any(one.metrics for one in run.students),
            "There are no metrics of the students' training.",
            AGAIN,
        ),
    }
    return {name: Missing(text, line) for name, (gone, text, line) in checks.items() if gone}


def _teacher(run: Gathered) -> str:
    """The teacher as an argument of a command: as the run has it, which knows its place."""
    if given := run.record.settings.get("teacher"):
        return shlex.quote(str(given))
    if run.teacher is None:
        return "TEACHER"
    name, weights = run.teacher.model_name, run.teacher.pretrained
    return shlex.quote(f"{name}/{weights}" if weights else name)

"""What a run does not have, and which command would add it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from ...formats.run import RunFolder
from .gather import Gathered


@dataclass(frozen=True)
class Missing:
    """Something that is not there.

    Attributes:
        text: what, in a sentence.
        command: that adds it; RUN is the run's folder.
    """

    text: str
    command: str


RUN = RunFolder(Path("RUN"))
AGAIN = f"clipdistill run {RUN.prompts} {RUN.out}"
EVALUATION = f"--predictions {RUN.predictions} --json > {RUN.evaluation}"


def missing_of(run: Gathered) -> dict[str, Missing]:
    """By what is missing: "text", "students", "evaluation", "labels", "benchmark", ..."""
    folder = "--labelled FOLDER" if run.labelled else "--images FOLDER"
    student = RUN.student("dense")
    both = f"{student} {_teacher(run)} {folder} --text {RUN.text}"
    students = f"{student} {RUN.classifier}" if run.classifier_of else f"{student}"
    checks = {
        "students": (not run.students, "No student has been trained.", AGAIN),
        "text": (
            run.text is None,
            "There are no classes yet.",
            f"clipdistill embed-text {RUN.prompts} {RUN.text}",
        ),
        "evaluation": (
            run.evaluated is None,
            "Nothing has been measured yet.",
            f"clipdistill evaluate {both} {EVALUATION}",
        ),
        "labels": (
            run.evaluated is not None and not run.labelled,
            "Accuracy is not known, since there were no labelled pictures; the teacher is "
            "the measure. A few labelled pictures a class are enough to measure on.",
            f"{AGAIN} --labelled FOLDER",
        ),
        "benchmark": (
            run.raced is None,
            "Speed has not been measured side by side.",
            f"clipdistill benchmark {students} {folder} --text {RUN.text} --json > {RUN.benchmark}",
        ),
        "predictions": (
            run.predictions is None,
            "What the models say of single pictures was not kept.",
            f"clipdistill evaluate {both} {EVALUATION}",
        ),
        "compressed": (
            len(run.students) == 1 and run.students[0].name == "dense",
            "There is no sparse and no INT8 student to compare with.",
            f"{AGAIN} --sparse --qat",
        ),
        "calibration": (
            run.text is not None and run.text.calibration is None,
            "Probabilities are as the teacher's scale gives them, not calibrated; no "
            "answer is “unknown”.",
            f"clipdistill evaluate {both} --calibrate",
        ),
        "baseline": (
            run.baseline is None,
            "How well the teacher itself separates the classes was not measured.",
            AGAIN,
        ),
        "data": (
            not run.data.downloaded,
            "The pictures were not downloaded by this run: nothing is known of their sources, "
            "licences and authors.",
            f"{AGAIN} --search commons --contact YOU",
        ),
        "metrics": (
            bool(run.students) and not any(one.metrics for one in run.students),
            "The students' training was not recorded.",
            AGAIN,
        ),
    }
    return {name: Missing(text, line) for name, (gone, text, line) in checks.items() if gone}


def _teacher(run: Gathered) -> str:
    """The teacher as commands take it."""
    if run.teacher is None:
        return "TEACHER"
    name, weights = run.teacher.model_name, run.teacher.pretrained
    return shlex.quote(f"{name}/{weights}" if weights else name)

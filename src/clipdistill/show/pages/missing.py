"""What a run does not have, and the command that adds it."""

from __future__ import annotations

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
AGAIN = f"clipdistill run {RUN.out}"
"""It takes the settings that the run was made with."""


def missing_of(run: Gathered) -> dict[str, Missing]:
    """Return what is missing by its name: "text", "students", "evaluation", "labels" ..."""
    checks = {
        "students": (not run.students, "No student has been trained.", AGAIN),
        "text": (run.text is None, "There are no text embeddings yet.", AGAIN),
        "evaluation": (run.evaluated is None, "The models have not been evaluated.", AGAIN),
        "labels": (
            run.evaluated is not None and not run.labelled,
            "Accuracy is unknown, since there were no labelled images. A few labelled images per "
            "class are enough to measure it.",
            f"{AGAIN} --labelled FOLDER",
        ),
        "benchmark": (
            run.raced is None,
            "The speed of the models has not been compared.",
            f"{AGAIN} --benchmark",
        ),
        "predictions": (
            run.predictions is None,
            "There are no predictions for single images.",
            AGAIN,
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
            f"{AGAIN} --calibrate",
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
            f"clipdistill run {RUN.prompts} NEW_RUN --search commons --contact YOU",
        ),
        "metrics": (
            bool(run.students) and not any(one.metrics for one in run.students),
            "There are no metrics of the students' training.",
            AGAIN,
        ),
    }
    return {name: Missing(text, line) for name, (gone, text, line) in checks.items() if gone}

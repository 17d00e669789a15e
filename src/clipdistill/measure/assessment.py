"""What a measured student is good for, in one line a person can act on.

The line starts the report and the summary of `run`.  Its limits are rules of thumb, stated here
once; differences within chance, or of two points, are never held against a student.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..core.wording import many, percent
from ..formats.measurements import Evaluation

Level = Literal["good", "care", "unusable", "unknown"]

TITLES: dict[Level, str] = {
    "good": "As good as the teacher",
    "care": "Usable with care",
    "unusable": "Unusable",
    "unknown": "Not measured",
}
COLLAPSED = 0.9
"""Share of the images with one answer from which a student of several classes is collapsed, unless
the teacher gives that answer about as often."""
FAR, NEAR = 0.7, 0.95
"""Agreement with the teacher below which a student is far from it, and from which it is near."""
SHARE_OF_TEACHER = 0.85
"""Accuracy below this share of the teacher's is far from it."""
WEAK_TEACHER = 0.5
"""A teacher below this accuracy on the user's own classes is the first thing to change."""
FEW_IMAGES = 30
"""Training images per class below which more images are the first thing to try."""
CLOSE = 0.02
"""A difference of accuracy that is none in practice, even where it is more than chance."""
SIGMAS = 2.0
"""Standard errors that count as chance: 95%."""


@dataclass(frozen=True)
class Evidence:
    """What is known of one student.

    Attributes:
        images: how many it was measured on.
        classes: how many there are.
        agreement: share of images with the teacher's label; None: not measured.
        accuracy: share of right labels; None without labels.
        teacher_accuracy: the teacher's on the same images; None without labels.
        answers: label -> images that the student gave it.
        teacher_answers: the same of the teacher; empty when unknown.
        true_shares: label -> share of images that have it; empty without labels.
        train_images: it was trained on; 0: unknown.
        cosine: mean cosine with the teacher's embeddings; None: not measured.
    """

    images: int
    classes: int
    agreement: float | None = None
    accuracy: float | None = None
    teacher_accuracy: float | None = None
    answers: Mapping[str, int] | None = None
    teacher_answers: Mapping[str, int] | None = None
    true_shares: Mapping[str, float] | None = None
    train_images: int = 0
    cosine: float | None = None


@dataclass(frozen=True)
class Assessment:
    """One line about a student.

    Attributes:
        level: "good", "care", "unusable" or "unknown".
        reason: why, a sentence.
        advice: what to try next, a sentence; empty when there is nothing to do.
    """

    level: Level
    reason: str
    advice: str = ""

    @property
    def title(self) -> str:
        """The level for people, such as "Usable with care"."""
        return TITLES[self.level]

    @property
    def line(self) -> str:
        """The whole line, such as "Usable with care: ... Try ..."."""
        return f"{self.title}: {self.reason}{' ' if self.advice else ''}{self.advice}"


def assess_evaluation(
    evaluation: Evaluation, train_images: int = 0, model: str = ""
) -> Assessment | None:
    """Assess a student of an evaluation; None where none was measured.

    Args:
        evaluation: of students, and of their teacher if it was measured.
        train_images: that the student was trained on; 0: unknown.
        model: name of the student; default: the last one.
    """
    students = [one for one in evaluation.rows if one.role != "teacher"]
    named = [one for one in students if one.model == model] or students[-1:]
    if not named:
        return None
    row = named[0]
    teacher = next((one for one in evaluation.rows if one.role == "teacher"), None)
    totals = [sum(line) for line in row.confusion]
    images = sum(totals)
    return assess(
        Evidence(
            images=row.images,
            classes=len(row.labels),
            agreement=row.agreement,
            accuracy=row.accuracy,
            teacher_accuracy=None if teacher is None else teacher.accuracy,
            answers=row.counts,
            teacher_answers=None if teacher is None else teacher.counts,
            true_shares={
                label: total / images
                for label, total in zip(row.labels, totals, strict=False)
                if images
            },
            train_images=train_images,
            cosine=row.cosine,
        )
    )


def assess(evidence: Evidence) -> Assessment:
    """Say what a student is good for, why, and what to try next."""
    if evidence.images == 0 or (evidence.agreement is None and evidence.accuracy is None):
        return Assessment(
            "unknown",
            "nothing was measured.",
            "Give labelled images (--labelled FOLDER), or more images to hold some out.",
        )
    return _collapsed(evidence) or _weak_teacher(evidence) or _compared(evidence)


def chance(share: float, images: int) -> float:
    """Half the width of a share's 95% interval on so many images (normal approximation)."""
    return SIGMAS * math.sqrt(max(share * (1 - share), 0.25 / max(images, 1)) / max(images, 1))


def _collapsed(evidence: Evidence) -> Assessment | None:
    """A student that always gives the same answer."""
    answers = evidence.answers or {}
    total = sum(answers.values())
    if evidence.classes < 2 or not total:
        return None
    label = max(answers, key=lambda name: answers[name])
    share = answers[label] / total
    teacher = evidence.teacher_answers or {}
    usual = teacher.get(label, 0) / max(1, sum(teacher.values()))
    true = (evidence.true_shares or {}).get(label, 0.0)
    expected = max(usual, true)
    if share >= COLLAPSED and share > expected + chance(expected, total):
        reason = f"it answers {label!r} for {percent(share, 0)} of the images."
        return Assessment("unusable", reason, _more_training(evidence))
    right = evidence.accuracy
    if right is not None and evidence.true_shares:
        commonest = max(evidence.true_shares.values())
        if right <= commonest + chance(commonest, evidence.images) and commonest < COLLAPSED:
            return Assessment(
                "unusable",
                f"its {percent(right, 0)} accuracy is no better than always giving the commonest "
                f"class ({percent(commonest, 0)}).",
                _more_training(evidence),
            )
    return None


def _weak_teacher(evidence: Evidence) -> Assessment | None:
    """A teacher that does not know the classes."""
    top = evidence.teacher_accuracy
    if top is None or top + chance(top, evidence.images) >= WEAK_TEACHER:
        return None
    return Assessment(
        "unusable",
        f"the teacher itself is right on only {percent(top, 0)} of the images, and a student "
        "learns from it.",
        "Describe the classes better (several prompts per label), or take a better teacher.",
    )


def _compared(evidence: Evidence) -> Assessment:
    """A student beside its teacher."""
    right, top = evidence.accuracy, evidence.teacher_accuracy
    if right is not None and top is not None:
        figures = f"{percent(right)} right, the teacher {percent(top)}"
        if right >= top - max(CLOSE, chance(top, evidence.images)):
            return Assessment("good", f"{figures}, on {many(evidence.images, 'image')}.")
        far = right < SHARE_OF_TEACHER * top
    elif evidence.agreement is not None:
        agreed = evidence.agreement
        figures = f"the teacher's label on {percent(agreed)} of {many(evidence.images, 'image')}"
        if agreed + chance(agreed, evidence.images) >= NEAR:
            return Assessment("good", f"{figures}.")
        far = agreed < FAR
    else:
        figures, far = f"{percent(right or 0.0)} right, the teacher was not measured", False
    reason = f"{figures}."
    level: Level = "unusable" if far and (right is None or right < WEAK_TEACHER) else "care"
    return Assessment(level, reason, _more_training(evidence))


def _more_training(evidence: Evidence) -> str:
    """What brings a student nearer to its teacher, the most effective first."""
    if 0 < evidence.train_images < FEW_IMAGES * evidence.classes:
        return (
            f"Try more images: {evidence.train_images} for {evidence.classes} classes are few "
            f"({FEW_IMAGES} or more per class help)."
        )
    return (
        "Try a pretrained student (--pretrained or --student-weights), then more epochs or a "
        "larger student."
    )

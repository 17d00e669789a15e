"""Whose opinions of the pictures are shown."""

from __future__ import annotations

from ..formats.opinions import ModelOpinions
from .gather import Gathered
from .naming import model_name


def teacher_opinions(run: Gathered) -> ModelOpinions | None:
    """The teacher's; None where it was not asked."""
    told = () if run.opinions is None else run.opinions.models
    return next((one for one in told if one.role == "teacher"), None)


def student_opinions(run: Gathered, kind: str) -> ModelOpinions | None:
    """Those of a student of a kind, as its exported file where it has one; else of any student."""
    told = () if run.opinions is None else run.opinions.models
    named = [(model_name(one.model, one.role, run.classifier_of), one) for one in told]
    students = [(name, one) for name, one in named if name.kind != "teacher"]
    own = [(name, one) for name, one in students if name.kind == kind]
    order = {"cpu": 0, "trt": 1}
    best = sorted(own or students[:1], key=lambda pair: order.get(pair[0].folder, 2))
    return best[0][1] if best else None

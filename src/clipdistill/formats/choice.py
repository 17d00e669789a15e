"""`student-choice.json`: the student that `run --student auto` chose, and what it measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..core.errors import ClipDistillError
from ..core.files import check_format, read_json, write_json
from ..core.results import Versioned, from_json, to_json


@dataclass(frozen=True)
class Candidate:
    """A student that was measured.

    Attributes:
        arch: timm's name.
        latency_ms: median milliseconds per image in ONNX Runtime on this machine's CPU, FP32; None
            where the size alone excluded it.
        size_mb: size of the classifier's weights, 10^6 bytes.
    """

    arch: str
    latency_ms: float | None
    size_mb: float


@dataclass(frozen=True)
class StudentChoice(Versioned):
    """The choice, kept so that a resumed run trains the same student.

    Attributes:
        of: fingerprint of the settings that it depends on; with other ones it is made again.
        arch: timm's name of the student.
        candidates: what was measured, in the order in which it was tried; the last one was chosen.
    """

    FORMAT: ClassVar[str] = "clipdistill.student-choice"
    VERSION: ClassVar[int] = 1

    of: str
    arch: str
    candidates: tuple[Candidate, ...]


def save_choice(path: Path, choice: StudentChoice) -> None:
    """Write `student-choice.json` atomically."""
    write_json(path, to_json(choice))


def load_choice(path: Path, of: str) -> StudentChoice | None:
    """Read the choice with the fingerprint `of`; None where there is none that can be used."""
    try:
        card = read_json(path, "the choice of a student")
        check_format(path, card, StudentChoice.FORMAT, StudentChoice.VERSION)
        found = from_json(StudentChoice, card)
    except (ClipDistillError, ValueError):
        return None  # it is made again
    return found if found.of == of else None

"""`probe.json`: speeds of teacher and student, measured briefly for estimates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..core.errors import ClipDistillError
from ..core.files import check_format, read_json, write_json
from ..core.results import Versioned, from_json, to_json


@dataclass(frozen=True)
class Probe(Versioned):
    """Speeds on this machine.

    Attributes:
        of: fingerprint of what was measured; a probe with another fingerprint is measured again.
        seconds: duration of the probe.
        load_seconds: duration of importing and loading the teacher.
        decode_rate: images decoded per second, with all threads.
        teacher_rate: images per second that the teacher embeds.
        training_rate: images per second of the student's training steps.
        dim: dimension of an embedding.
        image_size: side of the student's input in pixels.
        parameters: number of the student's parameters.
        device: device of both.
    """

    FORMAT: ClassVar[str] = "clipdistill.probe"
    VERSION: ClassVar[int] = 1

    of: str
    seconds: float
    load_seconds: float
    decode_rate: float
    teacher_rate: float
    training_rate: float
    dim: int
    image_size: int
    parameters: int
    device: str


def save_probe(path: Path, probe: Probe) -> None:
    """Write `probe.json` atomically."""
    write_json(path, to_json(probe))


def load_probe(path: Path, of: str) -> Probe | None:
    """Read the probe with the fingerprint `of`; None where there is none that can be used."""
    try:
        card = read_json(path, "the probe")
        check_format(path, card, Probe.FORMAT, Probe.VERSION)
        found = from_json(Probe, card)
    except (ClipDistillError, ValueError):
        return None  # the probe is measured again
    rates = (found.decode_rate, found.teacher_rate, found.training_rate)
    return found if found.of == of and min(rates) > 0 else None

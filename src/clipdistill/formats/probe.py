"""What a short probe of teacher and student measured, for estimates (`probe.json`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ..core.errors import ClipDistillError
from ..core.files import check_format, read_json, write_json

FORMAT = "clipdistill.probe"
VERSION = 1


@dataclass(frozen=True)
class Probe:
    """Speeds on this machine.

    Attributes:
        of: fingerprint of what was measured; another one asks for another probe.
        seconds: the probe took.
        load_seconds: importing and loading the teacher.
        decode_rate: pictures decoded a second, with all threads.
        teacher_rate: pictures embedded a second by the teacher.
        training_rate: pictures a second of the student's training steps.
        dim: length of an embedding.
        image_size: side of the student's input, pixels.
        parameters: of the student.
        device: both ran on.
    """

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
    write_json(path, {"format": FORMAT, "version": VERSION, **asdict(probe)})


def load_probe(path: Path, of: str) -> Probe | None:
    """Read the probe of the same things; None where there is none that can be used."""
    try:
        card = read_json(path, "the probe")
        check_format(path, card, FORMAT, VERSION)
        rates = [float(card[name]) for name in ("decode_rate", "teacher_rate", "training_rate")]
        if card["of"] != of or min(rates) <= 0:
            return None
        return Probe(
            of=of,
            seconds=float(card["seconds"]),
            load_seconds=float(card["load_seconds"]),
            decode_rate=rates[0],
            teacher_rate=rates[1],
            training_rate=rates[2],
            dim=int(card["dim"]),
            image_size=int(card["image_size"]),
            parameters=int(card["parameters"]),
            device=str(card["device"]),
        )
    except (ClipDistillError, KeyError, TypeError, ValueError):
        return None  # it is only measured again

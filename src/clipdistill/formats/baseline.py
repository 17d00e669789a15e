"""The teacher's baseline: how well the teacher itself separates the classes (`baseline.json`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ..core.errors import FormatError
from ..core.files import check_format, describing, read_json, write_json

FORMAT = "clipdistill.baseline"
VERSION = 1


@dataclass(frozen=True)
class Baseline:
    """How well a teacher separates the classes; no student of it can be expected to do better.

    Confidence, margin and counts are of the unlabelled pictures, accuracy is of the labelled.

    Attributes:
        teacher: its name.
        labelled: whether there were labelled pictures.
        images: unlabelled pictures.
        labelled_images: labelled ones.
        accuracy: zero-shot top-1, a share; None without labels.
        confidence: mean probability of the best label.
        margin: mean difference of the probabilities of the two best labels.
        counts: label -> pictures that the teacher gave it.
        per_class: label -> accuracy, of the classes that have labelled pictures.
        overlapping: (label, label, cosine of their text embeddings), the nearest first.
        empty: labels that no picture was given.
    """

    teacher: str
    labelled: bool
    images: int
    labelled_images: int
    accuracy: float | None
    confidence: float
    margin: float
    counts: dict[str, int]
    per_class: dict[str, float]
    overlapping: tuple[tuple[str, str, float], ...]
    empty: tuple[str, ...]


def save_baseline(path: Path, baseline: Baseline) -> None:
    """Write `baseline.json` atomically."""
    write_json(path, {"format": FORMAT, "version": VERSION, **asdict(baseline)})


def load_baseline(path: Path) -> Baseline:
    """Read `baseline.json`.

    Raises:
        InputError: there is none.
        FormatError: it cannot be read, or is of a newer version.
    """
    card = read_json(path, "the teacher's baseline")
    check_format(path, card, FORMAT, VERSION)
    with describing(path):
        try:
            return Baseline(
                teacher=str(card["teacher"]),
                labelled=bool(card["labelled"]),
                images=int(card["images"]),
                labelled_images=int(card["labelled_images"]),
                accuracy=None if card["accuracy"] is None else float(card["accuracy"]),
                confidence=float(card["confidence"]),
                margin=float(card["margin"]),
                counts={str(label): int(count) for label, count in card["counts"].items()},
                per_class={str(label): float(share) for label, share in card["per_class"].items()},
                overlapping=tuple(
                    (str(a), str(b), float(near)) for a, b, near in card["overlapping"]
                ),
                empty=tuple(str(label) for label in card["empty"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"a teacher's baseline cannot be read: {error!r}") from error

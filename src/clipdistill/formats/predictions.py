"""What each model says of each picture, for a report: `predictions.json`.

{"format": "clipdistill.predictions", "version": 1, "labels": [...],
 "pictures": [{"path": "/photos/dog/1.jpg", "key": "dog/1.jpg", "truth": 3 or null}, ...],
 "models": [{"model": "student", "runtime": "torch", "role": "student",
             "ranked": [[[3, 0.91], [0, 0.05], [7, 0.01]], ...],  best first; null: not read
             "cosine": [0.83, ...]}]}                            null: no reference
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ..core.errors import FormatError
from ..core.files import check_format, describing, read_json, write_json

FORMAT = "clipdistill.predictions"
VERSION = 1
MOST_RANKED = 3
"""Labels kept for each picture."""

Ranked = tuple[tuple[int, float], ...]
"""Of one picture: (index of a label, its probability), the best first."""


@dataclass(frozen=True)
class Picture:
    """A picture that was asked about.

    Attributes:
        path: the file (a tar, for a picture in one).
        key: its name inside the folder.
        truth: index of its true label; None without labels.
    """

    path: str
    key: str
    truth: int | None


@dataclass(frozen=True)
class ModelPredictions:
    """What one model says.

    Attributes:
        model: its name.
        runtime: what ran it.
        role: "teacher" or "student".
        ranked: one a picture; None where the picture could not be read.
        cosine: with the reference's embedding of the picture, likewise; None without one.
    """

    model: str
    runtime: str
    role: str
    ranked: tuple[Ranked | None, ...]
    cosine: tuple[float | None, ...]


@dataclass(frozen=True)
class Predictions:
    """What several models say of the same pictures.

    Attributes:
        labels: in order.
        pictures: in order.
        models: in the order in which they were measured.
    """

    labels: tuple[str, ...]
    pictures: tuple[Picture, ...]
    models: tuple[ModelPredictions, ...]


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Write them atomically; numbers are rounded to four digits."""
    models = [
        {
            "model": one.model,
            "runtime": one.runtime,
            "role": one.role,
            "ranked": [
                None if ranked is None else [[label, round(share, 4)] for label, share in ranked]
                for ranked in one.ranked
            ],
            "cosine": [None if cosine is None else round(cosine, 4) for cosine in one.cosine],
        }
        for one in predictions.models
    ]
    pictures = [asdict(picture) for picture in predictions.pictures]
    values = {"labels": list(predictions.labels), "pictures": pictures, "models": models}
    write_json(path, {"format": FORMAT, "version": VERSION, **values})


def load_predictions(path: Path) -> Predictions:
    """Read what `save_predictions` wrote.

    Raises:
        InputError: no such file.
        FormatError: it cannot be read, or indices and counts do not agree.
    """
    value = read_json(path, "what models say of pictures")
    check_format(path, value, FORMAT, VERSION, former="clipdistill.opinions")
    with describing(path):
        try:
            labels = tuple(str(label) for label in value["labels"])
            pictures = tuple(
                Picture(str(one["path"]), str(one["key"]), _index(one["truth"], len(labels)))
                for one in value["pictures"]
            )
            models = tuple(
                ModelPredictions(
                    str(one["model"]),
                    str(one["runtime"]),
                    str(one["role"]),
                    tuple(_ranked(ranked, len(labels)) for ranked in one["ranked"]),
                    tuple(None if value is None else float(value) for value in one["cosine"]),
                )
                for one in value["models"]
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"predictions cannot be read: {error!r}") from error
        for model in models:
            if not len(model.ranked) == len(model.cosine) == len(pictures):
                raise FormatError(f"predictions: {model.model} has another number of pictures")
    return Predictions(labels, pictures, models)


def _ranked(value: object, labels: int) -> Ranked | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value:
        raise ValueError("a picture without labels")
    found = []
    for index, share in value:
        found.append((_known(index, labels), float(share)))
    return tuple(found)


def _index(value: object, labels: int) -> int | None:
    return None if value is None else _known(value, labels)


def _known(value: object, labels: int) -> int:
    if not isinstance(value, int) or not 0 <= value < labels:
        raise ValueError(f"no label has the index {value!r}")
    return value

"""`predictions.json`: the labels and probabilities that each model gives each image.

{"format": "clipdistill.predictions", "version": 1, "labels": [...],
 "pictures": [{"path": "/photos/dog/1.jpg", "key": "dog/1.jpg", "truth": 3 or null,
               "truths": [3, 5] or null}, ...],
 "models": [{"model": "student", "runtime": "torch", "role": "student",
             "ranked": [[[3, 0.91], [0, 0.05], [7, 0.01]], ...],  best first; null: not read
             "cosine": [0.83, ...]}]}                            null: no reference
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from ..core.errors import FormatError
from ..core.files import check_format, describing, read_json, write_json
from ..core.results import Versioned, from_json, to_json

MOST_RANKED = 3
"""Labels stored per image."""

Ranked = tuple[tuple[int, float], ...]
"""Labels of one image, the best first: (index of the label, its probability)."""


@dataclass(frozen=True)
class Picture:
    """One image that the models were measured on.

    Attributes:
        path: file of the image; the tar, for an image in a tar.
        key: key of the image below its folder.
        truth: index of its true label; None without labels, and where images may have several.
        truths: indices of its true labels, which may be none; None unless images may have several.
    """

    path: str
    key: str
    truth: int | None
    truths: tuple[int, ...] | None = None

    @property
    def true_labels(self) -> frozenset[int] | None:
        """Indices of its true labels, however many; None without labels."""
        if self.truths is not None:
            return frozenset(self.truths)
        return None if self.truth is None else frozenset([self.truth])


@dataclass(frozen=True)
class ModelPredictions:
    """Predictions of one model.

    Attributes:
        model: name of the model.
        runtime: runtime that it ran in.
        role: "teacher" or "student".
        ranked: one per image; None where the image could not be read.
        cosine: cosine with the reference's embedding, one per image; None where the image could not
            be read, or without a reference.
    """

    model: str
    runtime: str
    role: str
    ranked: tuple[Ranked | None, ...]
    cosine: tuple[float | None, ...]


@dataclass(frozen=True)
class Predictions(Versioned):
    """Predictions of several models for the same images.

    Attributes:
        labels: all labels, in order.
        pictures: all images, in order.
        models: one per model, in the order of measuring.

    Raises:
        ValueError: an index is out of range, or a model has another number of images.
    """

    FORMAT: ClassVar[str] = "clipdistill.predictions"
    VERSION: ClassVar[int] = 1

    labels: tuple[str, ...]
    pictures: tuple[Picture, ...]
    models: tuple[ModelPredictions, ...]

    def __post_init__(self) -> None:
        known = range(len(self.labels))
        true = (index for one in self.pictures for index in (one.truth, *(one.truths or ())))
        if any(index is not None and index not in known for index in true):
            raise ValueError("no label has the index of a true label")
        for model in self.models:
            if not len(model.ranked) == len(model.cosine) == len(self.pictures):
                raise ValueError(f"{model.model} has another number of images")
            for ranked in model.ranked:
                if ranked is not None and not (ranked and all(i in known for i, _ in ranked)):
                    raise ValueError(f"{model.model} has an image without labels of the list")


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Write `predictions.json` atomically; numbers are rounded to four digits."""
    models = tuple(
        replace(
            one,
            ranked=tuple(
                None
                if ranked is None
                else tuple((label, round(share, 4)) for label, share in ranked)
                for ranked in one.ranked
            ),
            cosine=tuple(None if value is None else round(value, 4) for value in one.cosine),
        )
        for one in predictions.models
    )
    write_json(path, to_json(replace(predictions, models=models)))


def load_predictions(path: Path) -> Predictions:
    """Read what `save_predictions` wrote.

    Raises:
        InputError: there is no such file.
        FormatError: it cannot be read, or indices and counts do not agree.
    """
    value = read_json(path, "the predictions")
    check_format(
        path, value, Predictions.FORMAT, Predictions.VERSION, former="clipdistill.opinions"
    )
    with describing(path):
        try:
            return from_json(Predictions, value)
        except ValueError as error:
            raise FormatError(f"the predictions cannot be read: {error}") from error

"""predict: pictures -> ranked labels with probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from ..core.progress import track
from ..core.results import Result, Table, list_some
from ..core.signatures import NameOrPath
from ..core.wording import percent
from ..core.zeroshot import top_k
from ..images.loading import batched, default_workers, load_pixels, stack
from ..images.sources import ImageItem, match_images
from ..models.recognizer import UNKNOWN, open_recognizer


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture.

    Attributes:
        image: the file.
        ranked: (label, probability), the likeliest first; empty when it could not be read.
        unknown: the likeliest label is not likely enough to be an answer.
        reason: why it could not be read; empty when it could.
    """

    image: str
    ranked: tuple[tuple[str, float], ...]
    unknown: bool = False
    reason: str = ""


@dataclass(frozen=True, repr=False)
class PredictResult(Result):
    """What `predict` found.

    Attributes:
        model: the model.
        classes: how many labels it chose from.
        predictions: one a picture, in the order given.
    """

    model: str
    classes: int
    predictions: tuple[Prediction, ...]

    @property
    def failures(self) -> tuple[Prediction, ...]:
        """The pictures that could not be read."""
        return tuple(one for one in self.predictions if one.reason)

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        good = [one for one in self.predictions if not one.reason]
        shown = _one_picture(good[0]) if len(good) == 1 else _many_pictures(good, self.classes)
        return [shown, *list_some("Not read:", [f"{f.image}: {f.reason}" for f in self.failures])]


def predict(
    model: NameOrPath,
    /,
    *images: NameOrPath,
    text: Path | None = None,
    prompts: Path | None = None,
    top_k: int = 5,
    threshold: float | None = None,
    batch_size: int = 32,
    num_workers: int | None = None,
    device: str = "auto",
    arch: str | None = None,
    image_size: int | None = None,
) -> PredictResult:
    """Classify pictures with an ONNX file, an engine, a student or a teacher.

    Args:
        model: an .onnx or .engine file, a student's folder or checkpoint (.pth), or a teacher
            (NAME/PRETRAINED, hf-hub:ORG/REPO, local-dir:FOLDER); "openvino:FILE.onnx" runs the
            file in OpenVINO.
        images: files, folders (searched recursively) or globs.
        text: text embeddings from `clipdistill embed-text`; a classifier's file carries its own,
            and this overrides them.
        prompts: the prompts file of a bare .npy (the older scripts'), for its labels.
        top_k: labels to show for each picture.
        threshold: probability below which the answer is "unknown"; what `evaluate --calibrate`
            stored unless given, 0: never.
        batch_size: pictures the model sees at once.
        num_workers: threads for decoding; one a processor unless given.
        device: auto, cpu, cuda, cuda:1 ...; tensorrt for ONNX Runtime's TensorRT.
        arch: timm's model name, only for checkpoints that do not tell (the older scripts').
        image_size: side of the input in pixels, likewise.

    Raises:
        InputError: no pictures, none that can be read, or no labels to choose from.
        MismatchError: the text embeddings are another teacher's.
    """
    if not images:
        raise InputError(f"No images given. Expected: predict {model} IMAGE ...")
    if top_k < 1 or batch_size < 1:
        raise InputError("--top-k and --batch-size should be 1 or more.")
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"--threshold {threshold}: expected a probability, 0 to 1.")
    recognizer = open_recognizer(
        model, text=text, prompts=prompts, device=device, arch=arch, image_size=image_size
    )
    labels = recognizer.labels
    least = recognizer.threshold if threshold is None else threshold
    items = match_images([str(image) for image in images])
    workers = default_workers() if num_workers is None else num_workers
    found: dict[tuple[Path, str], Prediction] = {}
    loaded = load_pixels(items, recognizer.preprocess, workers=workers)
    with track("classifying", len(items), "images") as step:
        for good, failed in batched(loaded, batch_size):
            for one in failed:
                found[_identity(one.item)] = Prediction(_name(one.item), (), reason=one.reason)
            if good:
                scores = recognizer.probabilities(stack(good))
                for one, row in zip(good, scores, strict=True):
                    ranked = _rank(row, labels, top_k)
                    unknown = ranked[0][1] < least
                    found[_identity(one.item)] = Prediction(_name(one.item), ranked, unknown)
            step(len(good) + len(failed))
    predictions = tuple(found[_identity(item)] for item in items)
    _check_any(predictions)
    return PredictResult(model, len(labels), predictions)


def _rank(
    scores: NDArray[np.float32], labels: Sequence[str], most: int
) -> tuple[tuple[str, float], ...]:
    return tuple((labels[index], float(scores[index])) for index in top_k(scores[None], most)[0])


def _check_any(predictions: Sequence[Prediction]) -> None:
    if all(one.reason for one in predictions):
        reasons = "; ".join(f"{one.image}: {one.reason}" for one in predictions[:3])
        raise InputError(f"None of {len(predictions)} images could be read: {reasons}.")


def _identity(item: ImageItem) -> tuple[Path, str]:
    return item.path, item.key


def _name(item: ImageItem) -> str:
    """The file; for a picture in a tar, its place in it."""
    return str(item.path) if item.offset is None else item.key


def _one_picture(one: Prediction) -> Table:
    rows = tuple((label, percent(share)) for label, share in one.ranked)
    title = f"{one.image}: {UNKNOWN} (no label is likely enough)" if one.unknown else one.image
    return Table(title, ("label", ">probability"), rows)


def _many_pictures(good: Sequence[Prediction], classes: int) -> Table:
    rows = []
    for one in good:
        (label, share), *rest = one.ranked
        second = f"{rest[0][0]} ({percent(rest[0][1])})" if rest else ""
        if one.unknown:
            label, second = UNKNOWN, f"{label} ({percent(share)})"
        rows.append((one.image, label, percent(share), second))
    title = f"{len(good)} images, {classes} labels"
    return Table(title, ("image", "label", ">probability", "runner-up"), tuple(rows))

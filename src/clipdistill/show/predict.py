"""predict: images -> ranked labels with probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import InputError, OptionError
from ..core.progress import track
from ..core.results import Result, Table, list_some
from ..core.signatures import NameOrPath
from ..core.wording import UNKNOWN, many, percent
from ..core.zeroshot import judged
from ..images.loading import batched, default_workers, load_pixels, stack
from ..images.sources import ImageItem, match_images
from ..models.recognizer import open_recognizer


@dataclass(frozen=True)
class Prediction:
    """Prediction for one image.

    Attributes:
        image: file, or place in a tar.
        ranked: (label, probability) pairs, the best first; empty when the image could not be read.
        unknown: whether it has no label.
        reason: why the image could not be read; empty when it could.
        labels: labels that it has: the best one if its probability reaches the threshold; of
            independent classes all that reach theirs, which are also the first of `ranked`.
    """

    image: str
    ranked: tuple[tuple[str, float], ...]
    unknown: bool = False
    reason: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class PredictResult(Result):
    """What `predict` found.

    Attributes:
        model: MODEL as given.
        classes: number of labels to choose from.
        predictions: one prediction per image, in the order given.
        independent: whether an image may have several labels or none.
    """

    model: str
    classes: int
    predictions: tuple[Prediction, ...]
    independent: bool = False

    @property
    def failures(self) -> tuple[Prediction, ...]:
        """Predictions of the images that could not be read."""
        return tuple(one for one in self.predictions if one.reason)

    def records(self) -> list[dict[str, Any]]:
        """See `Result.records`: a row per image and label, the best label first."""
        rows = []
        for one in self.predictions:
            about = {"image": one.image, "unknown": one.unknown, "reason": one.reason}
            for rank, (label, share) in enumerate(one.ranked or (("", None),), 1):
                has = label in one.labels
                row = {**about, "rank": rank, "label": label, "probability": share, "has": has}
                rows.append(row)
        columns = ("image", "rank", "label", "probability", "unknown", "reason", "has")
        return [{name: row[name] for name in columns} for row in rows]

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        good = [one for one in self.predictions if not one.reason]
        if self.independent:
            shown = _several_labels(good, self.classes)
        else:
            shown = _one_image(good[0]) if len(good) == 1 else _many_images(good, self.classes)
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
    """Classify images with an ONNX file, an engine, a student or a teacher.

    Args:
        model: .onnx, .tflite or .engine file, student's folder or checkpoint (.pth), or teacher
            (NAME/PRETRAINED, hf-hub:ORG/REPO, local-dir:FOLDER); "openvino:FILE.onnx" runs the
            file in OpenVINO.
        images: files, folders (searched recursively) or globs.
        text: text embeddings from `clipdistill embed-text`; they override those in a classifier's
            file.
        prompts: prompts file with the labels of a bare .npy (made by the older scripts).
        top_k: number of labels to show per image; of independent classes, those that it has are
            shown even if they are more.
        threshold: probability from 0 to 1 below which the answer is "unknown"; 0: never. Default:
            the threshold that `evaluate --calibrate` stored. Of independent classes (see `adapt`):
            the probability from which an image has a label, in place of each label's own.
        batch_size: number of images per forward pass.
        num_workers: number of threads for decoding; one per processor unless given.
        device: device to run on: auto, cpu, cuda, cuda:1 ...; tensorrt for ONNX Runtime's TensorRT.
        arch: timm's model name; only for the older scripts' checkpoints, which do not record it.
        image_size: side of the input in pixels; only for the older scripts' checkpoints.

    Raises:
        InputError: there are no images, no readable images, or no labels.
        MismatchError: the text embeddings were made with another teacher.
    """
    if not images:
        raise OptionError(f"No images given. Expected: clipdistill predict {model} IMAGE ...")
    recognizer = open_recognizer(
        model, text=text, prompts=prompts, device=device, arch=arch, image_size=image_size
    )
    labels = recognizer.labels
    least = recognizer.least(threshold)
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
                    best, has = judged(row, labels, top_k, least)
                    found[_identity(one.item)] = Prediction(
                        _name(one.item), best, unknown=not has, labels=has
                    )
            step(len(good) + len(failed))
    predictions = tuple(found[_identity(item)] for item in items)
    _check_any(predictions)
    return PredictResult(model, len(labels), predictions, recognizer.thresholds is not None)


def _check_any(predictions: Sequence[Prediction]) -> None:
    if all(one.reason for one in predictions):
        reasons = "; ".join(f"{one.image}: {one.reason}" for one in predictions[:3])
        raise InputError(f"None of {many(len(predictions), 'image')} could be read: {reasons}.")


def _identity(item: ImageItem) -> tuple[Path, str]:
    return item.path, item.key


def _name(item: ImageItem) -> str:
    """Name an image by its file, or by its place in a tar."""
    return str(item.path) if item.offset is None else item.key


def _one_image(one: Prediction) -> Table:
    rows = tuple((label, percent(share)) for label, share in one.ranked)
    title = f"{one.image}: {UNKNOWN} (no label is likely enough)" if one.unknown else one.image
    return Table(title, ("label", ">probability"), rows)


def _several_labels(good: Sequence[Prediction], classes: int) -> Table:
    """The labels of each image, and the best one that it does not have."""
    rows = []
    for one in good:
        pairs = [f"{label} ({percent(share)})" for label, share in one.ranked]
        count = len(one.labels)
        rest = pairs[count] if len(pairs) > count else ""
        rows.append((one.image, ", ".join(pairs[:count]) or UNKNOWN, rest))
    title = f"{many(len(good), 'image')}, {many(classes, 'label')} independent of one another"
    return Table(title, ("image", "labels", "next"), tuple(rows))


def _many_images(good: Sequence[Prediction], classes: int) -> Table:
    rows = []
    for one in good:
        (label, share), *rest = one.ranked
        second = f"{rest[0][0]} ({percent(rest[0][1])})" if rest else ""
        if one.unknown:
            label, second = UNKNOWN, f"{label} ({percent(share)})"
        rows.append((one.image, label, percent(share), second))
    title = f"{many(len(good), 'image')}, {many(classes, 'label')}"
    return Table(title, ("image", "label", ">probability", "runner-up"), tuple(rows))

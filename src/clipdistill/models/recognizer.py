"""A model together with its classes: images -> probabilities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import OptionError
from ..core.zeroshot import Independent, Logits, probabilities
from ..formats.prompts import load_prompts
from ..formats.text import TextEmbeddings, load_text
from ..images.preprocess import Preprocess
from .embedder import Classifier, Embedder, carried_text
from .open import open_embedder


@dataclass(frozen=True)
class Recognizer:
    """A model and the classes to recognise.

    Attributes:
        embedder: the model.
        text: the classes.
        own: whether the classes are the file's own; then its own graph computes probabilities.
    """

    embedder: Embedder
    text: TextEmbeddings
    own: bool

    @property
    def name(self) -> str:
        """Name of the model, for tables and messages."""
        return self.embedder.spec.name

    @property
    def runtime(self) -> str:
        """Runtime: "torch", "onnxruntime", "openvino", "tensorrt" or "litert"."""
        return self.embedder.spec.runtime

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities."""
        return self.text.labels

    @property
    def preprocess(self) -> Preprocess:
        """Preprocessing that turns an image into the model's input."""
        return self.embedder.spec.preprocess

    @property
    def logits(self) -> Logits:
        """What gives probabilities: calibrated for a student, its own for a teacher."""
        return logits_for(self.embedder, self.text)

    @property
    def threshold(self) -> float:
        """Probability below which the answer is "unknown"; 0: never.

        Calibration applies to the student, so a teacher's threshold is 0.
        """
        return 0.0 if self.embedder.spec.role == "teacher" else self.text.threshold

    @property
    def thresholds(self) -> NDArray[np.float32] | None:
        """Probability of each class (C,) from which an image has the label.

        None: every image has one label.
        """
        logits = self.logits
        if not isinstance(logits, Independent):
            return None
        return np.array(logits.thresholds, np.float32)

    def least(self, threshold: float | None) -> float | NDArray[np.float32]:
        """Probability from which an image has a label: what `zeroshot.judged` takes.

        Args:
            threshold: in place of the model's own; None: those.
        """
        own = self.thresholds
        if own is None:
            return self.threshold if threshold is None else threshold
        return own if threshold is None else np.full_like(own, threshold)

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classify resized and cropped RGB uint8 (N, S, S, 3); returns float32 (N, C)."""
        if self.own and isinstance(self.embedder, Classifier):
            return self.embedder.classify_pixels(pixels)
        return probabilities(self.embedder.embed_pixels(pixels), self.text.vectors, self.logits)

    def with_text(self, text: TextEmbeddings) -> Recognizer:
        """Return the same model with other classes.

        Raises:
            MismatchError: the text embeddings were made with another teacher.
        """
        self.embedder.spec.check_space(text.teacher, "the classes")
        return replace(self, text=text, own=False)


def logits_for(embedder: Embedder, text: TextEmbeddings) -> Logits:
    """Choose what turns this model's cosines with `text` into probabilities."""
    return text.teacher_logits if embedder.spec.role == "teacher" else text.logits


def open_recognizer(
    model: str,
    *,
    text: Path | None = None,
    prompts: Path | None = None,
    device: str = "auto",
    arch: str | None = None,
    image_size: int | None = None,
) -> Recognizer:
    """Open a model with the given classes, or with those in its file.

    Args:
        model: MODEL, as for `open_embedder`.
        text: text embeddings; None: those in the model's file.
        prompts: prompts file with the labels of a bare .npy (made by the older scripts).
        device: device, as for `open_embedder`.
        arch: timm's model name, as for `open_embedder`.
        image_size: side of the input in pixels, as for `open_embedder`.

    Raises:
        InputError: there are no classes.
        MismatchError: the text embeddings were made with another teacher.
    """
    embedder = open_embedder(model, arch=arch, image_size=image_size, device=device)
    if text is not None:
        classes = load_text(text, () if prompts is None else load_prompts(prompts).labels)
        embedder.spec.check_space(classes.teacher, text)
        return Recognizer(embedder, classes, own=False)
    if prompts is not None:
        raise OptionError(
            "--prompts only names the labels of --text. Add --text with the text embeddings."
        )
    own = carried_text(embedder)
    if own is None:
        raise OptionError(
            f"{embedder.spec.name} has no labels. Add --text with text embeddings, made by: "
            "clipdistill embed-text"
        )
    return Recognizer(embedder, own, own=True)

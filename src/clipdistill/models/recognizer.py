"""A model together with its classes: pictures -> probabilities, for whatever shows answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from ..core.zeroshot import LogitScale, probabilities
from ..formats.prompts import load_prompts
from ..formats.text import TextEmbeddings, load_text
from ..images.preprocess import Preprocess
from .embedder import Classifier, Embedder, carried_text
from .open import open_embedder

UNKNOWN = "unknown"
"""The answer when no label is likely enough."""


@dataclass(frozen=True)
class Recognizer:
    """Recognises classes in pictures.

    Attributes:
        embedder: the model.
        text: the classes.
        own: they are the model's own, so its file answers with its own graph.
    """

    embedder: Embedder
    text: TextEmbeddings
    own: bool

    @property
    def name(self) -> str:
        """The model, for messages."""
        return self.embedder.spec.name

    @property
    def runtime(self) -> str:
        """What runs it."""
        return self.embedder.spec.runtime

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.text.labels

    @property
    def preprocess(self) -> Preprocess:
        """What turns a picture into its input."""
        return self.embedder.spec.preprocess

    @property
    def logits(self) -> LogitScale:
        """The calibrated scale of a student, a teacher's own."""
        return logits_for(self.embedder, self.text)

    @property
    def threshold(self) -> float:
        """Probability below which the answer is "unknown"; 0: never.

        A calibration is a student's; the teacher has none.
        """
        return 0.0 if self.embedder.spec.role == "teacher" else self.text.threshold

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Resized and cropped RGB uint8 (N, S, S, 3) -> float32 (N, C)."""
        if self.own and isinstance(self.embedder, Classifier):
            return self.embedder.classify_pixels(pixels)
        return probabilities(self.embedder.embed_pixels(pixels), self.text.vectors, self.logits)

    def with_text(self, text: TextEmbeddings) -> Recognizer:
        """The same model with other classes.

        Raises:
            MismatchError: they are another teacher's.
        """
        self.embedder.spec.check_space(text.teacher, "the classes")
        return replace(self, text=text, own=False)


def logits_for(embedder: Embedder, text: TextEmbeddings) -> LogitScale:
    """What turns this model's cosines with `text` into logits."""
    return text.teacher.logits if embedder.spec.role == "teacher" else text.logits


def open_recognizer(
    model: str,
    *,
    text: Path | None = None,
    prompts: Path | None = None,
    device: str = "auto",
    arch: str | None = None,
    image_size: int | None = None,
) -> Recognizer:
    """Open a model with the classes given, else its own.

    Args:
        model: as `open_embedder` takes it.
        text: text embeddings; None: those the model's file carries.
        prompts: the prompts file of a bare .npy (the older scripts'), for its labels.
        device: as `open_embedder` takes it.
        arch: likewise.
        image_size: likewise.

    Raises:
        InputError: there are no classes.
        MismatchError: the text embeddings are another teacher's.
    """
    embedder = open_embedder(model, arch=arch, image_size=image_size, device=device)
    if text is not None:
        classes = load_text(text, () if prompts is None else load_prompts(prompts).labels)
        embedder.spec.check_space(classes.teacher, text)
        return Recognizer(embedder, classes, own=False)
    if prompts is not None:
        raise InputError("--prompts only names the labels of --text; give the text embeddings too.")
    own = carried_text(embedder)
    if own is None:
        raise InputError(
            f"{embedder.spec.name} carries no labels. Add --text with text embeddings, made by: "
            "clipdistill embed-text"
        )
    return Recognizer(embedder, own, own=True)

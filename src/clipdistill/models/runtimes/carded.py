"""The part that all runtimes share: an Embedder around a file with a card."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import FormatError, MismatchError, OptionError
from ...formats.classifier import EMBEDDINGS, INPUT, PROBABILITIES, OnnxCard
from ...formats.text import TextEmbeddings
from ..embedder import EmbedderSpec


class CardedEmbedder(ABC):
    """An Embedder around a file whose card describes its input and outputs.

    Attributes:
        spec: description of the model.
        card: metadata of the file.
    """

    def __init__(self, spec: EmbedderSpec, card: OnnxCard) -> None:
        self.spec = spec
        self.card = card

    @property
    def text(self) -> TextEmbeddings | None:
        """Classes in the file; None for a bare embedder."""
        return self.card.text

    @abstractmethod
    def compute(self, output: str, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute one output: contiguous float32 (N, 3, S, S), N > 0 -> float32 (N, ...).

        Raises:
            FormatError: the runtime cannot run the file.
        """

    def embed_images(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Embedder.embed_images`."""
        return self._checked(EMBEDDINGS, pixels)

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Embedder.embed_pixels`."""
        return self._checked(EMBEDDINGS, self.spec.preprocess.normalize(pixels))

    def classify_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Classifier.classify_pixels`."""
        if self.text is None:
            raise OptionError(
                f"{self.spec.name} has no labels. Add --text, or use `clipdistill export --text`."
            )
        return self._checked(PROBABILITIES, self.spec.preprocess.normalize(pixels))

    def _checked(self, output: str, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        side = self.spec.preprocess.size
        if pixels.shape[1:] != (3, side, side):
            raise MismatchError(
                f"{self.spec.name} takes images of shape (N, 3, {side}, {side}), found "
                f"{pixels.shape}. Prepare them with its own preprocessing."
            )
        if not len(pixels):
            return np.zeros((0, wanted_outputs(self.card)[output]), np.float32)
        return self.compute(output, np.ascontiguousarray(pixels))


def wanted_outputs(card: OnnxCard) -> dict[str, int]:
    """Outputs that the card describes: name -> width."""
    wanted = {EMBEDDINGS: card.dim}
    if card.text is not None:
        wanted[PROBABILITIES] = len(card.text.labels)
    return wanted


def check_graph(
    path: Path,
    card: OnnxCard,
    inputs: Mapping[str, Sequence[object]],
    outputs: Mapping[str, Sequence[object]],
) -> None:
    """Check that a network has the input and outputs that its card describes.

    Args:
        path: file, for the message.
        card: metadata of the file.
        inputs: name -> type and shape without N.
        outputs: name -> type and shape without N; further outputs are allowed.

    Raises:
        FormatError: an input or output is missing or different.
    """
    side = card.preprocess.size
    wanted = {name: ["float32", width] for name, width in wanted_outputs(card).items()}
    found = {name: list(value) for name, value in outputs.items()}
    if {name: list(value) for name, value in inputs.items()} != {
        INPUT: ["float32", 3, side, side]
    } or any(found.get(name) != value for name, value in wanted.items()):
        raise FormatError(
            f"{path}: its network does not fit its metadata (expected {INPUT} (N, 3, {side}, "
            f"{side}) and outputs {wanted}, found {list(inputs)} and {found}). "
            "Make it again with: clipdistill export"
        )

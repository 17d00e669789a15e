"""What all files with a card have in common, whichever runtime computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import FormatError, InputError, MismatchError
from ...formats.classifier import EMBEDDINGS, INPUT, PROBABILITIES, OnnxCard
from ...formats.text import TextEmbeddings
from ..embedder import EmbedderSpec


class CardedEmbedder(ABC):
    """An Embedder around a file whose card says what it takes and gives.

    Attributes:
        spec: what it is.
        card: what the file says of itself.
    """

    def __init__(self, spec: EmbedderSpec, card: OnnxCard) -> None:
        self.spec = spec
        self.card = card

    @property
    def text(self) -> TextEmbeddings | None:
        """The classes it carries; None for a bare embedder."""
        return self.card.text

    @abstractmethod
    def compute(self, output: str, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """One output of the network: contiguous float32 (N, 3, S, S), N > 0 -> float32 (N, ...).

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
            raise InputError(
                f"{self.spec.name} carries no labels. Give --text, or export it with --text."
            )
        return self._checked(PROBABILITIES, self.spec.preprocess.normalize(pixels))

    def _checked(self, output: str, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        side = self.spec.preprocess.size
        if pixels.shape[1:] != (3, side, side):
            raise MismatchError(
                f"{self.spec.name} takes pictures of shape (N, 3, {side}, {side}), found "
                f"{pixels.shape}. Prepare them with its own preprocessing."
            )
        if not len(pixels):
            return np.zeros((0, wanted_outputs(self.card)[output]), np.float32)
        return self.compute(output, np.ascontiguousarray(pixels))


def wanted_outputs(card: OnnxCard) -> dict[str, int]:
    """Output -> its width, as the card promises."""
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
    """Check that a network has the input and outputs that its card promises.

    Args:
        path: the file, for the message.
        card: what it says of itself.
        inputs: name -> its type and its shape without N.
        outputs: name -> likewise; more than promised is fine.

    Raises:
        FormatError: it has not.
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


def first_line(error: BaseException) -> str:
    """The first line of a message, for another message."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]

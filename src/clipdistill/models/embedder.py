"""The one abstraction that carries the rest: something that embeds images.

The teacher, the PyTorch student, an ONNX file in any runtime and a TensorRT engine all are
Embedders, so predict, evaluate and benchmark are written once and can compare anything with
anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..core.errors import MismatchError
from ..formats.cards import TeacherCard
from ..formats.text import TextEmbeddings
from ..images.preprocess import Preprocess


@dataclass(frozen=True)
class EmbedderSpec:
    """What an Embedder is.

    Attributes:
        name: for tables and messages: a file, a folder or a model's name.
        runtime: "torch", "onnxruntime", "openvino" or "tensorrt".
        role: "teacher" or "student".
        teacher: whose embedding space it speaks; None when unknown (older checkpoints).
        dim: length of an embedding.
        preprocess: what turns a picture into its input.
        size_bytes: of its weights on disk (or in memory, for a teacher from a hub).
        arch: timm's name of the network; empty when unknown.
        precision: of what is computed: "fp32", "fp16", "bf16", "int8", "int8+fp16"; empty when
            unknown.
        device: where it runs; empty when unknown.
    """

    name: str
    runtime: str
    role: str
    teacher: TeacherCard | None
    dim: int
    preprocess: Preprocess
    size_bytes: int
    arch: str = ""
    precision: str = ""
    device: str = ""

    def check_space(self, other: TeacherCard, what: object) -> None:
        """Check that `other`, the teacher of `what`, shares this Embedder's space.

        Raises:
            MismatchError: it does not.
        """
        if self.teacher is not None:
            self.teacher.check_same(other, self.name, what)
        elif self.dim != other.dim:
            raise MismatchError(
                f"{self.name} gives embeddings of {self.dim} dimensions, but {what} has "
                f"{other.dim}. Use the ones of the teacher it was trained with."
            )


class Embedder(Protocol):
    """Embeds images."""

    @property
    def spec(self) -> EmbedderSpec:
        """What it is."""

    def embed_images(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalised float32 (N, 3, H, W) -> float32 (N, D) of unit length."""

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Resized and cropped uint8 (N, H, W, 3) -> float32 (N, D) of unit length."""


@runtime_checkable
class Classifier(Embedder, Protocol):
    """An Embedder whose file also carries classes (or could)."""

    @property
    def text(self) -> TextEmbeddings | None:
        """The classes it carries; None for a bare embedder."""

    def classify_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The file's own answer: uint8 (N, H, W, 3) -> probabilities float32 (N, C).

        Raises:
            InputError: it carries no classes.
        """


def carried_text(embedder: Embedder) -> TextEmbeddings | None:
    """The classes that an Embedder's own file carries, if any."""
    return embedder.text if isinstance(embedder, Classifier) else None

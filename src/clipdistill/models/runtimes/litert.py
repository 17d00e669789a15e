"""Run LiteRT files (`.tflite`), as phones and boards do; on this machine's processor."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core import zeroshot
from ...core.errors import FormatError, InputError, MissingExtraError, first_line
from ...formats.classifier import EMBEDDINGS, OnnxCard
from ...formats.litert import read_litert
from ..embedder import EmbedderSpec
from .carded import CardedEmbedder


class LiteRtEmbedder(CardedEmbedder):
    """An Embedder around a `.tflite` file made by `clipdistill export --target litert`.

    Args:
        path: .tflite file.
        device: "auto" or "cpu".
        threads: CPU threads; LiteRT's own choice unless given.

    Raises:
        InputError: no such file, or another device.
        FormatError: the file is damaged, or was not made by `clipdistill export`.
        MissingExtraError: ai-edge-litert is not installed.
    """

    def __init__(self, path: Path, *, device: str = "auto", threads: int | None = None) -> None:
        # LiteRT reads the weights from these bytes and does not keep them itself.
        card, self._content = read_litert(path)
        if device not in ("auto", "cpu"):
            raise InputError(
                f"Device {device!r} cannot be used with a .tflite file here. Use --device cpu."
            )
        self._interpreter, self._input, self._output = _open(path, self._content, card, threads)
        self._turn = threading.Lock()  # an interpreter is one set of buffers
        spec = EmbedderSpec(
            name=str(path),
            runtime="litert",
            role=card.role,
            teacher=card.teacher,
            dim=card.dim,
            preprocess=card.preprocess,
            size_bytes=path.stat().st_size,
            arch=card.arch,
            precision=card.precision,
            device="cpu",
        )
        super().__init__(spec, card)

    def compute(self, output: str, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `CardedEmbedder.compute`; the network takes one image at a time."""
        try:
            with self._turn:
                found = np.concatenate([self._run(one[None]) for one in pixels])
        except (RuntimeError, ValueError) as error:
            raise FormatError(
                f"{self.spec.name}: LiteRT cannot run it ({first_line(error)}). "
                "Make it again with: clipdistill export"
            ) from error
        embeddings = zeroshot.normalized(found)  # INT8 rounds the length, too
        text = self.card.text
        if output == EMBEDDINGS or text is None:
            return embeddings
        return zeroshot.probabilities(embeddings, text.vectors, text.logits)

    def _run(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        self._interpreter.set_tensor(self._input, pixels)
        self._interpreter.invoke()
        found: NDArray[np.float32] = self._interpreter.get_tensor(self._output)
        return found


def _open(path: Path, content: bytes, card: OnnxCard, threads: int | None) -> tuple[Any, int, int]:
    """The interpreter, with the numbers of its input and its output.

    Bytes are given and not the path: LiteRT verifies the flatbuffer of both before it reads it, but
    it maps a file, which could change afterwards.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise MissingExtraError("ai-edge-litert", "litert", "The runtime LiteRT") from error
    try:
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    except (RuntimeError, ValueError) as error:
        raise FormatError(
            f"{path}: LiteRT cannot read it ({first_line(error)}). It is damaged, or has operators "
            "that are not built in. Make it again with: clipdistill export"
        ) from error
    side = card.preprocess.size
    found = [(one["dtype"], list(one["shape"])) for one in (*inputs, *outputs)]
    if found != [(np.float32, [1, 3, side, side]), (np.float32, [1, card.dim])]:
        raise FormatError(
            f"{path}: its network does not fit its metadata (expected float32 (1, 3, {side}, "
            f"{side}) -> float32 (1, {card.dim}), found {found}). "
            "Make it again with: clipdistill export"
        )
    return interpreter, inputs[0]["index"], outputs[0]["index"]

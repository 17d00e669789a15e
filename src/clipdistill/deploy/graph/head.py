"""The zero-shot head of an ONNX file, its metadata, and the check of both.

The head is plain ONNX after the output "embeddings".  `export` and `relabel` share it, and a file
gets other classes without torch:

    embeddings (N, D) -> MatMul text (D, C) -> Mul scale [-> Add bias] -> Softmax | Sigmoid

Scale and bias are scalars, or (C,) where every class has a probability on its own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ...core import zeroshot
from ...core.errors import ClipDistillError
from ...core.files import atomic_path
from ...formats.classifier import EMBEDDINGS, PROBABILITIES, OnnxCard
from ...formats.onnx_wire import HEAD
from ...formats.text import TextEmbeddings
from ...images.synthetic import smooth_pixels
from ...models.open import OnnxEmbedder
from .files import load_graph, save_graph
from .links import keep

CHECK_PICTURES = 4
TOLERANCE = 1e-4
"""Largest allowed difference from numpy's probabilities: 100 x float32's cosine error."""


def describe(model: Any, card: OnnxCard) -> None:
    """Set the head (or none) and the metadata of the file to those of `card`."""
    set_head(model, card.text)
    del model.metadata_props[:]
    helper.set_model_props(model, card.to_metadata())


def set_head(model: Any, text: TextEmbeddings | None) -> None:
    """Replace the zero-shot head; None removes it."""
    graph = model.graph
    keep(graph.node, lambda node: not node.name.startswith(HEAD))
    keep(graph.initializer, lambda tensor: not tensor.name.startswith(HEAD))
    keep(graph.output, lambda output: output.name == EMBEDDINGS)
    if text is None:
        return
    scale, bias = _scale_and_bias(text)
    _constant(graph, "text", np.ascontiguousarray(text.vectors.T))
    _constant(graph, "scale", scale)
    _node(graph, "MatMul", (EMBEDDINGS, HEAD + "text"), HEAD + "cosine")
    _node(graph, "Mul", (HEAD + "cosine", HEAD + "scale"), HEAD + "scaled")
    if bias is None:
        _node(graph, "Softmax", (HEAD + "scaled",), PROBABILITIES, axis=-1)
    else:
        _constant(graph, "bias", bias)
        _node(graph, "Add", (HEAD + "scaled", HEAD + "bias"), HEAD + "logits")
        _node(graph, "Sigmoid", (HEAD + "logits",), PROBABILITIES)
    # Probabilities first, because most programs use only the first output.
    graph.output.insert(0, _vectors(PROBABILITIES, len(text.labels)))


def _scale_and_bias(text: TextEmbeddings) -> tuple[Any, Any]:
    """Scale and bias of the logits as float32, () or (C,); the bias is None for a softmax."""
    logits = text.logits
    if isinstance(logits, zeroshot.Independent):
        return np.array(logits.scales, np.float32), np.array(logits.biases, np.float32)
    return np.float32(logits.scale), None if logits.bias is None else np.float32(logits.bias)


def change_classes(source: Path, text: TextEmbeddings, out: Path) -> None:
    """Write an ONNX file with other classes; the network stays the same.

    Before the new file is kept, it is run and its probabilities are compared with numpy's.

    Args:
        source: .onnx file made by `clipdistill export`, a classifier or a bare embedder.
        text: text embeddings of the classes, of the same teacher.
        out: .onnx file to write; may be `source`.

    Raises:
        FormatError: `source` is damaged, or was not made by `clipdistill export`.
        ClipDistillError: the new file gives other probabilities than numpy.
    """
    model = load_graph(source)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    card = replace(OnnxCard.from_metadata(source, metadata), text=text)
    describe(model, card)
    with atomic_path(out) as temporary:
        save_graph(model, temporary)
        after = OnnxEmbedder(temporary, device="cpu")
        check_head(after, smooth_pixels(CHECK_PICTURES, card.preprocess.size))
        del after  # Windows cannot rename an open file


def check_head(embedder: OnnxEmbedder, pixels: NDArray[np.uint8]) -> None:
    """Compare a classifier's probabilities on uint8 (N, S, S, 3) with `zeroshot.probabilities`.

    Raises:
        ClipDistillError: they differ by more than `TOLERANCE`.
    """
    text = embedder.text
    if text is None:
        return
    embeddings = embedder.embed_pixels(pixels)
    expected = zeroshot.probabilities(embeddings, text.vectors, text.logits)
    worst = float(np.abs(embedder.classify_pixels(pixels) - expected).max())
    if not worst <= TOLERANCE:  # also when NaN
        raise ClipDistillError(
            f"The file's probabilities differ by {worst:.2g} from those computed with numpy "
            f"(allowed: {TOLERANCE}). The file was not kept. Please report this."
        )


def _vectors(name: str, width: int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])


def _constant(graph: Any, name: str, value: Any) -> None:
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), HEAD + name))


def _node(graph: Any, kind: str, inputs: tuple[str, ...], output: str, **attributes: Any) -> None:
    name = HEAD + kind.lower()
    graph.node.append(helper.make_node(kind, inputs, [output], name=name, **attributes))

"""Loading untrusted ONNX files; checking and writing ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from ...core.errors import FormatError
from ...formats.classifier import MAX_FILE_BYTES
from ...formats.onnx_wire import file_size

HALF_OPSET = 19
"""First operator set with FP16 scales in QuantizeLinear; TensorRT 10 and later read it."""
IR_VERSION = 8
"""File version that belongs to opset 17 (onnx 1.12)."""
HALF_IR_VERSION = 9
"""File version that belongs to opset 19 (onnx 1.14)."""
MAX_NODES = 100_000
"""Most nodes of a file; the largest timm models have some thousands."""
MAX_DEPTH = 8
"""Most levels of nested graphs (If, Loop)."""


def load_graph(path: Path) -> Any:
    """Load an ONNX file as a `ModelProto`; external data is never followed.

    Raises:
        InputError: no such file.
        FormatError: the file is damaged or too large, or keeps its weights in other files.
    """
    file_size(path)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise FormatError(f"{path}: not a readable ONNX file ({error}).") from error
    if not model.HasField("graph") or not model.graph.node:
        raise FormatError(f"{path}: not a readable ONNX file (there is no network in it).")
    check_bounds(path, model)
    return model


def check_bounds(path: Path, model: Any) -> None:
    """Refuse untrusted graphs that are too large or too deep, or keep weights in other files.

    Raises:
        FormatError: the file is refused.
    """
    nodes = 0
    for depth, graph in _graphs(model):
        nodes += len(graph.node)
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise FormatError(
                f"{path}: refused. Expected at most {MAX_NODES} nodes in {MAX_DEPTH} nested "
                "graphs, found more."
            )
        if any(not node.output for node in graph.node):
            raise FormatError(f"{path}: refused. One of its nodes has no output.")
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            where = {entry.key: entry.value for entry in tensor.external_data}.get("location", "?")
            raise FormatError(
                f"{path}: refused. It keeps the tensor {tensor.name!r} in another file "
                f"({where!r}); expected one file that holds everything. Make it again with: "
                "clipdistill export"
            )


def _graphs(model: Any) -> Iterator[tuple[int, Any]]:
    """Iterate over all graphs and bodies of functions, each with its depth."""
    waiting = [(0, model.graph), *((0, function) for function in model.functions)]
    while waiting:
        depth, graph = waiting.pop()
        yield depth, graph
        if depth > MAX_DEPTH:
            continue
        for node in graph.node:
            for one in node.attribute:
                inside = [*([one.g] if one.HasField("g") else []), *one.graphs]
                waiting += [(depth + 1, inner) for inner in inside]


def _tensors(model: Any) -> Iterator[Any]:
    """Iterate over all tensors that are stored in the file."""
    for _, graph in _graphs(model):
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for one in node.attribute:
                yield from ([one.t] if one.HasField("t") else [])
                yield from one.tensors


def save_graph(model: Any, path: Path) -> None:
    """Check the model with onnx and write it.

    Raises:
        FormatError: the model is not valid ONNX, or is too large for one file.
    """
    if model.ByteSize() > MAX_FILE_BYTES:
        raise FormatError(
            f"The network takes {model.ByteSize() / 2**30:.1f} GiB, but one ONNX file holds 2 GiB. "
            "Choose a smaller model."
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise FormatError(f"The exported network is not valid ONNX: {error}") from error
    onnx.save(model, str(path))

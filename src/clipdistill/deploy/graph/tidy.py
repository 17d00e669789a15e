"""Cleaning up after torch's exporter: the parts of a graph that no target needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ...formats.classifier import EMBEDDINGS, OnnxCard
from .links import Graph, attribute, inferred_shapes


def tidy(model: Any, card: OnnxCard) -> None:
    """Clean an exported network in place: aliases, constants, casts, batch norms, names."""
    graph = Graph(model)
    _drop_aliases(graph)
    _store_constants(graph)
    _drop_idle_casts(graph)
    _split_batch_norms(graph)
    graph.finish()
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info(EMBEDDINGS, TensorProto.FLOAT, ["batch", card.dim])
    )
    model.graph.name = card.arch
    model.producer_name, model.producer_version = "clipdistill", ""


def _drop_aliases(graph: Graph) -> None:
    """Remove the aliases of weights that several layers share."""
    for node in graph.nodes:
        if node.op_type == "Identity" and node.input[0] in graph.constants:
            graph.redirect(node.output[0], node.input[0])


def _store_constants(graph: Graph) -> None:
    """Turn Constant nodes into initializers, the usual place of weights."""
    gone = []
    for node in graph.nodes:
        value = attribute(node, "value") if node.op_type == "Constant" else None
        if value is not None:
            value.name = node.output[0]
            graph.proto.initializer.append(value)
            gone.append(node)
    graph.remove(gone)


def _drop_idle_casts(graph: Graph) -> None:
    """Remove casts to the same type, which ModelOpt adds between two quantisers."""
    types = _element_types(graph.model)
    for node in graph.nodes:
        if node.op_type == "Cast" and types.get(node.input[0]) == attribute(node, "to"):
            graph.redirect(node.output[0], node.input[0])


def _element_types(model: Any) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    infos = [*inferred.input, *inferred.value_info, *inferred.output]
    return {info.name: info.type.tensor_type.elem_type for info in infos}


def _split_batch_norms(graph: Graph) -> None:
    """Replace the batch norms that do not follow a convolution by x * scale + shift.

    torch has folded the others into their convolutions.
    """
    for node in graph.nodes:
        if node.op_type != "BatchNormalization":
            continue
        values = [graph.array(name) for name in node.input[1:]]
        if any(value is None for value in values):
            continue
        gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in values)
        scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        sides = _sides_after_channels(graph, node)
        name = node.output[0]
        shape = (-1, *(1,) * sides)
        factor = graph.add_constant(f"{name}/scale", scale.astype(np.float32).reshape(shape))
        shift = (beta - mean * scale).astype(np.float32).reshape(shape)
        addend = graph.add_constant(f"{name}/shift", shift)
        node.output[0] = f"{name}/replaced"
        graph.insert(
            [
                helper.make_node("Mul", [node.input[0], factor], [f"{name}/scaled"], f"{name}/Mul"),
                helper.make_node("Add", [f"{name}/scaled", addend], [name], f"{name}/Add"),
            ]
        )


def _sides_after_channels(graph: Graph, node: Any) -> int:
    shape = inferred_shapes(graph.model).get(node.input[0], (None, None, None, None))
    return max(0, len(shape) - 2)

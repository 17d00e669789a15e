"""Cleaning up after torch's exporter: the parts of a graph that no target needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ...formats.classifier import EMBEDDINGS, OnnxCard
from .links import Graph, attribute, keep
from .shapes import ranks, settle_shapes


def tidy(model: Any, card: OnnxCard) -> None:
    """Clean an exported network in place: constants, shapes, pads, casts, batch norms, names."""
    graph, size = Graph(model), card.preprocess.size
    _drop_aliases(graph)
    _store_constants(graph)
    settle_shapes(graph, size)
    _fold_paddings(graph)
    _drop_idle_casts(graph)
    _split_batch_norms(graph, size)
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


def _fold_paddings(graph: Graph) -> None:
    """Move constant paddings into the convolutions and pools that use them."""
    for node in graph.nodes:
        if node.op_type != "Pad" or attribute(node, "mode", b"constant") != b"constant":
            continue
        amounts, users = graph.array(node.input[1]), graph.users(node.output[0])
        if (
            amounts is None
            or len(amounts) != 8
            or (amounts < 0).any()
            or amounts[[0, 1, 4, 5]].any()
        ):
            continue
        named = len(node.input) > 2 and node.input[2]
        value = graph.array(node.input[2]) if named else np.zeros(())
        if value is None or not users or node.output[0] in graph.outputs:
            continue
        if all(_pads_with(one, node.output[0], float(value)) for one in users):
            for one in users:
                _add_pads(one, [int(amounts[side]) for side in (2, 3, 6, 7)])
            graph.redirect(node.output[0], node.input[0])


def _pads_with(node: Any, name: str, value: float) -> bool:
    """Whether a node pads its input `name` with this value, whatever its own padding is."""
    if node.input[0] != name or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return False
    if node.op_type == "AveragePool":  # it pads with zeros only where all its padding counts
        counted = attribute(node, "count_include_pad", 0) or not any(attribute(node, "pads", ()))
        return value == 0 and bool(counted) and not attribute(node, "ceil_mode", 0)
    return value == {"Conv": 0.0, "MaxPool": -np.inf}.get(node.op_type)


def _add_pads(node: Any, amounts: list[int]) -> None:
    """Add (top, left, bottom, right) to the padding of a convolution or pool over images."""
    own = attribute(node, "pads", [0, 0, 0, 0])
    changed = {"pads": [mine + more for mine, more in zip(own, amounts, strict=True)]}
    if node.op_type == "AveragePool":
        changed["count_include_pad"] = 1  # type: ignore[assignment]
    keep(node.attribute, lambda one: one.name not in changed)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in changed.items())


def _split_batch_norms(graph: Graph, size: int) -> None:
    """Replace the batch norms that do not follow a convolution by x * scale + shift.

    torch has folded the others into their convolutions.
    """
    left = [node for node in graph.nodes if node.op_type == "BatchNormalization"]
    sides = ranks(graph, [node.input[0] for node in left], size) if left else {}
    for node in left:
        values = [graph.array(name) for name in node.input[1:]]
        if any(value is None for value in values):
            continue
        gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in values)
        scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        name = node.output[0]
        shape = (-1, *(1,) * (sides[node.input[0]] - 2))
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

"""The INT8 file for TensorRT and OpenVINO, made from torch's export of a quantised student.

torch exports ModelOpt's quantisers as QuantizeLinear and DequantizeLinear with symmetric int8 and
float weights.  This module rounds the weights and stores them as INT8, so a layer in the file is

    x -> Q(scale) -> DQ(scale) -> Conv | Gemm | MatMul <- DQ(scales per channel) <- int8 weight

with FP32 scales and zero points of int8 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from ...core.errors import FormatError
from .links import DEQUANTIZE, QUANTIZE, Graph, attribute

WEIGHTED = ("Conv", "Gemm", "MatMul")
"""Operators with a weight as second input, which INT8 and sparsity can speed up."""


def is_quantized(model: Any) -> bool:
    """Whether there are quantisers in the graph."""
    return any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in model.graph.node)


def store_int8_weights(model: Any) -> int:
    """Round the quantised weights and store them as INT8; returns how many layers have one.

    Raises:
        FormatError: a weight's quantiser is not symmetric int8 with constant scales.
    """
    graph = Graph(model)
    count = 0
    for node in graph.nodes:
        if node.op_type != QUANTIZE or node.input[0] not in graph.constants:
            continue
        after = graph.users(node.output[0])
        if not after or any(one.op_type != DEQUANTIZE for one in after):
            raise FormatError(f"{node.name}: expected DequantizeLinear after a quantised weight.")
        weight, scale, axis = _parts(graph, node)
        rounded = graph.add_constant(f"{node.input[0]}/int8", quantize(weight, scale, axis))
        graph.redirect(node.output[0], rounded, after)
        count += 1
    _turn_weights(graph)
    graph.finish()
    return count


def quantize_in_front_of_pools(model: Any) -> None:
    """Add the quantiser after a MaxPool also before it, which changes no value.

    The largest of the rounded values equals the rounded largest value.  TensorRT moves such
    quantisers itself.  OpenVINO does not, and pools a ResNet's largest tensor in float.
    """
    graph = Graph(model)
    for node in graph.nodes:
        if node.op_type != "MaxPool" or len(node.output) != 1:
            continue
        after, before = graph.users(node.output[0]), graph.maker(node.input[0])
        if not after or any(one.op_type != QUANTIZE for one in after):
            continue
        arrays = [graph.array(one.input[1]) for one in after]
        scales = {float(scale) for scale in arrays if scale is not None and scale.size == 1}
        if len(scales) != 1 or (before is not None and before.op_type == DEQUANTIZE):
            continue
        source, parts = node.input[0], list(after[0].input[1:])
        inside, out = f"{node.output[0]}/int8", f"{node.output[0]}/float"
        node.input[0] = out
        graph.insert(
            [
                helper.make_node(QUANTIZE, [source, *parts], [inside], f"{node.name}/{QUANTIZE}"),
                helper.make_node(DEQUANTIZE, [inside, *parts], [out], f"{node.name}/{DEQUANTIZE}"),
            ]
        )
    graph.finish()


def quantize(values: NDArray[Any], scale: NDArray[Any], axis: int) -> NDArray[np.int8]:
    """Round to the nearest int8, halves to even as in ONNX; scale is () or (C,) along `axis`."""
    steps = np.asarray(scale, np.float32)
    if steps.size > 1:
        steps = steps.reshape([-1 if side == axis else 1 for side in range(values.ndim)])
    rounded: NDArray[np.int8] = np.clip(
        np.rint(values.astype(np.float32) / steps), -128, 127
    ).astype(np.int8)
    return rounded


def _parts(graph: Graph, node: Any) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Return weight, scale and axis of a weight's QuantizeLinear."""
    weight, scale = (graph.array(name) for name in node.input[:2])
    zero = graph.array(node.input[2]) if len(node.input) > 2 else None
    if weight is None or scale is None or zero is None or zero.dtype != np.int8 or zero.any():
        raise FormatError(
            f"{node.name}: expected a weight with constant scales and int8 zero points of 0."
        )
    return weight, scale, int(attribute(node, "axis", 1)) % weight.ndim


def _turn_weights(graph: Graph) -> None:
    """Replace DQ -> Transpose -> MatMul by DQ -> MatMul with a transposed stored weight.

    torch exports linear layers over more than two dimensions with the Transpose.
    """
    for node in graph.nodes:
        if node.op_type != "Transpose":
            continue
        before = graph.maker(node.input[0])
        if before is None or before.op_type != DEQUANTIZE:
            continue
        weight = graph.array(before.input[0])
        if weight is None or weight.ndim != 2:
            continue
        axis = int(attribute(before, "axis", 1)) % 2
        turned = graph.add_constant(f"{before.input[0]}/turned", weight.T)
        name = node.output[0]
        node.output[0] = f"{name}/replaced"
        graph.insert(
            [
                helper.make_node(
                    DEQUANTIZE,
                    [turned, *before.input[1:]],
                    [name],
                    f"{name}/dequantize",
                    axis=1 - axis,
                )
            ]
        )

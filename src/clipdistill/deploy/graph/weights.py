"""The layers of a file: precision, multiplications and 2:4 pattern of their stored weights.

Whether sparse kernels are used for 2:4 weights is the builder's choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx

from ...core.two_four import is_two_four, obstacle
from .links import DEQUANTIZE, QUANTIZE, Graph, attribute, inferred_shapes, volume
from .quantized import WEIGHTED

Shapes = dict[str, tuple[int | None, ...]]


@dataclass(frozen=True)
class Layer:
    """A layer with weights.

    Attributes:
        node: name of its node in the graph.
        kind: operator.
        weight: name of the stored tensor.
        shape: shape of the stored tensor.
        groups: groups of a convolution; 1 for other operators.
        macs: multiplications per image; None where the shape of its output is unknown.
        precision: precision of the stored weight: "int8", "fp16", "fp32" or numpy's name.
        two_four: whether the stored weight is 2:4.
        obstacle: why sparse kernels do not support it, 2:4 or not; empty when they do.
    """

    node: str
    kind: str
    weight: str
    shape: tuple[int, ...]
    groups: int
    macs: int | None
    precision: str
    two_four: bool
    obstacle: str

    @property
    def engages(self) -> bool:
        """Whether sparse kernels can speed it up on hardware that has them."""
        return self.two_four and not self.obstacle


def find_layers(graph: Graph, head: str) -> tuple[Layer, ...]:
    """List the layers of a network in order, without nodes whose name starts with `head`."""
    shapes = _shapes(graph)
    found = (
        _layer(graph, node, shapes)
        for node in graph.nodes
        if node.op_type in WEIGHTED and not node.name.startswith(head)
    )
    return tuple(layer for layer in found if layer is not None)


def stored_weight(graph: Graph, node: Any) -> tuple[str, Any | None]:
    """Find the name of a layer's stored weight, and the DequantizeLinear before the layer if any.

    The name is empty where the second input is not a constant.
    """
    name = node.input[1] if len(node.input) > 1 else ""
    before = graph.maker(name)
    if before is not None and before.op_type == DEQUANTIZE:
        source = before.input[0]
        inner = graph.maker(source)
        if inner is not None and inner.op_type == QUANTIZE:
            source = inner.input[0]
        return (source if source in graph.constants else ""), before
    return (name if name in graph.constants else ""), None


def channel_axes(node: Any) -> tuple[int, int]:
    """Return the axes of output and input channels in the weight of a layer."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return 0, 1
    return 1, 0


def _layer(graph: Graph, node: Any, shapes: Shapes) -> Layer | None:
    name, _ = stored_weight(graph, node)
    weight = graph.array(name) if name else None
    if weight is None or weight.ndim < 2:
        return None
    outputs, inputs = channel_axes(node)
    groups = int(attribute(node, "group", 1)) if node.op_type == "Conv" else 1
    kinds = {"float32": "fp32", "float16": "fp16"}
    return Layer(
        node=node.name,
        kind=node.op_type,
        weight=name,
        shape=tuple(weight.shape),
        groups=groups,
        macs=_macs(node, weight.shape, shapes),
        precision=kinds.get(weight.dtype.name, weight.dtype.name),
        two_four=groups == 1 and is_two_four(weight, inputs),
        obstacle=obstacle(weight.shape[inputs], weight.shape[outputs], groups),
    )


def _macs(node: Any, weight: tuple[int, ...], shapes: Shapes) -> int | None:
    """Count multiplications per image: values of the output, times the terms of each sum."""
    shape = shapes.get(node.output[0])
    if not shape or any(side is None for side in shape[1:]):
        return None
    _, inputs = channel_axes(node)
    terms = volume(weight[1:]) if node.op_type == "Conv" else weight[inputs]
    return volume(side or 1 for side in shape[1:]) * terms


def _shapes(graph: Graph) -> Shapes:
    try:
        return inferred_shapes(graph.model)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, TypeError):
        return {}

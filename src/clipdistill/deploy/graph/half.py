"""FP16, strongly typed, which TensorRT 10.12 and later build without flags.

Weights, constants and activations become FP16.  The input stays float32 and is cast once.  The
embedding is cast back before it is brought to unit length, so callers and the head get float32.  An
INT8 network's scales become FP16 as well: the output of a strongly typed DequantizeLinear has the
type of its scale, and a cast between it and the layer would prevent their fusion.  Only opset 19
allows such scales; TensorRT 10 and later read it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ...core.errors import FormatError
from ...formats.classifier import EMBEDDINGS, INPUT
from .files import HALF_IR_VERSION, HALF_OPSET
from .links import DEQUANTIZE, Graph, attribute, keep
from .quantized import is_quantized, quantize

SMALLEST_SCALE = 2.0**-14
"""Least FP16 number of full precision; a smaller scale loses bits, and below 2**-24 is 0."""
FLOAT_ONLY_INPUTS = {"Resize": (1, 2)}
"""Operator -> indices of its inputs that stay float32: regions and factors of Resize."""
AXES_AS_INPUT = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)
"""Operators that take their axes as an input since opset 18."""


def to_half(model: Any) -> None:
    """Turn a network (without head) into FP16, in place.

    Raises:
        FormatError: a weight is outside the range of FP16.
    """
    graph = Graph(model)
    if is_quantized(model):
        _raise_scales(graph)
        _upgrade(graph)
    tail = _unit_length_tail(graph)
    _halve_constants(graph, tail)
    _cast_borders(graph, tail)
    graph.finish()


def _unit_length_tail(graph: Graph) -> set[str]:
    """Find the nodes (by their outputs) that bring the embedding to unit length."""
    last = graph.maker(EMBEDDINGS)
    norms = [node for node in graph.nodes if node.op_type == "ReduceL2"]
    if last is None or last.op_type != "Div" or not norms:
        raise FormatError("The network does not end in the normalisation that export adds.")
    norm = norms[-1]
    if norm.input[0] != last.input[0]:
        raise FormatError("The network does not end in the normalisation that export adds.")
    tail = {EMBEDDINGS}
    names = list(last.input[1:])
    while names:
        node = graph.maker(names.pop())
        if node is not None and node.output[0] not in tail:
            tail.add(node.output[0])
            names += [] if node.op_type in ("ReduceL2", "Shape") else node.input
    return tail


def _halve_constants(graph: Graph, tail: set[str]) -> None:
    """Turn float constants into FP16, except those that the tail and some operators need."""
    floats: set[str] = set()
    halves: set[str] = set()
    for node in graph.nodes:
        kept = FLOAT_ONLY_INPUTS.get(node.op_type, ())
        for place, name in enumerate(node.input):
            (floats if node.output[0] in tail or place in kept else halves).add(name)
        if node.output[0] not in tail:
            _halve_attributes(node)
    for tensor in list(graph.proto.initializer):
        if tensor.data_type != TensorProto.FLOAT or tensor.name not in halves:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise FormatError(
                f"{tensor.name}: its values reach {np.abs(values).max():.3g}, but FP16 ends at "
                "65504. Export without --fp16."
            )
        if tensor.name in floats:
            copy = TensorProto()
            copy.CopyFrom(tensor)
            copy.name = f"{tensor.name}/float"
            graph.proto.initializer.append(copy)
            for node in graph.nodes:
                kept = FLOAT_ONLY_INPUTS.get(node.op_type, ())
                for place, name in enumerate(node.input):
                    if name == tensor.name and (node.output[0] in tail or place in kept):
                        node.input[place] = copy.name
        tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))


def _halve_attributes(node: Any) -> None:
    """Turn casts to float and tensors in attributes into FP16."""
    for one in node.attribute:
        if node.op_type == "Cast" and one.name == "to" and one.i == TensorProto.FLOAT:
            one.i = TensorProto.FLOAT16
        if one.HasField("t") and one.t.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(one.t).astype(np.float16)
            one.t.CopyFrom(numpy_helper.from_array(values, one.t.name))


def _cast_borders(graph: Graph, tail: set[str]) -> None:
    """Cast the input to FP16 and the embedding back to float32."""
    graph.refresh()
    last = graph.maker(EMBEDDINGS)
    assert last is not None  # the tail was found through it
    raw = last.input[0]
    inside, back = f"{INPUT}/half", f"{raw}/float"
    graph.redirect(INPUT, inside)
    graph.redirect(raw, back, [node for node in graph.users(raw) if node.output[0] in tail])
    graph.insert(
        [
            helper.make_node("Cast", [INPUT], [inside], f"{inside}/Cast", to=TensorProto.FLOAT16),
            helper.make_node("Cast", [raw], [back], f"{back}/Cast", to=TensorProto.FLOAT),
        ]
    )


def _raise_scales(graph: Graph) -> None:
    """Raise scales of weights below FP16's full precision, and round the others to FP16.

    The stored weights are rounded again to fit the new scales.
    """
    for node in graph.nodes:
        values = graph.array(node.input[0]) if node.op_type == DEQUANTIZE else None
        scale = graph.array(node.input[1]) if values is not None else None
        if values is None or scale is None:
            continue
        axis = int(attribute(node, "axis", 1)) % max(1, values.ndim)
        rounded = np.maximum(scale, SMALLEST_SCALE).astype(np.float16).astype(np.float32)
        shape = [-1 if side == axis else 1 for side in range(values.ndim)]
        was = scale.reshape(shape) if scale.size > 1 else scale
        again = quantize(values.astype(np.float32) * was, rounded, axis)
        node.input[0] = graph.add_constant(f"{node.input[0]}/half", again)
        node.input[1] = graph.add_constant(f"{node.input[1]}/half/{node.name}", rounded)


def _upgrade(graph: Graph) -> None:
    """Raise opset 17 to 19, and adapt the exported operators that this changes."""
    for node in graph.nodes:
        axes = attribute(node, "axes") if node.op_type in AXES_AS_INPUT else None
        if axes is not None:
            keep(node.attribute, lambda one: one.name != "axes")
            node.input.append(graph.add_constant(f"{node.name}/axes", np.array(axes, np.int64)))
        if node.op_type == "Split" and len(node.input) < 2:
            node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
    del graph.model.opset_import[:]
    graph.model.opset_import.append(helper.make_opsetid("", HALF_OPSET))
    graph.model.ir_version = HALF_IR_VERSION
    graph.refresh()

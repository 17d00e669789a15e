"""The linter's rules for TensorRT (and OpenVINO): places and types of quantisers.

Sources: NVIDIA, "Working with Quantized Types", Explicit Quantization (TensorRT 10 and 11), and
onnx-tensorrt's `QuantDequantLinearHelper`, which refuses uint8, zero points other than 0 and scales
that are not positive, and gives a DequantizeLinear the type of its scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...formats.onnx_wire import HEAD
from .findings import Finding, Rule, Subject, reexport
from .links import DEQUANTIZE, QUANTIZE, Graph, is_dequantize
from .quantized import WEIGHTED
from .rules_int8 import float_layers, stored_weights, weighted_nodes
from .weights import stored_weight

PASSING = ("Cast", "Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that prevent fusion when they are between a DequantizeLinear and a layer."""


def quantizers(subject: Subject) -> Iterator[Finding]:
    """Symmetric int8: zero points 0, scales constant, positive, FP32 (or FP16, strongly typed)."""
    graph = subject.graph
    for node in graph.nodes:
        if node.op_type not in (QUANTIZE, DEQUANTIZE):
            continue
        scale = graph.array(node.input[1]) if len(node.input) > 1 else None
        zero = graph.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        yield from _scale(subject, node, scale)
        if zero is None:
            yield Finding(
                "error",
                "zero-point",
                node.name,
                "Expected a constant zero point of int8, found none, which means uint8 in ONNX.",
                reexport(subject),
            )
            continue
        if zero.dtype != np.int8:
            yield Finding(
                "error",
                "signed",
                node.name,
                f"Expected int8, found {zero.dtype}: TensorRT has no kernels for it.",
                reexport(subject),
            )
        if zero.any():
            yield Finding(
                "error",
                "zero-point",
                node.name,
                "Expected a zero point of 0, found "
                f"{int(zero.reshape(-1)[np.flatnonzero(zero)[0]])}: TensorRT quantises "
                "symmetrically.",
                reexport(subject),
            )
        if scale is not None and zero.size != scale.size:
            yield Finding(
                "error",
                "zero-point",
                node.name,
                f"Expected {scale.size} zero points, as many as scales, found {zero.size}.",
                reexport(subject),
            )


def _scale(subject: Subject, node: Any, scale: Any) -> Iterator[Finding]:
    if scale is None:
        yield Finding(
            "error",
            "scale",
            node.name,
            "Expected a constant scale, found a computed one.",
            reexport(subject),
        )
        return
    if scale.dtype != np.float32 and not (scale.dtype == np.float16 and subject.half):
        yield Finding(
            "error",
            "scale",
            node.name,
            f"Expected scales in FP32, found {scale.dtype}.",
            reexport(subject),
        )
    values = scale.astype(np.float64)
    if not (np.isfinite(values).all() and (values > 0).all()):
        yield Finding(
            "error",
            "scale",
            node.name,
            "Expected positive, finite scales, found "
            f"{float(values.reshape(-1)[np.argmin(values)]):.3g}.",
            reexport(subject),
        )


def placement(subject: Subject) -> Iterator[Finding]:
    """A layer has quantisers directly before both input and weight, or before neither."""
    graph = subject.graph
    for node in weighted_nodes(graph):
        before, weight = graph.maker(node.input[0]), graph.maker(node.input[1])
        for side, maker in (("input", before), ("weight", weight)):
            if maker is None or maker.op_type not in PASSING:
                continue
            further = graph.maker(maker.input[0])
            if further is not None and further.op_type == DEQUANTIZE:
                rule = "cast" if maker.op_type == "Cast" else "placement"
                yield Finding(
                    "error",
                    rule,
                    node.name,
                    f"Expected nothing between the layer and the DequantizeLinear of its {side}, "
                    f"found a {maker.op_type}.",
                    reexport(subject),
                )
        has_input, has_weight = is_dequantize(before), is_dequantize(weight)
        if has_input != has_weight and stored_weight(graph, node)[0]:
            missing = "weight" if has_input else "input"
            yield Finding(
                "error",
                "placement",
                node.name,
                f"Expected quantisers on input and weight, found none on the {missing}: the layer "
                "runs in float, with rounding.",
                reexport(subject),
            )


def residuals(subject: Subject) -> Iterator[Finding]:
    """The shortcut of a residual add is quantised, and the other input is not.

    Then TensorRT fuses the add into the convolution that computes the other input, all in INT8.  In
    a student whose card counts adds in floating point, one without a quantiser is only a note.
    """
    graph = subject.graph
    if not subject.quantized:
        return
    depths = _depths(graph)
    compression = subject.card.compression if subject.card else None
    in_float = compression is not None and compression.int8 and compression.int8.float_adds
    for node in graph.nodes:
        if node.op_type != "Add" or not _is_residual(graph, node, depths):
            continue
        quantised = [name for name in node.input if is_dequantize(graph.maker(name))]
        if len(quantised) == 2:
            yield Finding(
                "error",
                "residual",
                node.name,
                "Expected a quantiser on the shortcut of a residual add, found one on both inputs: "
                "the add cannot be fused into the layer before it.",
                reexport(subject),
            )
        elif not quantised:
            yield Finding(
                "note" if in_float else "warning",
                "residual",
                node.name,
                "Expected a quantiser on the shortcut of a residual add, found none: the layers "
                "around it exchange floats.",
                reexport(subject),
            )
        else:
            other = node.input[1] if quantised[0] == node.input[0] else node.input[0]
            if depths[quantised[0]] > depths[other]:
                yield Finding(
                    "error",
                    "residual",
                    node.name,
                    "Expected a quantiser on the shortcut of a residual add, found it on the "
                    "branch with the layers.",
                    reexport(subject),
                )


def casts(subject: Subject) -> Iterator[Finding]:
    """An FP16 file has two casts, after the input and before the embedding; others have none."""
    graph = subject.graph
    if not (subject.quantized or subject.half):
        return
    found = [node for node in graph.nodes if node.op_type == "Cast" and _near_layer(graph, node)]
    allowed = 2 if subject.half else 0
    if len(found) > allowed:
        yield Finding(
            "warning",
            "cast",
            found[0].name,
            f"Expected {allowed} casts next to layers, found {len(found)}: each copies a tensor.",
            reexport(subject),
        )


def _is_residual(graph: Graph, node: Any, depths: Mapping[str, int]) -> bool:
    """Whether both inputs are computed from images, one of them through more layers.

    An activation such as GELU also adds, but both of its inputs come through the same layers.
    """
    if node.name.startswith(HEAD) or len(node.input) != 2:
        return False
    first, second = (depths.get(name, 0) for name in node.input)
    return first != second and all(_is_image(graph, name) for name in node.input)


def _is_image(graph: Graph, name: str) -> bool:
    """Whether a tensor comes from the input rather than from shapes or constants."""
    waiting, seen = [name], set()
    inputs = {item.name for item in graph.proto.input}
    while waiting:
        one = waiting.pop()
        if one in inputs:
            return True
        node = graph.maker(one)
        if node is None or one in seen or node.op_type == "Shape":
            continue
        seen.add(one)
        waiting += node.input
    return False


def _depths(graph: Graph) -> dict[str, int]:
    """Count the most layers on a path from the input to each tensor."""
    depths: dict[str, int] = {}
    for node in graph.nodes:
        before = max((depths.get(name, 0) for name in node.input), default=0)
        step = int(node.op_type in WEIGHTED)
        for name in node.output:
            depths[name] = before + step
    return depths


def _near_layer(graph: Graph, node: Any) -> bool:
    """Whether a cast is next to a layer or a quantiser."""
    kinds = (*WEIGHTED, QUANTIZE, DEQUANTIZE)
    before = graph.maker(node.input[0])
    around = [*graph.users(node.output[0]), *([] if before is None else [before])]
    return any(one.op_type in kinds for one in around) and not node.name.startswith(HEAD)


FOR_TENSORRT: tuple[Rule, ...] = (
    quantizers,
    placement,
    stored_weights,
    residuals,
    casts,
    float_layers,
)

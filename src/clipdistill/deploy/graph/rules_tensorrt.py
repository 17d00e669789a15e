"""The linter's rules for TensorRT (and OpenVINO): where quantisers stand, and what they are.

Sources: NVIDIA, "Working with Quantized Types", Explicit Quantization (TensorRT 10 and 11), and
onnx-tensorrt's `QuantDequantLinearHelper`, which refuses uint8, zero points other than 0 and scales
that are not positive, and gives a DequantizeLinear the type of its scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...core.wording import percent
from ...formats.onnx_wire import HEAD
from .findings import Finding, Rule, Subject, reexport
from .links import DEQUANTIZE, QUANTIZE, Graph, attribute
from .quantized import WEIGHTED
from .weights import channel_axes, stored_weight

PASSING = ("Cast", "Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that, between a DequantizeLinear and a layer, keep the two from being fused."""
SMALL_SHARE = 0.05
"""Layers in float that do less than this share of the multiplications are a note only."""


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
                "Expected a constant zero point of int8, found none: ONNX then means uint8.",
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
            "Expected a constant scale, found one that is computed.",
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
    """A layer has quantisers on input and weight or on neither, and nothing stands between."""
    graph = subject.graph
    for node in _layers(graph):
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
                    f"A {maker.op_type} stands between the "
                    f"DequantizeLinear of its {side} and the layer; expected nothing.",
                    reexport(subject),
                )
        has_input, has_weight = _is_dequantize(before), _is_dequantize(weight)
        if has_input != has_weight and stored_weight(graph, node)[0]:
            missing = "weight" if has_input else "input"
            yield Finding(
                "error",
                "placement",
                node.name,
                f"Its {missing} has no quantiser, but "
                "the other one has: it runs in float, with rounding.",
                reexport(subject),
            )


def weights(subject: Subject) -> Iterator[Finding]:
    """Quantised weights are stored as int8, with one scale an output channel."""
    graph = subject.graph
    for node in _layers(graph):
        name, before = stored_weight(graph, node)
        if before is None:
            continue
        values = graph.array(name) if name else None
        if values is None or values.dtype != np.int8:
            found = "one that is computed" if values is None else str(values.dtype)
            yield Finding(
                "warning",
                "stored-weight",
                node.name,
                f"Expected a weight stored as "
                f"int8, found {found}: the file is larger than it must be, and whoever "
                "reads it has to round.",
                reexport(subject),
            )
            continue
        scale = graph.array(before.input[1])
        outputs, _ = channel_axes(node)
        axis = int(attribute(before, "axis", 1)) % values.ndim
        if scale is not None and scale.size == 1 and values.shape[outputs] > 1:
            yield Finding(
                "warning",
                "per-channel",
                node.name,
                "Expected one scale an output channel, found one for all: that costs accuracy.",
                reexport(subject),
            )
        elif scale is not None and (axis != outputs or scale.size != values.shape[outputs]):
            yield Finding(
                "error",
                "per-channel",
                node.name,
                f"Expected {values.shape[outputs]} "
                f"scales along axis {outputs}, found {scale.size} along {axis}.",
                reexport(subject),
            )


def residuals(subject: Subject) -> Iterator[Finding]:
    """Of a residual add one input is quantised: the shortcut.

    Then the add is fused into the convolution that makes the other, and all of it is INT8.
    """
    graph = subject.graph
    if not subject.quantized:
        return
    depths = _depths(graph)
    for node in graph.nodes:
        if node.op_type != "Add" or not _is_residual(graph, node, depths):
            continue
        quantised = [name for name in node.input if _is_dequantize(graph.maker(name))]
        if len(quantised) == 2:
            yield Finding(
                "error",
                "residual",
                node.name,
                "Both inputs of a residual add are "
                "quantised; expected the shortcut alone: the add cannot be fused into "
                "the layer before it.",
                reexport(subject),
            )
        elif not quantised:
            yield Finding(
                "warning",
                "residual",
                node.name,
                "No input of a residual add is "
                "quantised; expected the shortcut: the layers around it hand over "
                "floats.",
                reexport(subject),
            )
        else:
            other = node.input[1] if quantised[0] == node.input[0] else node.input[0]
            if depths[quantised[0]] > depths[other]:
                yield Finding(
                    "error",
                    "residual",
                    node.name,
                    "Of a residual add the branch with "
                    "the layers is quantised; expected the shortcut.",
                    reexport(subject),
                )


def casts(subject: Subject) -> Iterator[Finding]:
    """No casts, but for the two of an FP16 file: behind the input, and at the embedding."""
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
            f"{len(found)} casts next to layers; expected {allowed}: each is a copy of a tensor.",
            reexport(subject),
        )


def floating(subject: Subject) -> Iterator[Finding]:
    """Which layers of an INT8 network stay in float."""
    total = sum(layer.macs for layer in subject.layers)
    left = [layer for layer in subject.layers if layer.precision not in ("int8", "uint8")]
    if not subject.quantized or not left:
        return
    share = sum(layer.macs for layer in left) / total if total else 1.0
    names = ", ".join(layer.node for layer in left[:4]) + (" ..." if len(left) > 4 else "")
    yield Finding(
        "note" if share < SMALL_SHARE else "warning",
        "float-layers",
        left[0].node,
        f"{len(left)} layers with {percent(share)} of the multiplications stay in float: {names}.",
        "Nothing, where they were left out on purpose.",
    )


def _layers(graph: Graph) -> Iterator[Any]:
    for node in graph.nodes:
        if node.op_type in WEIGHTED and len(node.input) > 1 and not node.name.startswith(HEAD):
            yield node


def _is_dequantize(node: Any | None) -> bool:
    return node is not None and node.op_type == DEQUANTIZE


def _is_residual(graph: Graph, node: Any, depths: Mapping[str, int]) -> bool:
    """Whether both inputs are computed from pictures, one of them with more layers on the way.

    (An activation such as GELU adds as well, but what it adds has the same layers behind it.)
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
    """Most layers on a way from the input to each tensor."""
    depths: dict[str, int] = {}
    for node in graph.nodes:
        before = max((depths.get(name, 0) for name in node.input), default=0)
        step = int(node.op_type in WEIGHTED)
        for name in node.output:
            depths[name] = before + step
    return depths


def _near_layer(graph: Graph, node: Any) -> bool:
    """Whether a cast hands floats to or from a layer or a quantiser."""
    kinds = (*WEIGHTED, QUANTIZE, DEQUANTIZE)
    before = graph.maker(node.input[0])
    around = [*graph.users(node.output[0]), *([] if before is None else [before])]
    return any(one.op_type in kinds for one in around) and not node.name.startswith(HEAD)


FOR_TENSORRT: tuple[Rule, ...] = (
    quantizers,
    placement,
    weights,
    residuals,
    casts,
    floating,
)

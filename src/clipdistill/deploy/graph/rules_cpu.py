"""The linter's rules for ONNX Runtime's CPU provider: what gets one of its integer kernels.

It has them for unsigned activations and signed weights (as kernels of x86 and ARM multiply), and
takes one for a node that stands between DequantizeLinear and QuantizeLinear on all sides.  Measured
2026-11, 2 AVX512-VNNI cores, onnxruntime 1.32: a resnet18 whose activations are int8 is slower than
its FP32 file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...core.wording import percent
from ...formats.onnx_wire import HEAD
from .findings import Finding, Rule, Subject, reexport
from .links import DEQUANTIZE, QUANTIZE, Graph, attribute
from .quantized import WEIGHTED
from .weights import channel_axes, stored_weight

SMALL_SHARE = 0.05
"""Layers in float that do less than this share of the multiplications are a note only."""
FUSED = ("Relu", "Clip")
"""Activations that ONNX Runtime takes into the quantiser behind them."""


def quantizers(subject: Subject) -> Iterator[Finding]:
    """Activations are uint8 with one scale, a scalar; all scales are positive FP32."""
    graph = subject.graph
    for node in graph.nodes:
        if node.op_type not in (QUANTIZE, DEQUANTIZE):
            continue
        scale = graph.array(node.input[1]) if len(node.input) > 1 else None
        if scale is None:
            yield Finding(
                "error",
                "scale",
                node.name,
                "Expected a constant scale, found one that is computed.",
                reexport(subject),
            )
            continue
        values = scale.astype(np.float64)
        good = np.isfinite(values).all() and (values > 0).all()
        if scale.dtype != np.float32 or not good:
            yield Finding(
                "error",
                "scale",
                node.name,
                "Expected positive, finite scales in FP32, "
                f"found {scale.dtype} from {values.min():.3g}.",
                reexport(subject),
            )
        if node.op_type == QUANTIZE and node.input[0] not in graph.constants:
            yield from _activation(subject, node, scale)


def _activation(subject: Subject, node: Any, scale: Any) -> Iterator[Finding]:
    graph = subject.graph
    zero = graph.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    kind = np.dtype(np.uint8) if zero is None else zero.dtype
    if kind != np.uint8:
        yield Finding(
            "error",
            "unsigned",
            node.name,
            f"Expected uint8 activations, found {kind}: "
            "the CPU provider then runs the layers in float between roundings, slower "
            "than FP32.",
            reexport(subject),
        )
    if scale.size != 1:
        yield Finding(
            "error",
            "per-tensor",
            node.name,
            f"Expected one scale for an activation, found {scale.size}.",
            reexport(subject),
        )
    elif scale.ndim:
        yield Finding(
            "warning",
            "scalar-scale",
            node.name,
            "Expected the scale as a scalar, found a list of one: additions then run in float.",
            reexport(subject),
        )


def layers(subject: Subject) -> Iterator[Finding]:
    """A quantised layer has int8 weights a channel, an int32 bias, and quantisers all around."""
    graph = subject.graph
    for node in graph.nodes:
        if node.op_type not in WEIGHTED or node.name.startswith(HEAD) or len(node.input) < 2:
            continue
        name, before = stored_weight(graph, node)
        if before is None:
            continue
        yield from _weight(subject, node, before, graph.array(name) if name else None)
        source = graph.maker(node.input[0])
        if source is None or source.op_type != DEQUANTIZE:
            yield Finding(
                "error",
                "placement",
                node.name,
                "Its weight is quantised, its input is not: it runs in float.",
                reexport(subject),
            )
        if node.op_type == "Conv" and not _quantised_behind(graph, node):
            yield Finding(
                "warning",
                "placement",
                node.name,
                "No quantiser stands directly behind it: it runs in float.",
                reexport(subject),
            )
        if len(node.input) > 2 and node.input[2] in graph.constants:
            yield Finding(
                "warning",
                "bias",
                node.name,
                "Expected an int32 bias behind "
                "DequantizeLinear, found a float: older ONNX Runtimes then run the layer "
                "in float.",
                reexport(subject),
            )


def _weight(subject: Subject, node: Any, before: Any, values: Any) -> Iterator[Finding]:
    if values is None or values.dtype != np.int8:
        found = "one that is computed" if values is None else str(values.dtype)
        yield Finding(
            "warning",
            "stored-weight",
            node.name,
            f"Expected a weight stored as int8, found {found}.",
            reexport(subject),
        )
        return
    graph = subject.graph
    scale = graph.array(before.input[1])
    zero = graph.array(before.input[2]) if len(before.input) > 2 else None
    outputs, _ = channel_axes(node)
    axis = int(attribute(before, "axis", 1)) % values.ndim
    if zero is not None and zero.any():
        yield Finding(
            "error",
            "zero-point",
            node.name,
            "Expected weights with a zero point of 0.",
            reexport(subject),
        )
    if scale is None:
        return  # another rule says so
    if scale.size == 1 and values.shape[outputs] > 1:
        yield Finding(
            "warning",
            "per-channel",
            node.name,
            "Expected one scale an output channel, found one for all: that costs accuracy.",
            reexport(subject),
        )
    elif axis != outputs or scale.size != values.shape[outputs]:
        yield Finding(
            "error",
            "per-channel",
            node.name,
            f"Expected {values.shape[outputs]} "
            f"scales along axis {outputs}, found {scale.size} along {axis}.",
            reexport(subject),
        )


def additions(subject: Subject) -> Iterator[Finding]:
    """Additions and products of activations run on integers, or on floats: not half and half."""
    graph = subject.graph
    if not subject.quantized:
        return
    for node in graph.nodes:
        if node.op_type not in ("Add", "Mul") or node.name.startswith(HEAD):
            continue
        sides = [_is_dequantize(graph.maker(name)) for name in node.input]
        behind = _quantised_behind(graph, node)
        if all(sides) and not behind:
            yield Finding(
                "note",
                "float-join",
                node.name,
                f"An {node.op_type} of two integer "
                "tensors gives floats: there is no quantiser behind it.",
                "Nothing; it costs a little time.",
            )


def floating(subject: Subject) -> Iterator[Finding]:
    """What stays in float in an INT8 network."""
    if not subject.quantized:
        return
    total = sum(layer.macs for layer in subject.layers)
    left = [layer for layer in subject.layers if layer.precision not in ("int8", "uint8")]
    share = sum(layer.macs for layer in left) / total if total else 1.0
    if left:
        names = ", ".join(layer.node for layer in left[:4]) + (" ..." if len(left) > 4 else "")
        yield Finding(
            "note" if share < SMALL_SHARE else "warning",
            "float-layers",
            left[0].node,
            f"{len(left)} layers with {percent(share)} of the multiplications stay in "
            f"float: {names}.",
            "Nothing, where they were left out on purpose.",
        )
    graph = subject.graph
    kinds = Counter(node.op_type for node in graph.nodes if _between_quantizers(graph, node))
    if kinds:
        text = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        yield Finding(
            "note",
            "float-operators",
            "",
            f"These run in float between quantisers: {text}.",
            "Nothing; a network with fewer of them (ResNet) gains more from INT8.",
        )


def half_precision(subject: Subject) -> Iterator[Finding]:
    """No FP16: most CPUs have no kernels for it."""
    if subject.half:
        yield Finding(
            "error",
            "fp16",
            "",
            "Expected FP32 or INT8, found FP16: the CPU provider "
            "casts around every layer, slower than FP32.",
            reexport(subject),
        )


def _is_dequantize(node: Any | None) -> bool:
    return node is not None and node.op_type == DEQUANTIZE


def _quantised_behind(graph: Graph, node: Any) -> bool:
    """Whether a quantiser is all that takes a node's output, at most an activation between."""
    after = graph.only_user(node.output[0])
    if after is not None and after.op_type in FUSED:
        after = graph.only_user(after.output[0])
    return after is not None and after.op_type == QUANTIZE


def _between_quantizers(graph: Graph, node: Any) -> bool:
    """Whether an operator without an integer kernel takes from integers or gives to them."""
    if node.op_type not in FLOAT_OPERATORS or node.name.startswith(HEAD):
        return False
    before = any(_is_dequantize(graph.maker(name)) for name in node.input)
    after = any(one.op_type == QUANTIZE for one in graph.users(node.output[0]))
    return before or after


FLOAT_OPERATORS = (
    "HardSwish",
    "HardSigmoid",
    "Erf",
    "LayerNormalization",
    "Softmax",
    "Relu",
    "Clip",
    "Elu",
    "Tanh",
    "Pow",
    "Div",
    "ReduceMean",
    "PRelu",
)
"""Operators for which the CPU provider has no integer kernel (Relu, Clip: when not taken in)."""

FOR_CPU: tuple[Rule, ...] = (quantizers, layers, additions, floating, half_precision)

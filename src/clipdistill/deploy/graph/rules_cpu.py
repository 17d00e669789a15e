"""The linter's rules for ONNX Runtime's CPU provider: conditions for its integer kernels.

The provider has kernels for unsigned activations and signed weights (as x86 and ARM multiply), and
uses one for a node with DequantizeLinear before every input and QuantizeLinear after its output.
Measured 2026-11, 2 AVX512-VNNI cores, onnxruntime 1.32: a resnet18 with int8 activations is slower
than its FP32 file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...formats.onnx_wire import HEAD
from .findings import Finding, Rule, Subject, reexport
from .links import DEQUANTIZE, QUANTIZE, Graph, is_dequantize
from .rules_int8 import float_layers, stored_weights, weighted_nodes
from .weights import stored_weight

FUSED = ("Relu", "Clip")
"""Activations that ONNX Runtime fuses into the quantiser after them."""


def quantizers(subject: Subject) -> Iterator[Finding]:
    """Activations are uint8 with one scalar scale; all scales are positive FP32."""
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
                "Expected a constant scale, found a computed one.",
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
            "the CPU provider then runs the layers in float and rounds between them, slower "
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
            "Expected a scalar scale, found a list of one: additions then run in float.",
            reexport(subject),
        )


def layers(subject: Subject) -> Iterator[Finding]:
    """A quantised layer has symmetric weights, an int32 bias and quantisers on all sides."""
    graph = subject.graph
    for node in weighted_nodes(graph):
        name, before = stored_weight(graph, node)
        if before is None:
            continue
        values = graph.array(name) if name else None
        zero = graph.array(before.input[2]) if len(before.input) > 2 else None
        if values is not None and values.dtype == np.int8 and zero is not None and zero.any():
            yield Finding(
                "error",
                "zero-point",
                node.name,
                "Expected weights with a zero point of 0, found another.",
                reexport(subject),
            )
        source = graph.maker(node.input[0])
        if source is None or source.op_type != DEQUANTIZE:
            yield Finding(
                "error",
                "placement",
                node.name,
                "Expected quantisers on input and weight, found none on the input: the layer "
                "runs in float.",
                reexport(subject),
            )
        if node.op_type == "Conv" and not _quantised_behind(graph, node):
            yield Finding(
                "warning",
                "placement",
                node.name,
                "Expected a quantiser directly after the layer, found none: it runs in float.",
                reexport(subject),
            )
        if len(node.input) > 2 and node.input[2] in graph.constants:
            yield Finding(
                "warning",
                "bias",
                node.name,
                "Expected an int32 bias after DequantizeLinear, found a float: older ONNX Runtimes "
                "then run the layer in float.",
                reexport(subject),
            )


def additions(subject: Subject) -> Iterator[Finding]:
    """Additions and products of integer tensors have a quantiser after them."""
    graph = subject.graph
    if not subject.quantized:
        return
    for node in graph.nodes:
        if node.op_type not in ("Add", "Mul") or node.name.startswith(HEAD):
            continue
        sides = [is_dequantize(graph.maker(name)) for name in node.input]
        behind = _quantised_behind(graph, node)
        if all(sides) and not behind:
            yield Finding(
                "note",
                "float-join",
                node.name,
                f"Expected a quantiser after an {node.op_type} of two integer tensors, found none: "
                "it gives floats.",
                "None; it costs a little time.",
            )


def float_operators(subject: Subject) -> Iterator[Finding]:
    """Operators that run in float between quantisers are listed."""
    if not subject.quantized:
        return
    graph = subject.graph
    kinds = Counter(node.op_type for node in graph.nodes if _between_quantizers(graph, node))
    if kinds:
        text = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        yield Finding(
            "note",
            "float-operators",
            "",
            f"These operators run in float between quantisers: {text}.",
            "None; a network with fewer of them (ResNet) gains more from INT8.",
        )


def half_precision(subject: Subject) -> Iterator[Finding]:
    """The file has no FP16, for which most CPUs have no kernels."""
    if subject.half:
        yield Finding(
            "error",
            "fp16",
            "",
            "Expected FP32 or INT8, found FP16: the CPU provider "
            "casts around every layer, slower than FP32.",
            reexport(subject),
        )


def _quantised_behind(graph: Graph, node: Any) -> bool:
    """Whether a quantiser is the only user of a node's output, directly or after an activation."""
    after = graph.only_user(node.output[0])
    if after is not None and after.op_type in FUSED:
        after = graph.only_user(after.output[0])
    return after is not None and after.op_type == QUANTIZE


def _between_quantizers(graph: Graph, node: Any) -> bool:
    """Whether an operator without an integer kernel is next to a quantiser."""
    if node.op_type not in FLOAT_OPERATORS or node.name.startswith(HEAD):
        return False
    before = any(is_dequantize(graph.maker(name)) for name in node.input)
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
"""Operators without an integer kernel in the CPU provider (Relu, Clip: when not fused)."""

FOR_CPU: tuple[Rule, ...] = (
    quantizers,
    stored_weights,
    layers,
    additions,
    float_layers,
    float_operators,
    half_precision,
)

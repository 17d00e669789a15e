"""The INT8 file for ONNX Runtime's CPU provider, made from the trained Q/DQ graph.

The provider has integer kernels for unsigned activations and signed weights, and uses one for a
node with DequantizeLinear before every input and QuantizeLinear after its output.  So every tensor
between two such nodes gets a quantiser: the trained one where the student has one, else one that
covers the values measured on images (mostly before additions).  Weights stay as trained; biases
become int32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import helper

from ...core.errors import FormatError
from .links import DEQUANTIZE, QUANTIZE, Graph, attribute, is_dequantize
from .quantized import WEIGHTED, quantize
from .ranges import Range

JOINING = ("Add", "Mul", "Concat")
"""Operators with integer kernels that combine activations."""
POOLING = ("GlobalAveragePool", "AveragePool")
"""Operators with integer kernels and an output within the range of their input."""
MOVING = ("MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice")
"""Operators that only move values: input and output share one quantiser."""
LOWEST = {"Relu": 0.0, "Sigmoid": 0.0, "HardSigmoid": 0.0, "Softmax": 0.0, "HardSwish": -0.375}
"""Least output of an operator (HardSwish: at -1.5)."""
BIAS_LIMIT = 2.0**30
"""Most steps of a bias, half the range of int32: the kernels add sums of products to it."""

Measure = Callable[[Any, list[str]], Mapping[str, Range]]
"""(model, names of tensors) -> range of each."""


@dataclass(frozen=True)
class Grid:
    """A quantiser of unsigned 8-bit values.

    Attributes:
        scale: step between two values.
        zero: stored value of 0.
    """

    scale: float
    zero: int

    @property
    def range(self) -> Range:
        """Least and greatest value that it represents."""
        return Range(-self.zero * self.scale, (255 - self.zero) * self.scale)

    @classmethod
    def covering(cls, span: Range) -> Grid:
        """Return the finest quantiser that covers a range and represents 0 exactly."""
        low, high = min(span.low, 0.0), max(span.high, 0.0)
        scale = float(np.float32(max(high - low, 1e-6) / 255))
        return cls(scale, round(min(255.0, max(0.0, -low / scale))))


@dataclass
class _Plan:
    """Nodes and tensors to quantise.

    Attributes:
        trained: tensor -> step of its trained quantiser.
        nodes: nodes that will run on integers.
        tensors: tensors that get a quantiser, in the file's order.
        same: tensor -> tensor with which it shares a quantiser.
        removed: activation nodes that their quantiser replaces.
    """

    trained: dict[str, float]
    nodes: list[Any] = field(default_factory=list)
    tensors: dict[str, None] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    removed: list[Any] = field(default_factory=list)

    def root(self, name: str) -> str:
        """Return the tensor that determines the quantiser of `name`."""
        while name in self.same:
            name = self.same[name]
        return name


def to_cpu_form(model: Any, measure: Measure) -> None:
    """Turn the trained Q/DQ graph into u8 activations and s8 weights, in place.

    Args:
        model: with weights stored as INT8 (`quantized.store_int8_weights`).
        measure: measures ranges of tensors in the original graph.
    """
    original = type(model).FromString(model.SerializeToString())
    graph = Graph(model)
    plan = _Plan(_strip(graph))
    _choose(graph, plan)
    grids = _grids(graph, plan, lambda names: measure(original, names))
    _replace_activations(graph, plan, grids)
    _insert(graph, plan, grids)
    _round_biases(graph, plan, grids)
    graph.finish()


def _strip(graph: Graph) -> dict[str, float]:
    """Remove the activations' quantisers; returns tensor -> trained step (the largest)."""
    steps: dict[str, float] = {}
    gone = []
    for node in graph.nodes:
        if node.op_type != QUANTIZE:
            continue
        scale = graph.array(node.input[1])
        after = graph.users(node.output[0])
        if scale is None or scale.size != 1 or any(one.op_type != DEQUANTIZE for one in after):
            raise FormatError(
                f"{node.name}: expected a constant scale, and DequantizeLinear after it."
            )
        source = node.input[0]
        steps[source] = max(steps.get(source, 0.0), float(scale))
        for one in after:
            graph.redirect(one.output[0], source)
        gone += [node, *after]
    graph.remove(gone)
    return steps


def _choose(graph: Graph, plan: _Plan) -> None:
    """Choose the nodes that run on integers, in the graph's order."""
    integer: set[str] = set(plan.trained)
    for node in graph.nodes:
        if _has_int8_weight(graph, node) and node.input[0] in plan.trained:
            _take(graph, plan, integer, node, [node.input[0]])
        elif node.op_type in MOVING and node.input[0] in integer:
            integer.add(node.output[0])
        elif _can_join(graph, plan, node, integer):
            _take(graph, plan, integer, node, node.input)
    for node in graph.nodes:
        if node.op_type in MOVING and _needed(graph, plan, node.output[0]):
            _share(plan, node.input[0], node.output[0])


def _take(graph: Graph, plan: _Plan, integer: set[str], node: Any, inputs: Iterable[str]) -> None:
    """Make a node run on integers: quantise its inputs, and its output after an activation."""
    plan.nodes.append(node)
    for name in inputs:
        plan.tensors[name] = None
    after, removed = _behind_activation(graph, node.output[0])
    if node.op_type in ("Gemm", "MatMul") and after not in plan.trained:
        return  # these have kernels with float output
    if after in graph.outputs:
        return
    plan.tensors[after] = None
    plan.removed += removed
    integer.add(after)


def _has_int8_weight(graph: Graph, node: Any) -> bool:
    return node.op_type in WEIGHTED and is_dequantize(graph.maker(node.input[1]))


def _can_join(graph: Graph, plan: _Plan, node: Any, integer: set[str]) -> bool:
    """Whether all inputs of an addition, product or pool are integers."""
    if not all(name in integer for name in node.input):
        return False
    if node.op_type in POOLING:
        return _needed(graph, plan, node.output[0])
    return node.op_type in JOINING


def _needed(graph: Graph, plan: _Plan, name: str) -> bool:
    """Whether a tensor reaches a quantiser directly or through moving operators only."""
    if name in plan.trained or name in plan.tensors:
        return True
    return any(
        one.op_type in MOVING and one.input[0] == name and _needed(graph, plan, one.output[0])
        for one in graph.users(name)
    )


def _share(plan: _Plan, before: str, after: str) -> None:
    """Make two tensors share one quantiser, the trained one if there is one."""
    first, second = plan.root(before), plan.root(after)
    plan.tensors.setdefault(before)
    plan.tensors.setdefault(after)
    if first == second:
        return
    if first in plan.trained and second in plan.trained:
        step = max(plan.trained[first], plan.trained[second])
        plan.trained[first] = plan.trained[second] = step
    if second in plan.trained and first not in plan.trained:
        plan.trained[first] = plan.trained[second]
    plan.same[second] = first


def _behind_activation(graph: Graph, name: str) -> tuple[str, list[Any]]:
    """Return the tensor after a Relu or Clip, and that node; else the tensor itself."""
    node = graph.only_user(name)
    if node is not None and (node.op_type == "Relu" or _clip(graph, node) is not None):
        return node.output[0], [node]
    return name, []


def _clip(graph: Graph, node: Any) -> Range | None:
    """Return the bounds of a Clip that starts at 0; None for other nodes."""
    if node.op_type != "Clip" or len(node.input) < 3:
        return None
    low, high = (graph.array(name) for name in node.input[1:3])
    if low is None or high is None or float(low) != 0:
        return None
    return Range(0.0, float(high))


def _bounds(graph: Graph, name: str) -> Range:
    """Return the bounds of a tensor that follow from its operator, for any image."""
    node = graph.maker(name)
    if node is None:
        return Range(-np.inf, np.inf)
    if node.op_type in (*MOVING, *POOLING):
        return _bounds(graph, node.input[0])
    clip = _clip(graph, node)
    if clip is not None:
        return clip
    high = 1.0 if node.op_type in ("Sigmoid", "HardSigmoid", "Softmax") else np.inf
    return Range(LOWEST.get(node.op_type, -np.inf), high)


def _grids(
    graph: Graph, plan: _Plan, measure: Callable[[list[str]], Mapping[str, Range]]
) -> dict[str, Grid]:
    """Determine the quantiser of each tensor."""
    roots = list(dict.fromkeys(plan.root(name) for name in plan.tensors))
    untrained = [name for name in roots if name not in plan.trained]
    seen = measure(untrained)
    found = {}
    for name in roots:
        bounds = _bounds(graph, name)
        step = plan.trained.get(name)
        if step is not None:
            found[name] = trained_grid(step, bounds)
        else:
            span = seen[name]
            found[name] = Grid.covering(
                Range(max(span.low, bounds.low), min(span.high, bounds.high))
            )
    return {name: found[plan.root(name)] for name in plan.tensors}


def trained_grid(step: float, bounds: Range) -> Grid:
    """Convert a trained quantiser to unsigned values, on the same grid wherever possible.

    Trained values are -128 to 127 steps.  Where none is negative the zero point can be 0: then the
    quantiser includes a Relu, and values above 127 steps fit.  Finer steps would come closer to the
    float network, but not to the trained one: a resnet18 with PTQ has a cosine of 0.9992 with it on
    the same grid, and 0.9984 with half the step.
    """
    if bounds.high < np.inf:  # a Clip, which a quantiser with the same bounds includes
        return Grid.covering(Range(max(bounds.low, -128 * step), min(bounds.high, 127 * step)))
    zero = 128 if bounds.low == -np.inf else min(128, math.ceil(-bounds.low / step))
    return Grid(step, zero)


def _replace_activations(graph: Graph, plan: _Plan, grids: Mapping[str, Grid]) -> None:
    """Remove each Relu or Clip whose quantiser clips at the same bounds."""
    gone = []
    for node in plan.removed:
        grid = grids[node.output[0]]
        clip = _clip(graph, node) or Range(0.0, np.inf)
        if grid.zero == 0 and grid.range.high <= clip.high * (1 + 1e-6):
            before = graph.maker(node.input[0])
            assert before is not None  # `_behind_activation` found it after one
            before.output[0], node.output[0] = node.output[0], f"{node.output[0]}/replaced"
            gone.append(node)
    graph.remove(gone)


def _insert(graph: Graph, plan: _Plan, grids: Mapping[str, Grid]) -> None:
    """Insert a Q/DQ pair after each tensor, and redirect the tensor's users to its output."""
    added = []
    for name in plan.tensors:
        grid = grids[name]
        scale = graph.add_constant(f"{name}/u8/scale", np.array(grid.scale, np.float32))
        zero = graph.add_constant(f"{name}/u8/zero", np.array(grid.zero, np.uint8))
        inside, out = f"{name}/u8", f"{name}/u8/float"
        graph.redirect(name, out)
        added += [
            helper.make_node(QUANTIZE, [name, scale, zero], [inside], f"{inside}/{QUANTIZE}"),
            helper.make_node(DEQUANTIZE, [inside, scale, zero], [out], f"{inside}/{DEQUANTIZE}"),
        ]
    graph.insert(added)


def _round_biases(graph: Graph, plan: _Plan, grids: Mapping[str, Grid]) -> None:
    """Round biases to int32 in steps of input times weight, the unit of the kernels' sums."""
    added = []
    for node in plan.nodes:
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3:
            continue
        bias = graph.array(node.input[2])
        weight = graph.maker(node.input[1])
        if bias is None or weight is None:
            continue
        source = graph.maker(graph.maker(node.input[0]).input[0]).input[0]  # type: ignore[union-attr]
        steps = _room_for_bias(graph, weight, np.abs(bias), grids[source].scale)
        steps = steps * np.float32(grids[source].scale)
        name = f"{node.output[0]}/bias"
        rounded = np.rint(bias.astype(np.float64) / steps).astype(np.int32)
        inputs = [
            graph.add_constant(f"{name}/int32", rounded),
            graph.add_constant(f"{name}/scale", np.broadcast_to(steps, bias.shape)),
            graph.add_constant(f"{name}/zero", np.zeros(bias.shape, np.int32)),
        ]
        added.append(helper.make_node(DEQUANTIZE, inputs, [name], f"{name}/dequantize", axis=0))
        node.input[2] = name
    graph.insert(added)


def _room_for_bias(graph: Graph, weight: Any, bias: Any, step: float) -> Any:
    """Raise a weight's scales where a bias would not fit into int32 (nearly dead channels)."""
    scale = graph.array(weight.input[1])
    assert scale is not None  # `quantized` made it
    least = (bias / (step * BIAS_LIMIT)).astype(np.float32)
    if scale.size != bias.size or (scale >= least).all():
        return scale
    raised = np.maximum(scale, least)
    values, zero = graph.array(weight.input[0]), graph.array(weight.input[2])
    assert values is not None
    assert zero is not None
    axis = int(attribute(weight, "axis", 1)) % values.ndim
    shape = [-1 if side == axis else 1 for side in range(values.ndim)]
    again = quantize(values.astype(np.float32) * scale.reshape(shape), raised, axis)
    weight.input[0] = graph.add_constant(f"{weight.input[0]}/raised", again)
    weight.input[1] = graph.add_constant(f"{weight.input[1]}/raised", raised)
    return raised

"""INT8 for LiteRT: the student's own weights and ranges in the converted network.

litert-torch converts the student in floating point, with weights that are rounded as the student
rounds them; ai-edge-quantizer finds the same steps in them again.  A trained quantiser belongs to
the tensor of the converted network that has its values on an image.  (Behind an average pool it is
lost: LiteRT's kernel keeps the step of its input.)  As in the file for ONNX
Runtime (`graph.cpu`), tensors between two integer operators get a quantiser of their own, measured
on images, and what the student keeps in floating point stays so.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import FormatError
from ..formats.classifier import OnnxCard
from .graph.cpu import LOWEST, trained_grid
from .graph.ranges import Range
from .litert import copied, quiet

if TYPE_CHECKING:
    import torch

INPUT_NAME, SIGNATURE = "args_0", "serving_default"
"""What litert-torch names the input of a module's forward, and the only signature."""
SAME = 1e-4
"""Largest difference of a quantiser's input to the same tensor in LiteRT, relative to its largest
magnitude; rounding in float32 changes 1e-6."""
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
MOVING = (
    *("MAX_POOL_2D", "RESHAPE", "TRANSPOSE", "PAD", "PADV2", "SQUEEZE", "EXPAND_DIMS", "SLICE"),
    "STRIDED_SLICE",
)
"""Operators that only move values: input and output share one quantiser."""
JOINING = (
    *("ADD", "MUL", "CONCATENATION", "AVERAGE_POOL_2D", "HARD_SWISH", "LOGISTIC", "RELU", "RELU6"),
    *("GELU", "LEAKY_RELU"),
)
"""Operators that run on integers where all their inputs are integers."""
LOWEST_OF = {
    "RELU": LOWEST["Relu"],
    "RELU6": LOWEST["Relu"],
    "LOGISTIC": LOWEST["Sigmoid"],
    "HARD_SWISH": LOWEST["HardSwish"],
}
"""Least output of an operator."""
ACTIVATIONS = {1: "RELU", 3: "RELU6"}
"""ActivationFunctionType, part of a layer in LiteRT."""


def float_network(network: torch.nn.Module, card: OnnxCard) -> torch.nn.Module:
    """A copy in floating point that the converter can read.

    Branches are merged and computed paddings made constant, as for ONNX files.  Of an INT8 student
    the weights are rounded, and its quantisers taken out.
    """
    import torch

    from ..models.compression.merging import can_merge, merge
    from ..models.compression.padding import fix_padding

    plain = copied(network)
    side = card.preprocess.size
    if card.compression is None:
        if can_merge(plain):
            merge(plain, side)
        fix_padding(plain, side)
    modules: list[Any] = list(plain.modules())
    for module in modules:
        weight_quantizer = getattr(module, "weight_quantizer", None)
        if weight_quantizer is not None:
            with torch.no_grad():
                weight = module.weight
                rounded = weight_quantizer(weight) if weight_quantizer.is_enabled else weight
                rounded = rounded.detach().clone()
            module.export()  # back to torch's own class
            for name in ("weight_quantizer", "input_quantizer", "output_quantizer"):
                if hasattr(module, name):
                    delattr(module, name)
            module.weight.data = rounded
        if hasattr(module, "residual_quantizer"):
            module.residual_quantizer = torch.nn.Identity()
    return plain.eval()


@dataclass
class _Network:
    """The converted network.

    Attributes:
        tensors: name of each tensor.
        nodes: operators, in order: kind and table.
        inputs: numbers of the graph's inputs.
        makers: tensor -> the operator that computes it.
        trained: tensor -> step of its trained quantiser.
    """

    tensors: list[str]
    nodes: list[tuple[str, Any]]
    inputs: list[int]
    makers: dict[int, tuple[str, Any]] = field(default_factory=dict)
    trained: dict[int, float] = field(default_factory=dict)


def to_int8(
    network: torch.nn.Module, path: Path, card: OnnxCard, pixels: NDArray[np.float32]
) -> bytes:
    """Quantise a converted network as its student is.

    Args:
        network: the student, with its quantisers.
        path: `float_network` of it, converted.
        card: for messages.
        pixels: normalised images, float32 (N, 3, S, S).

    Raises:
        FormatError: a quantiser of the student is not found in the converted network.
    """
    with quiet():
        from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe

        found = _read(path)
        _place(found, _trained(network, pixels[:1]), path, pixels[:1], card)
        maker = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
        chosen = {id(node) for node in _integer(found)}
        names = qtyping.TFLOperationName
        left = algorithm_manager.AlgorithmName.NO_QUANTIZE
        for kind in (names.INPUT, names.OUTPUT):
            maker.update_quantization_recipe(".*", kind, algorithm_key=left)
        for _, node in found.nodes:
            if id(node) not in chosen:
                scope = ";".join(found.tensors[one] for one in node.outputs if one >= 0) + ";"
                maker.update_quantization_recipe(
                    f"^{re.escape(scope)}$", names.ALL_SUPPORTED, algorithm_key=left
                )
        images = [{INPUT_NAME: one[None]} for one in pixels]
        seen = maker.calibrate({SIGNATURE: images}, num_threads=1)
        for name, span in _ranges(found).items():
            shape = np.shape(seen[name]["min"]) if seen.get(name) else ()
            seen[name] = {
                "min": np.full(shape, span.low, np.float32),
                "max": np.full(shape, span.high, np.float32),
            }
        return bytes(maker.quantize(seen, enable_progress_report=False).quantized_model)


def _read(path: Path) -> _Network:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    graph = model.subgraphs[0]
    kinds = {
        number: name
        for name, number in vars(schema.BuiltinOperator).items()
        if isinstance(number, int)
    }
    codes = [max(one.builtinCode, one.deprecatedBuiltinCode) for one in model.operatorCodes]
    nodes = [(kinds[codes[node.opcodeIndex]], node) for node in graph.operators]
    found = _Network([one.name.decode() for one in graph.tensors], nodes, list(graph.inputs))
    for kind, node in nodes:
        found.makers.update({one: (kind, node) for one in node.outputs})
    return found


def _trained(
    network: torch.nn.Module, pixels: NDArray[np.float32]
) -> list[tuple[NDArray[np.float32], float]]:
    """Input and step of each activation's quantiser on an image, without rounding activations."""
    import torch

    from ..models.compression.quantization import modelopt

    kind = modelopt().quantizer
    found: list[tuple[NDArray[np.float32], float]] = []
    quantizers = [
        module for module in network.modules() if isinstance(module, kind) and module.is_enabled
    ]
    activations = [module for module in quantizers if module.axis is None]

    def note(quantizer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        found.append((inputs[0].detach().cpu().numpy().copy(), float(quantizer.amax) / 127))

    handles = [module.register_forward_pre_hook(note) for module in activations]
    try:
        with _disabled(activations), torch.no_grad():
            network(torch.from_numpy(pixels).to(next(network.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextlib.contextmanager
def _disabled(quantizers: list[Any]) -> Iterator[None]:
    for quantizer in quantizers:
        quantizer.disable_quant()
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.enable_quant()


def _place(
    found: _Network,
    trained: list[tuple[NDArray[np.float32], float]],
    path: Path,
    pixels: NDArray[np.float32],
    card: OnnxCard,
) -> None:
    """Find the tensor of each trained quantiser by its values on an image."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=path.read_bytes(),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        num_threads=1,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(found.inputs[0], pixels)
    interpreter.invoke()
    values = {one: interpreter.get_tensor(one) for one in (*found.inputs, *found.makers)}
    for value, step in trained:
        turned = value.transpose(0, 2, 3, 1) if value.ndim == 4 else value
        bound = SAME * max(float(np.abs(value).max()), 1e-6)
        same = [
            number
            for number, other in values.items()
            if any(
                other.size == one.size and np.abs(other.reshape(one.shape) - one).max() <= bound
                for one in (turned, value)
            )
        ]
        if not same:
            raise FormatError(
                f"A quantiser of the student is not in the network that litert-torch made of "
                f"{card.arch} (values of shape {value.shape}). Choose another architecture, or "
                "export the student that it was quantised from."
            )
        for number in same:
            found.trained[number] = max(step, found.trained.get(number, 0.0))


def _integer(found: _Network) -> Iterator[Any]:
    """The operators that run on integers, in the graph's order."""
    integer = set(found.trained)
    moved = set(found.trained)
    computed = {number for number in found.makers} | set(found.inputs)
    for kind, node in found.nodes:
        sources = [one for one in node.inputs if one in computed]
        if not sources:
            continue
        if kind in WEIGHTED:
            wanted = node.inputs[0] in moved and len(sources) == 1
        else:
            wanted = kind in (*MOVING, *JOINING) and all(one in integer for one in sources)
        if not wanted:
            continue
        if kind in MOVING and sources[0] in moved:
            moved.update(node.outputs)
        integer.update(node.outputs)
        yield node


def _ranges(found: _Network) -> dict[str, Range]:
    """Ranges of the tensors with a trained quantiser, by name."""
    ranges = {}
    for number, step in found.trained.items():
        span = trained_grid(step, _bounds(found, number)).range
        while True:
            ranges[found.tensors[number]] = span
            kind, node = found.makers.get(number, ("", None))
            if kind not in MOVING or node.inputs[0] in found.trained:
                break
            number = node.inputs[0]  # they share one quantiser, which the input determines
    return ranges


def _bounds(found: _Network, number: int) -> Range:
    """Bounds of a tensor that follow from its operator, for any image."""
    kind, node = found.makers.get(number, ("", None))
    if kind in (*MOVING, "AVERAGE_POOL_2D"):
        return _bounds(found, node.inputs[0])
    options = getattr(node, "builtinOptions", None)
    kind = ACTIVATIONS.get(getattr(options, "fusedActivationFunction", 0), kind)
    high = {"RELU6": 6.0, "LOGISTIC": 1.0}.get(kind, np.inf)
    return Range(LOWEST_OF.get(kind, -np.inf), high)

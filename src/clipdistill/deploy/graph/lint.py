"""The linter: rules that check a stored graph for what its target refuses or runs slowly.

A rule is a function from the file to findings.  `rules_file` has the rules for every file,
`rules_tensorrt` and `rules_cpu` those for one target, `rules_int8` those that both use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import TensorProto

from ...core.errors import FormatError
from ...formats.classifier import OnnxCard, Target
from ...formats.onnx_wire import HEAD
from .findings import Finding, Severity, Subject
from .links import Graph, opset_of, volume
from .quantized import is_quantized
from .rules_cpu import FOR_CPU
from .rules_file import FOR_EVERY_FILE
from .rules_tensorrt import FOR_TENSORRT
from .weights import Layer, find_layers

OF_TARGET = {"tensorrt": FOR_TENSORRT, "onnxruntime": FOR_CPU}


@dataclass(frozen=True)
class LintReport:
    """Result of the rules for one file.

    Attributes:
        target: runtime it was checked for.
        opset: version of ONNX's operators.
        ir_version: version of the file format.
        findings: findings of the rules, errors first.
        layers: layers with weights.
    """

    target: Target
    opset: int
    ir_version: int
    findings: tuple[Finding, ...]
    layers: tuple[Layer, ...]

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Findings of one severity."""
        return tuple(one for one in self.findings if one.severity == severity)

    @property
    def macs(self) -> int:
        """Multiplications per image, of the layers where they are known."""
        return sum(layer.macs or 0 for layer in self.layers)

    @property
    def uncounted(self) -> int:
        """Number of layers whose multiplications are unknown."""
        return sum(layer.macs is None for layer in self.layers)

    @property
    def int8_macs_share(self) -> float:
        """Share of the multiplications with INT8 weights."""
        return self._macs_share(lambda layer: layer.precision in ("int8", "uint8"))

    @property
    def two_four_weights_share(self) -> float:
        """Share of the weights in layers stored as 2:4."""
        total = sum(volume(layer.shape) for layer in self.layers)
        sparse = sum(volume(layer.shape) for layer in self.layers if layer.two_four)
        return sparse / total if total else 0.0

    @property
    def two_four_macs_share(self) -> float:
        """Share of the multiplications in layers stored as 2:4."""
        return self._macs_share(lambda layer: layer.two_four)

    @property
    def engaging_macs_share(self) -> float:
        """Share of the multiplications that sparse kernels can do: 2:4 with aligned channels."""
        return self._macs_share(lambda layer: layer.engages)

    def _macs_share(self, wanted: Any) -> float:
        chosen = sum(layer.macs or 0 for layer in self.layers if wanted(layer))
        return chosen / self.macs if self.macs else 0.0


def lint_model(model: Any, target: Target, card: OnnxCard | None) -> LintReport:
    """Apply every rule.

    Args:
        model: model from `files.load_graph`, which refuses unsafe files.
        target: runtime that the file should be ready for.
        card: metadata of the file; None when it was not made by `clipdistill export`.

    Raises:
        FormatError: a stored tensor is damaged.
    """
    graph = Graph(model)
    try:
        layers = find_layers(graph, HEAD)
        subject = Subject(graph, target, card, layers, is_quantized(model), _half(graph))
        rules = (*FOR_EVERY_FILE, *OF_TARGET[target])
        findings = [finding for rule in rules for finding in rule(subject)]
    except (ValueError, TypeError, IndexError) as error:
        raise FormatError(f"a tensor or node of the network is damaged: {error}") from error
    order = {"error": 0, "warning": 1, "note": 2}
    findings.sort(key=lambda finding: order[finding.severity])
    return LintReport(target, opset_of(model), model.ir_version, tuple(findings), layers)


def card_of(model: Any, path: Path) -> OnnxCard | None:
    """Read a file's metadata; None when it was not made by `clipdistill export`."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    try:
        return OnnxCard.from_metadata(path, metadata)
    except FormatError:
        return None


def _half(graph: Graph) -> bool:
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.proto.initializer)

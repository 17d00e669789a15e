"""Findings of the linter, and the file that its rules check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from ...formats.classifier import OnnxCard, Target
from .links import Graph
from .weights import Layer

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One finding of a rule.

    Attributes:
        severity: "error": the target refuses the file or runs it badly; "warning": it costs speed
            or accuracy; "note": for information.
        rule: name of the rule.
        node: name of the node; empty: the whole file.
        message: what was expected and what was found.
        advice: what to do.
    """

    severity: Severity
    rule: str
    node: str
    message: str
    advice: str


@dataclass(frozen=True)
class Subject:
    """The file that the rules check.

    Attributes:
        graph: network of the file.
        target: runtime that the file should be ready for.
        card: metadata of the file; None when it was not made by `clipdistill export`.
        layers: layers with weights.
        quantized: whether there are quantisers in the graph.
        half: whether weights or scales are FP16.
    """

    graph: Graph
    target: Target
    card: OnnxCard | None
    layers: tuple[Layer, ...]
    quantized: bool
    half: bool


Rule = Callable[[Subject], Iterator[Finding]]


def reexport(subject: Subject) -> str:
    """Advise to export the file again for its target."""
    return f"Make it again with: clipdistill export STUDENT OUT.onnx --target {subject.target}"

"""What the linter says, and about what."""

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
    """Something that a rule found.

    Attributes:
        severity: "error": the target refuses the file or runs it badly; "warning": it costs speed
            or accuracy; "note": worth knowing.
        rule: the rule's name.
        node: the node it is about; empty: the whole file.
        message: what was expected, and what was found.
        advice: what to do.
    """

    severity: Severity
    rule: str
    node: str
    message: str
    advice: str


@dataclass(frozen=True)
class Subject:
    """The file that is looked at.

    Attributes:
        graph: its network.
        target: the runtime it should be ready for.
        card: what it says of itself; None for a file that is not ours.
        layers: its layers with weights.
        quantized: whether there are quantisers in it.
        half: whether its weights or scales are FP16.
    """

    graph: Graph
    target: Target
    card: OnnxCard | None
    layers: tuple[Layer, ...]
    quantized: bool
    half: bool


Rule = Callable[[Subject], Iterator[Finding]]
REEXPORT = "Make it again with: clipdistill export STUDENT OUT.onnx --target {target}"


def reexport(subject: Subject) -> str:
    """The advice to make the file again."""
    return REEXPORT.format(target=subject.target)

"""The linter's rules for every file: versions, domains, input, batch norms, sparsity."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from ...core.errors import first_line
from ...core.wording import many
from ...formats.classifier import INPUT, OPSET
from .files import HALF_OPSET
from .findings import Finding, Rule, Severity, Subject, reexport
from .links import opset_of
from .weights import stored_weight

OLDEST_QUANTIZED = 13
"""First opset with an axis in quantisers, for one scale per channel of weights."""
NEWEST_OPSET = 25
"""Newest opset that these rules cover; newer ones are refused."""
NEWEST_IR = 10
"""Newest file version that ONNX Runtime 1.18 and TensorRT 10 read; ours have 8 or 9."""
STANDARD = ("", "ai.onnx")
BUILT_IN = {"onnxruntime": ("com.microsoft",), "tensorrt": ()}
"""Domains besides ONNX's own that a runtime includes."""
NAMES_SHOWN = 4


def versions(subject: Subject) -> Iterator[Finding]:
    """Opset and file version can also be read by older versions of the target."""
    model = subject.graph.model
    opset, ir = opset_of(model), model.ir_version
    if not 1 <= opset <= NEWEST_OPSET:
        yield Finding(
            "error",
            "opset",
            "",
            f"Expected opset {OPSET}, found {opset}, which is not supported.",
            reexport(subject),
        )
    elif subject.quantized and opset < OLDEST_QUANTIZED:
        yield Finding(
            "error",
            "opset",
            "",
            f"Expected opset {OPSET}, found {opset}: before "
            f"{OLDEST_QUANTIZED} a weight cannot have one scale per channel.",
            reexport(subject),
        )
    elif opset > OPSET and not (subject.half and subject.quantized and opset == HALF_OPSET):
        yield Finding(
            "warning",
            "opset",
            "",
            f"Expected opset {OPSET}, found {opset}: TensorRT 8 "
            "(JetPack 5 and 6.0) cannot read it.",
            reexport(subject),
        )
    if ir > NEWEST_IR:
        yield Finding(
            "warning",
            "ir-version",
            "",
            f"Expected a file version of at most "
            f"{NEWEST_IR}, found {ir}: older runtimes refuse it.",
            reexport(subject),
        )


def valid(subject: Subject) -> Iterator[Finding]:
    """onnx's own checker accepts the file."""
    try:
        onnx.checker.check_model(subject.graph.model)
    except onnx.checker.ValidationError as error:
        reason = f"onnx's checker refuses it: {first_line(error)}"
        yield Finding("error", "invalid", "", reason, reexport(subject))


def domains(subject: Subject) -> Iterator[Finding]:
    """The graph has only operators that the target supports without plug-ins."""
    model = subject.graph.model
    known = (*STANDARD, *BUILT_IN[subject.target])
    foreign = {
        node.domain: node.op_type for node in subject.graph.nodes if node.domain not in known
    }
    for domain, kind in sorted(foreign.items()):
        yield Finding(
            "error",
            "domain",
            "",
            f"Expected only ONNX's own operators, found others, such as {kind} of {domain!r}.",
            reexport(subject),
        )
    if model.functions:
        names = [function.name for function in model.functions[:NAMES_SHOWN]]
        yield Finding(
            "error",
            "functions",
            "",
            f"Expected a plain graph, found {len(model.functions)} functions ({', '.join(names)}).",
            reexport(subject),
        )
    nested = [node for node in subject.graph.nodes if node.op_type in ("If", "Loop", "Scan")]
    if nested:
        yield Finding(
            "error",
            "control-flow",
            nested[0].name,
            f"Expected a plain graph, found {many(len(nested), 'node')} with graphs inside (If, "
            "Loop).",
            reexport(subject),
        )


def pictures(subject: Subject) -> Iterator[Finding]:
    """The graph has one input: float32 (N, 3, S, S) with a dynamic N and a fixed S."""
    inputs = [
        item for item in subject.graph.proto.input if item.name not in subject.graph.constants
    ]
    if len(inputs) != 1:
        yield Finding(
            "error", "input", "", f"Expected one input, found {len(inputs)}.", reexport(subject)
        )
        return
    tensor = inputs[0].type.tensor_type
    sides = [side.dim_value if side.HasField("dim_value") else 0 for side in tensor.shape.dim]
    if tensor.elem_type != TensorProto.FLOAT or inputs[0].name != INPUT:
        yield Finding(
            "error",
            "input",
            "",
            f"Expected a float32 input named {INPUT!r}, found "
            f"{TensorProto.DataType.Name(tensor.elem_type).lower()} "
            f"{inputs[0].name!r}.",
            reexport(subject),
        )
    if len(sides) != 4 or any(side < 1 for side in sides[1:]):
        yield Finding(
            "error",
            "static-size",
            "",
            f"Expected fixed channels, height and width, found {sides}: optimisers need the size.",
            reexport(subject),
        )
    elif sides[0] != 0:
        yield Finding(
            "error",
            "dynamic-batch",
            "",
            f"Expected any number of images, found exactly {sides[0]}.",
            reexport(subject),
        )


def batch_norms(subject: Subject) -> Iterator[Finding]:
    """No BatchNormalization is left; before a quantiser it prevents fusion of layers."""
    left = [node.name for node in subject.graph.nodes if node.op_type == "BatchNormalization"]
    if left:
        bad = subject.quantized or subject.target == "tensorrt"
        severity: Severity = "error" if bad else "warning"
        yield Finding(
            severity,
            "batch-norm",
            left[0],
            f"Expected batch norms folded into the convolutions before them, found {len(left)} "
            "BatchNormalization.",
            reexport(subject),
        )


def sparsity(subject: Subject) -> Iterator[Finding]:
    """The stored weights of the layers that the card lists as 2:4 are 2:4."""
    sparse = subject.card.compression.sparse if subject.card and subject.card.compression else None
    if sparse is None:
        return
    stored = {module_name(layer.node): layer for layer in subject.layers}
    lost = [name for name in sparse.layers if name in stored and not stored[name].two_four]
    gone = [name for name in sparse.layers if name not in stored]
    if lost:
        yield Finding(
            "error",
            "sparsity",
            lost[0],
            f"Expected {many(len(sparse.layers), 'layer')} stored as 2:4, as in the card, but "
            f"{len(lost)} are not: more than two of four consecutive input channels are not zero.",
            reexport(subject),
        )
    if gone:
        yield Finding(
            "warning",
            "sparsity",
            gone[0],
            f"Expected the 2:4 layers of the card, but {len(gone)} are not in the graph by name.",
            reexport(subject),
        )
    idle = [
        layer for layer in subject.layers if layer.two_four and layer.obstacle and layer.macs != 0
    ]
    if idle:
        yield Finding(
            "note",
            "sparsity-idle",
            idle[0].node,
            f"Sparse kernels do not support {many(len(idle), 'layer')} stored as 2:4 "
            f"({idle[0].obstacle}).",
            "None; they are as fast as dense layers.",
        )


def unknown_shapes(subject: Subject) -> Iterator[Finding]:
    """The shape of every layer's output follows from the stored graph."""
    unknown = [layer.node for layer in subject.layers if layer.macs is None]
    if unknown:
        yield Finding(
            "warning",
            "unknown-shape",
            unknown[0],
            f"Expected the shapes of all layers to follow from the file, found {len(unknown)} of "
            f"{len(subject.layers)} whose shape is computed when it runs: their multiplications "
            "are not counted, and optimisers know as little.",
            reexport(subject),
        )


def computed_weights(subject: Subject) -> Iterator[Finding]:
    """The weight of every convolution is stored and not computed when the file runs."""
    graph = subject.graph
    computed = [
        node.name
        for node in graph.nodes
        if node.op_type == "Conv" and not stored_weight(graph, node)[0]
    ]
    if computed:
        yield Finding(
            "warning",
            "computed-weight",
            computed[0],
            f"Expected stored weights, found {len(computed)} convolutions whose weight is computed "
            "from others when the file runs: they are not counted as layers.",
            reexport(subject),
        )


def module_name(node: str) -> str:
    """Derive the torch module that a node was exported from, such as "layer1.0.conv1".

    torch's exporter names the node "/network/layer1/layer1.0/conv1/Conv": one part per module, with
    an index in a list after the list's name.  Weights keep no such names after a batch norm is
    folded.
    """
    found: list[str] = []
    for part in node.strip("/").split("/")[1:-1]:
        if found and part.startswith(f"{found[-1]}."):
            found[-1] = part
        else:
            found.append(part)
    return ".".join(found)


FOR_EVERY_FILE: tuple[Rule, ...] = (
    versions,
    valid,
    domains,
    pictures,
    batch_norms,
    sparsity,
    unknown_shapes,
    computed_weights,
)

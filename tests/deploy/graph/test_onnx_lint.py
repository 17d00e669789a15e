"""The readiness linter: good files are ready, and each rule finds what was broken on purpose."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clipdistill.core.errors import FormatError, InputError
from clipdistill.core.two_four import is_two_four
from clipdistill.deploy.export import export
from clipdistill.deploy.graph import load_graph
from clipdistill.deploy.graph.findings import Finding
from clipdistill.deploy.graph.links import Graph
from clipdistill.deploy.graph.lint import card_of, lint_model
from clipdistill.deploy.graph.rules_file import module_name

pytest.importorskip("modelopt")
pytest.importorskip("requests")

from int8_students import compress  # needs the extra `compress`

Model = Any


@pytest.fixture(scope="module")
def files(make_student, tmp_path_factory) -> dict[str, Path]:
    """Good files: name -> path."""
    folder = tmp_path_factory.mktemp("files")
    dense = make_student(folder / "dense")
    int8 = compress(dense, folder / "int8", sparse=True)
    made = {
        "cpu": (int8, "onnxruntime", False),
        "trt": (int8, "tensorrt", False),
        "trt16": (int8, "tensorrt", True),
        "fp32": (dense, "onnxruntime", False),
        "fp16": (dense, "tensorrt", True),
    }
    for name, (student, target, half) in made.items():
        export(str(student), folder / f"{name}.onnx", target=target, fp16=half)
    return {name: folder / f"{name}.onnx" for name in made}


def findings(model: Model, target: str) -> list[Finding]:
    return list(lint_model(model, target, card_of(model, Path("a.onnx"))).findings)


def rules(found: Iterable[Finding], severity: str) -> set[str]:
    return {one.rule for one in found if one.severity == severity}


def of_kind(model: Model, kind: str) -> list[Any]:
    return [node for node in model.graph.node if node.op_type == kind]


def constant(model: Model, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the values of an initializer."""
    (tensor,) = [one for one in model.graph.initializer if one.name == name]
    value = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("cpu", "onnxruntime"),
        ("trt", "tensorrt"),
        ("trt16", "tensorrt"),
        ("fp32", "onnxruntime"),
        ("fp32", "tensorrt"),
        ("fp16", "tensorrt"),
    ],
)
def test_good_files(name: str, target: str, files) -> None:
    found = findings(load_graph(files[name]), target)
    assert rules(found, "error") == rules(found, "warning") == set()


def test_files_of_the_other_target(files) -> None:
    assert "unsigned" in rules(findings(load_graph(files["trt"]), "onnxruntime"), "error")
    found = rules(findings(load_graph(files["cpu"]), "tensorrt"), "error")
    assert found >= {"signed", "zero-point", "residual"}
    assert "fp16" in rules(findings(load_graph(files["fp16"]), "onnxruntime"), "error")


def opset_99(model: Model) -> None:
    model.opset_import[0].version = 99


def opset_11(model: Model) -> None:
    model.opset_import[0].version = 11


def opset_20(model: Model) -> None:
    model.opset_import[0].version = 20


def ir_12(model: Model) -> None:
    model.ir_version = 12


def custom_domain(model: Model) -> None:
    of_kind(model, "Relu")[0].domain = "com.example"


def a_function(model: Model) -> None:
    model.functions.append(
        helper.make_function(
            "com.example",
            "F",
            ["x"],
            ["y"],
            [helper.make_node("Relu", ["x"], ["y"])],
            [helper.make_opsetid("", 17)],
        )
    )


def fixed_batch(model: Model) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def dynamic_height(model: Model) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"


def other_input(model: Model) -> None:
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == "input":
                node.input[index] = "pixels"
    model.graph.input[0].name = "pixels"


def batch_norm(model: Model) -> None:
    relu = of_kind(model, "Relu")[0]
    channels = 16
    for name, value in (("g", 1.0), ("b", 0.0), ("m", 0.0), ("v", 1.0)):
        model.graph.initializer.append(
            numpy_helper.from_array(np.full(channels, value, np.float32), name)
        )
    place = list(model.graph.node).index(relu)
    made = helper.make_node(
        "BatchNormalization", [relu.input[0], "g", "b", "m", "v"], ["normed"], "bn"
    )
    relu.input[0] = "normed"
    model.graph.node.insert(place, made)


def unused_output(model: Model) -> None:
    of_kind(model, "Relu")[0].input[0] = "nowhere"


def an_if(model: Model) -> None:
    body = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32(1)))],
        "body",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [])],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(
        helper.make_node("If", ["yes"], ["choice"], "if", then_branch=body, else_branch=body)
    )


def dense_weight(model: Model) -> None:
    name = next(
        node.input[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and "layer3.0.conv1.weight" in node.input[0]
    )
    constant(model, name, np.ones_like)


@pytest.mark.parametrize(
    ("break_it", "severity", "rule"),
    [
        (opset_99, "error", "opset"),
        (opset_11, "error", "opset"),
        (opset_20, "warning", "opset"),
        (ir_12, "warning", "ir-version"),
        (custom_domain, "error", "domain"),
        (a_function, "error", "functions"),
        (an_if, "error", "control-flow"),
        (fixed_batch, "error", "dynamic-batch"),
        (dynamic_height, "error", "static-size"),
        (other_input, "error", "input"),
        (batch_norm, "error", "batch-norm"),
        (unused_output, "error", "invalid"),
        (dense_weight, "error", "sparsity"),
    ],
)
def test_rules_for_every_file(break_it, severity: str, rule: str, files) -> None:
    model = load_graph(files["trt"])
    break_it(model)
    assert rule in rules(findings(model, "tensorrt"), severity)


def unsigned(model: Model) -> None:
    constant(model, of_kind(model, "QuantizeLinear")[0].input[2], lambda v: v.astype(np.uint8))


def asymmetric(model: Model) -> None:
    constant(model, of_kind(model, "QuantizeLinear")[0].input[2], lambda v: v + np.int8(3))


def no_zero_point(model: Model) -> None:
    del of_kind(model, "QuantizeLinear")[0].input[2]


def many_zero_points(model: Model) -> None:
    name = of_kind(model, "QuantizeLinear")[1].input[2]
    constant(model, name, lambda v: np.zeros(2, np.int8))


def negative_scale(model: Model) -> None:
    constant(model, of_kind(model, "QuantizeLinear")[0].input[1], lambda v: -v)


def endless_scale(model: Model) -> None:
    constant(model, of_kind(model, "QuantizeLinear")[0].input[1], lambda v: v * np.float32("inf"))


def double_scale(model: Model) -> None:
    constant(model, of_kind(model, "QuantizeLinear")[0].input[1], lambda v: v.astype(np.float64))


def computed_scale(model: Model) -> None:
    node = of_kind(model, "QuantizeLinear")[0]
    model.graph.node.insert(0, helper.make_node("Abs", [node.input[1]], ["scale"], "abs"))
    node.input[1] = "scale"


def float_input(model: Model) -> None:
    conv = of_kind(model, "Conv")[3]
    graph = Graph(model)
    quantizer = graph.maker(graph.maker(conv.input[0]).input[0])
    conv.input[0] = quantizer.input[0]


def float_weight(model: Model) -> None:
    conv = of_kind(model, "Conv")[3]
    weight = Graph(model).maker(conv.input[1])
    values = numpy_helper.to_array(
        next(t for t in model.graph.initializer if t.name == weight.input[0])
    )
    model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), "floats"))
    conv.input[1] = "floats"


def between(kind: str, **attributes: Any) -> Callable[[Model], None]:
    def put(model: Model) -> None:
        conv = of_kind(model, "Conv")[3]
        place = list(model.graph.node).index(conv)
        made = helper.make_node(kind, [conv.input[0]], ["between"], "between", **attributes)
        conv.input[0] = "between"
        model.graph.node.insert(place, made)

    return put


def weights_as_floats(model: Model) -> None:
    conv = of_kind(model, "Conv")[3]
    dequantize = Graph(model).maker(conv.input[1])
    (tensor,) = [one for one in model.graph.initializer if one.name == dequantize.input[0]]
    floats = numpy_helper.to_array(tensor).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(floats, "floats"))
    model.graph.node.insert(
        0,
        helper.make_node(
            "QuantizeLinear", ["floats", *dequantize.input[1:]], ["rounded"], "q", axis=0
        ),
    )
    dequantize.input[0] = "rounded"


def one_scale(model: Model) -> None:
    dequantize = Graph(model).maker(of_kind(model, "Conv")[3].input[1])
    for name in dequantize.input[1:]:
        constant(model, name, lambda v: v.reshape(-1)[0])


def wrong_axis(model: Model) -> None:
    dequantize = Graph(model).maker(of_kind(model, "Conv")[3].input[1])
    next(one for one in dequantize.attribute if one.name == "axis").i = 1


def residual_input(model: Model, place: str) -> None:
    """Of the last residual add, quantise both inputs, none, or the wrong one."""
    graph = Graph(model)
    add = [node for node in of_kind(model, "Add") if not node.name.startswith("zeroshot/")][-1]
    kinds = [graph.maker(name).op_type for name in add.input]
    quantised = kinds.index("DequantizeLinear")
    other = 1 - quantised
    dequantize = graph.maker(add.input[quantised])
    quantize = graph.maker(dequantize.input[0])
    at = list(model.graph.node).index(add)
    if place in ("both", "wrong"):
        pair = [
            helper.make_node(
                "QuantizeLinear", [add.input[other], *quantize.input[1:]], ["nq"], "q"
            ),
            helper.make_node("DequantizeLinear", ["nq", *quantize.input[1:]], ["ndq"], "dq"),
        ]
        add.input[other] = "ndq"
        for made in reversed(pair):
            model.graph.node.insert(at, made)
    if place in ("none", "wrong"):
        add.input[quantised] = quantize.input[0]


@pytest.mark.parametrize(
    ("break_it", "severity", "rule"),
    [
        (unsigned, "error", "signed"),
        (asymmetric, "error", "zero-point"),
        (no_zero_point, "error", "zero-point"),
        (many_zero_points, "error", "zero-point"),
        (negative_scale, "error", "scale"),
        (endless_scale, "error", "scale"),
        (double_scale, "error", "scale"),
        (computed_scale, "error", "scale"),
        (float_input, "error", "placement"),
        (float_weight, "error", "placement"),
        (between("Cast", to=TensorProto.FLOAT), "error", "cast"),
        (between("Identity"), "error", "placement"),
        (weights_as_floats, "warning", "stored-weight"),
        (one_scale, "warning", "per-channel"),
        (wrong_axis, "error", "per-channel"),
        (lambda model: residual_input(model, "both"), "error", "residual"),
        (lambda model: residual_input(model, "wrong"), "error", "residual"),
        (lambda model: residual_input(model, "none"), "warning", "residual"),
    ],
)
def test_rules_for_tensorrt(break_it, severity: str, rule: str, files) -> None:
    model = load_graph(files["trt"])
    break_it(model)
    assert rule in rules(findings(model, "tensorrt"), severity)


def test_layers_in_float_are_listed(files) -> None:
    model = load_graph(files["trt"])
    float_input(model)
    float_weight(model)
    (found,) = [one for one in findings(model, "tensorrt") if one.rule == "float-layers"]
    assert found.severity == "warning"
    assert "2 layers with" in found.message  # this one and the embedding head


def test_casts_in_a_half_precision_file(files) -> None:
    model = load_graph(files["trt16"])
    between("Cast", to=TensorProto.FLOAT16)(model)
    assert {"cast"} <= rules(findings(model, "tensorrt"), "error")


def bias_as_floats(model: Model) -> None:
    conv = of_kind(model, "Conv")[3]
    size = Graph(model).array(Graph(model).maker(conv.input[2]).input[0]).size
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(size, np.float32), "floats"))
    conv.input[2] = "floats"


def no_quantizer_behind(model: Model) -> None:
    graph = Graph(model)
    quantize = graph.only_user(of_kind(model, "Conv")[3].output[0])
    dequantize = graph.only_user(quantize.output[0])
    for node in graph.users(dequantize.output[0]):
        for index, name in enumerate(node.input):
            if name == dequantize.output[0]:
                node.input[index] = quantize.input[0]


def list_of_one(model: Model) -> None:
    constant(model, of_kind(model, "QuantizeLinear")[0].input[1], lambda v: v.reshape(1))


def many_scales(model: Model) -> None:
    node = of_kind(model, "QuantizeLinear")[0]
    for name in node.input[1:]:
        constant(model, name, lambda v: np.repeat(v, 3))


def signed(model: Model) -> None:
    constant(model, of_kind(model, "QuantizeLinear")[0].input[2], lambda v: np.int8(0))


def weight_zero_point(model: Model) -> None:
    dequantize = Graph(model).maker(of_kind(model, "Conv")[3].input[1])
    constant(model, dequantize.input[2], lambda v: v + np.int8(1))


def no_quantizer_behind_an_add(model: Model) -> None:
    graph = Graph(model)
    add = next(node for node in of_kind(model, "Add") if not node.name.startswith("zeroshot/"))
    quantize = graph.only_user(add.output[0])
    dequantize = graph.users(quantize.output[0])[0]
    for node in graph.users(dequantize.output[0]):
        for index, name in enumerate(node.input):
            if name == dequantize.output[0]:
                node.input[index] = add.output[0]


@pytest.mark.parametrize(
    ("break_it", "severity", "rule"),
    [
        (signed, "error", "unsigned"),
        (negative_scale, "error", "scale"),
        (double_scale, "error", "scale"),
        (computed_scale, "error", "scale"),
        (many_scales, "error", "per-tensor"),
        (list_of_one, "warning", "scalar-scale"),
        (float_input, "error", "placement"),
        (no_quantizer_behind, "warning", "placement"),
        (bias_as_floats, "warning", "bias"),
        (weights_as_floats, "warning", "stored-weight"),
        (weight_zero_point, "error", "zero-point"),
        (one_scale, "warning", "per-channel"),
        (wrong_axis, "error", "per-channel"),
        (no_quantizer_behind_an_add, "note", "float-join"),
    ],
)
def test_rules_for_onnxruntime(break_it, severity: str, rule: str, files) -> None:
    model = load_graph(files["cpu"])
    break_it(model)
    assert rule in rules(findings(model, "onnxruntime"), severity)


def test_figures(files) -> None:
    report = lint_model(load_graph(files["fp32"]), "onnxruntime", None)
    layers = {module_name(layer.node): layer for layer in report.layers}
    stem, head = layers["conv1.0"], layers["fc"]
    assert stem.macs == 16 * 3 * 3 * 3 * 16 * 16  # 32 px, stride 2
    assert head.macs == head.shape[0] * head.shape[1]
    assert (report.int8_macs_share, report.two_four_macs_share) == (0, 0)
    assert "3 input channels" in stem.obstacle
    sparse = lint_model(load_graph(files["trt"]), "tensorrt", None)
    assert sparse.macs == report.macs
    assert 0.9 < sparse.int8_macs_share < 1
    assert 0.5 < sparse.engaging_macs_share <= sparse.two_four_macs_share < 1
    assert 0 < sparse.two_four_weights_share < 1


def test_names_of_modules() -> None:
    assert module_name("/network/layer1/layer1.0/conv1/Conv") == "layer1.0.conv1"
    assert module_name("/network/blocks/blocks.0/blocks.0.1/conv_pw/Conv") == "blocks.0.1.conv_pw"
    assert module_name("/network/fc/Gemm") == "fc"
    assert module_name("odd") == ""


def test_two_four() -> None:
    good = np.array([[1, 0, 2, 0, 0, 0, 3, 4], [0, 0, 0, 0, 5, 6, 0, 0]])
    assert is_two_four(good, 1)
    assert not is_two_four(good + np.eye(2, 8, dtype=int)[::-1], 1)
    assert is_two_four(good.T, 0)
    assert is_two_four(np.ones((4, 2)), 1)  # padded with zeros
    assert not is_two_four(np.ones((4, 3)), 1)
    kernel = np.zeros((2, 8, 3, 3))
    kernel[:, ::2] = 1
    assert is_two_four(kernel, 1)


def external(model: Model) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def external_attribute(model: Model) -> None:
    tensor = TensorProto(name="t", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], "c", value=tensor))


def nested(model: Model) -> None:
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    for _ in range(12):
        body = helper.make_graph(
            [helper.make_node("If", ["x"], ["y"], then_branch=body)], "g", [], []
        )
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], "deep", then_branch=body))


def no_network(model: Model) -> None:
    del model.graph.node[:]


def a_node_without_output(model: Model) -> None:
    model.graph.node.append(helper.make_node("Relu", ["input"], []))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (external, r"another file \('../../etc/passwd'\)"),
        (external_attribute, "another file"),
        (nested, "nested"),
        (no_network, "no network"),
        (a_node_without_output, "no output"),
    ],
)
def test_untrusted_files_are_refused(break_it, message: str, files, tmp_path: Path) -> None:
    model = onnx.load(str(files["fp32"]))
    break_it(model)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match=message):
        load_graph(tmp_path / "a.onnx")


def test_damage(files, tmp_path: Path) -> None:
    whole = files["fp32"].read_bytes()
    for data in (b"", b"junk" * 100, whole[: len(whole) // 2], whole[:100]):
        (tmp_path / "a.onnx").write_bytes(data)
        with pytest.raises(FormatError, match=r"a\.onnx: not a readable ONNX file"):
            load_graph(tmp_path / "a.onnx")
    with pytest.raises(InputError, match="no such"):
        load_graph(tmp_path / "b.onnx")


@pytest.mark.parametrize("name", ["cpu", "trt"])
def test_flipped_bytes_are_an_error_of_ours_or_none(name: str, files, tmp_path: Path) -> None:
    data, random = files[name].read_bytes(), np.random.default_rng(3)
    for round_ in range(30):
        broken = bytearray(data)
        until = len(data) if round_ % 3 == 0 else 20_000  # mostly the nodes, which come first
        for _ in range(int(random.integers(1, 6))):
            broken[int(random.integers(until))] = int(random.integers(256))
        (tmp_path / "a.onnx").write_bytes(bytes(broken))
        with contextlib.suppress(FormatError):
            findings(load_graph(tmp_path / "a.onnx"), "tensorrt")


def test_a_tensor_that_is_shorter_than_it_says(files) -> None:
    model = load_graph(files["fp32"])
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    weight.raw_data = weight.raw_data[:40]
    with pytest.raises(FormatError, match="damaged"):
        findings(model, "tensorrt")
    weight.dims[0] = 1 << 40
    with pytest.raises(FormatError, match="damaged"):
        findings(model, "tensorrt")

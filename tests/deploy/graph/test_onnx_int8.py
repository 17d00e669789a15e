"""The steps from torch's graph to a target's file, on small graphs built by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clipdistill.core.errors import FormatError
from clipdistill.deploy.graph.cpu import BIAS_LIMIT, Grid, to_cpu_form
from clipdistill.deploy.graph.half import SMALLEST_SCALE, to_half
from clipdistill.deploy.graph.links import Graph, inferred_shapes
from clipdistill.deploy.graph.quantized import quantize, store_int8_weights
from clipdistill.deploy.graph.ranges import Range, exact_session, measure
from clipdistill.deploy.graph.targets import prepare
from clipdistill.deploy.graph.tidy import tidy
from clipdistill.formats.classifier import OnnxCard
from clipdistill.images.preprocess import Preprocess

CARD = OnnxCard("student", "hand-made", 8, Preprocess(8), None)
PIXELS = np.random.default_rng(0).normal(size=(6, 3, 8, 8)).astype(np.float32)


class Builder:
    """Builds a network step by step; every method returns the name of what it added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.random = np.random.default_rng(1)

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], f"/network/{name}", **attributes))
        return name

    def pair(self, source: str, scale: Any, **attributes: Any) -> str:
        """QuantizeLinear and DequantizeLinear, as ModelOpt's symmetric quantisers come out."""
        index = len(self.nodes)
        steps = np.asarray(scale, np.float32)
        names = (
            self.constant(f"scale{index}", steps),
            self.constant(f"zero{index}", np.zeros(steps.shape, np.int8)),
        )
        inside = self.add("QuantizeLinear", source, *names, **attributes)
        return self.add("DequantizeLinear", inside, *names, **attributes)

    def conv(self, source: str, inputs: int, outputs: int, scale: float, bias: Any = None) -> str:
        """A quantised 1x1 convolution."""
        index = len(self.nodes)
        weight = self.random.normal(size=(outputs, inputs, 1, 1)).astype(np.float32)
        steps = np.abs(weight).reshape(outputs, -1).max(axis=1) / 127
        values = self.random.normal(size=outputs) if bias is None else bias
        names = (
            self.pair(source, scale),
            self.pair(self.constant(f"weight{index}", weight), steps, axis=0),
            self.constant(f"bias{index}", np.asarray(values, np.float32)),
        )
        return self.add("Conv", *names)

    def model(self, last: str) -> Any:
        """The network with a linear layer, and the normalisation that export puts behind it."""
        pooled = self.add("Flatten", self.add("GlobalAveragePool", last))
        weight = self.random.normal(size=(8, 8)).astype(np.float32)
        raw = self.add("Gemm", pooled, self.constant("fc", weight), transB=1)
        norm = self.add("ReduceL2", raw, axes=[-1], keepdims=1)
        norm = self.add("Clip", norm, self.constant("least", np.float32(1e-12)))
        wide = self.add("Expand", norm, self.add("Shape", raw))
        self.nodes.append(helper.make_node("Div", [raw, wide], ["embeddings"], "/Div"))
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
            [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", 8])],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def residual_network(activation: str = "Relu", bias: Any = None) -> Any:
    """stem -> activation -> [conv -> activation -> conv] + shortcut -> activation."""
    build = Builder()
    clip = [build.constant("low", np.float32(0)), build.constant("high", np.float32(6))]
    extra = clip if activation == "Clip" else []
    stem = build.add(activation, build.conv("input", 3, 8, 0.03, bias), *extra)
    inner = build.add(activation, build.conv(stem, 8, 8, 0.04), *extra)
    branch = build.conv(inner, 8, 8, 0.045)
    total = build.add("Add", branch, build.pair(stem, 0.04))
    return build.model(build.conv(build.add(activation, total, *extra), 8, 8, 0.06))


def run(model: Any) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    return exact_session(model.SerializeToString()).run(["embeddings"], {"input": PIXELS})[0]


def copy(model: Any) -> Any:
    return onnx.ModelProto.FromString(model.SerializeToString())


def worst_cosine(mine: np.ndarray, theirs: np.ndarray) -> float:
    return float((mine * theirs).sum(axis=1).min())


def kinds(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_weights_are_stored_as_int8() -> None:
    model = residual_network()
    before = run(model)
    assert store_int8_weights(model) == 4
    np.testing.assert_allclose(run(model), before, atol=1e-6)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    weights = [value for value in stored.values() if value.ndim == 4]
    assert [value.dtype for value in weights] == [np.int8] * 4
    assert all(np.abs(value).max() == 127 for value in weights)
    assert kinds(model).count("QuantizeLinear") == 5


def test_a_turned_weight_is_stored_turned() -> None:
    build = Builder()
    weight = build.random.normal(size=(8, 3)).astype(np.float32)
    steps = np.abs(weight).max(axis=1) / 127
    turned = build.add(
        "Transpose", build.pair(build.constant("w", weight), steps, axis=0), perm=[1, 0]
    )
    pixels = build.add("Transpose", build.pair("input", 0.03), perm=[0, 2, 3, 1])
    grown = build.add("MatMul", pixels, turned)
    model = build.model(build.add("Transpose", grown, perm=[0, 3, 1, 2]))
    before = run(model)
    store_int8_weights(model)
    np.testing.assert_allclose(run(model), before, atol=1e-6)
    graph = Graph(model)
    (product,) = [node for node in graph.nodes if node.op_type == "MatMul"]
    dequantize = graph.maker(product.input[1])
    assert dequantize.op_type == "DequantizeLinear"
    assert graph.array(dequantize.input[0]).shape == (3, 8)
    assert onnx.helper.get_node_attr_value(dequantize, "axis") == 1


def test_a_foreign_weight_quantizer_is_refused() -> None:
    model = residual_network()
    quantizer = next(node for node in model.graph.node if node.input[0].startswith("weight"))
    zero = next(t for t in model.graph.initializer if t.name == quantizer.input[2])
    zero.CopyFrom(numpy_helper.from_array(np.ones(8, np.int8), zero.name))
    with pytest.raises(FormatError, match="zero points of 0"):
        store_int8_weights(model)


def test_rounding_is_onnx_s() -> None:
    values = np.array([[0.5, 1.5, -0.5, 400.0, -400.0]], np.float32)
    np.testing.assert_array_equal(quantize(values, np.float32(1), 0), [[0, 2, 0, 127, -128]])
    rows = quantize(np.array([[4.0], [4.0]]), np.array([1.0, 2.0]), 0)
    np.testing.assert_array_equal(rows, [[4], [2]])


@pytest.mark.parametrize("activation", ["Relu", "Clip", "HardSwish", "Sigmoid"])
def test_the_cpu_form_stays_close(activation: str) -> None:
    model = residual_network(activation)
    before = run(model)
    store_int8_weights(model)
    to_cpu_form(model, lambda probed, names: measure(probed, names, PIXELS))
    assert worst_cosine(run(model), before) > 0.9995
    graph = Graph(model)
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            scale, zero = graph.array(node.input[1]), graph.array(node.input[2])
            assert (scale.dtype, scale.shape) == (np.float32, ())
            assert (zero.dtype, zero.shape) == (np.uint8, ())
    found = [node.op_type for node in graph.nodes if node.name.startswith("/network/")]
    # A Relu or a Clip is part of the quantiser behind it (one Clip belongs to the normalisation).
    left = {"Relu": 0, "Clip": 1, "HardSwish": 3, "Sigmoid": 3}
    assert found.count(activation) == left[activation]
    assert found.count("Conv") == 4


def test_trained_steps_are_kept_in_the_cpu_form() -> None:
    model = residual_network()
    store_int8_weights(model)
    asked: list[str] = []

    def tell(probed: Any, names: list[str]) -> dict[str, Range]:
        asked.extend(names)
        return dict.fromkeys(names, Range(-1.0, 3.0))

    to_cpu_form(model, tell)
    graph = Graph(model)
    steps = {
        node.input[0]: (float(graph.array(node.input[1])), int(graph.array(node.input[2])))
        for node in graph.nodes
        if node.op_type == "QuantizeLinear"
    }
    # Only the branch in front of the addition had no quantiser, and what comes behind the last.
    assert len(asked) == 2
    assert [steps.pop(name) for name in asked] == [(pytest.approx(4 / 255), 64)] * 2
    assert steps.pop("input") == (pytest.approx(0.03), 128)
    assert sorted(steps.values()) == [
        (pytest.approx(0.04), 0),
        (pytest.approx(0.045), 0),
        (pytest.approx(0.06), 0),
    ]


def test_biases_of_nearly_dead_channels_fit_into_int32() -> None:
    bias = np.array([0, 0, 0, 0, 0, 0, 0, 1e9], np.float32)
    model = residual_network(bias=bias)
    store_int8_weights(model)
    to_cpu_form(model, lambda probed, names: measure(probed, names, PIXELS))
    stored = [numpy_helper.to_array(t) for t in model.graph.initializer]
    rounded = [value for value in stored if value.dtype == np.int32 and value.any()]
    assert len(rounded) == 4
    assert max(np.abs(value.astype(np.int64)).max() for value in rounded) <= BIAS_LIMIT + 1


def test_grids() -> None:
    assert Grid.covering(Range(0.0, 2.55)) == Grid(float(np.float32(0.01)), 0)
    asymmetric = Grid.covering(Range(-1.0, 3.0))
    assert asymmetric.zero == 64
    assert asymmetric.range.low == pytest.approx(-1.0, abs=0.01)
    assert asymmetric.range.high == pytest.approx(3.0, abs=0.01)
    assert Grid.covering(Range(2.0, 3.0)).range.low == 0  # 0 is always on the grid
    assert Grid.covering(Range(0.0, 0.0)).scale > 0
    assert Grid.covering(Range(-5.0, -1.0)).zero == 255


def test_ranges_are_over_all_pictures() -> None:
    model = residual_network()
    (found,) = measure(model, ["Conv_4"], PIXELS).values()
    session = Graph(model)
    assert session.maker("Conv_4").op_type == "Conv"
    parts = [measure(model, ["Conv_4"], PIXELS[i : i + 1])["Conv_4"] for i in range(6)]
    assert found.low == pytest.approx(min(one.low for one in parts))
    assert found.high == pytest.approx(max(one.high for one in parts))


def test_half_precision() -> None:
    model = residual_network()
    before = run(model)
    store_int8_weights(model)
    to_half(model)
    assert worst_cosine(run(model), before) > 0.9995
    assert model.opset_import[0].version == 19
    assert kinds(model).count("Cast") == 2
    types = {t.name: t.data_type for t in model.graph.initializer}
    assert types["least"] == TensorProto.FLOAT  # 1e-12 is nothing in FP16
    assert types["fc"] == TensorProto.FLOAT16


def test_half_precision_of_small_scales_and_large_weights() -> None:
    model = residual_network()
    store_int8_weights(model)
    scale = next(t for t in model.graph.initializer if t.name.startswith("scale") and t.dims)
    values = numpy_helper.to_array(scale).copy()
    values[0] = 1e-9
    scale.CopyFrom(numpy_helper.from_array(values, scale.name))
    to_half(model)
    scales = [numpy_helper.to_array(t) for t in model.graph.initializer if "scale" in t.name]
    assert min(float(value.min()) for value in scales) >= SMALLEST_SCALE
    model = residual_network()
    large = next(t for t in model.graph.initializer if t.name == "fc")
    large.CopyFrom(numpy_helper.from_array(np.full((8, 8), 1e5, np.float32), "fc"))
    with pytest.raises(FormatError, match="without --fp16"):
        to_half(model)


def test_hard_swish_is_spelt_out_for_tensorrt() -> None:
    model = residual_network("HardSwish")
    before = run(model)
    card = prepare(model, replace(CARD, target="tensorrt"), PIXELS)
    assert (card.precision, card.target) == ("int8", "tensorrt")
    np.testing.assert_allclose(run(model), before, atol=1e-5)
    assert kinds(model).count("Clip") == 4  # one belongs to the normalisation
    assert not {"HardSwish", "HardSigmoid"} & set(kinds(model))


def test_pools_are_fed_with_integers_for_tensorrt() -> None:
    build = Builder()
    pooled = build.add(
        "MaxPool",
        build.add("Relu", build.conv("input", 3, 8, 0.03)),
        kernel_shape=[2, 2],
        strides=[2, 2],
    )
    total = build.add("Add", build.conv(pooled, 8, 8, 0.04), build.pair(pooled, 0.04))
    model = build.model(total)
    before = run(model)
    prepare(model, replace(CARD, target="tensorrt"), PIXELS)
    np.testing.assert_array_equal(run(model), before)
    graph = Graph(model)
    (pool,) = [node for node in graph.nodes if node.op_type == "MaxPool"]
    assert graph.maker(pool.input[0]).op_type == "DequantizeLinear"


def test_lone_batch_norms_become_what_they_compute() -> None:
    build = Builder()
    normed = "input"
    for index in range(2):
        names = [
            build.constant(f"{name}{index}", build.random.uniform(0.5, 2, 3).astype(np.float32))
            for name in ("gamma", "beta", "mean", "variance")
        ]
        normed = build.add("BatchNormalization", normed, *names)
    model = build.model(build.conv(build.add("Relu", normed), 3, 8, 0.04))
    before = run(model)
    tidy(model, CARD)
    np.testing.assert_allclose(run(model), before, atol=1e-5)
    assert "BatchNormalization" not in kinds(model)


def test_constants_aliases_and_idle_casts_are_tidied() -> None:
    build = Builder()
    build.constant("w", build.random.normal(size=(8, 3, 1, 1)).astype(np.float32))
    alias = build.add("Identity", "w")
    cast = build.add("Cast", "input", to=TensorProto.FLOAT)
    value = build.add(
        "Constant", value=numpy_helper.from_array(np.full((1, 8, 1, 1), 2.0, np.float32))
    )
    model = build.model(build.add("Mul", build.add("Conv", cast, alias), value))
    before = run(model)
    tidy(model, CARD)
    np.testing.assert_array_equal(run(model), before)
    assert not {"Identity", "Constant", "Cast"} & set(kinds(model))


def test_editing_keeps_the_order() -> None:
    model = residual_network()
    graph = Graph(model)
    before = run(model)
    nodes = list(reversed([copy_node(node) for node in graph.nodes]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    graph.refresh()
    graph.add_constant("unused", np.zeros(3, np.float32))
    graph.finish()
    np.testing.assert_array_equal(run(model), before)
    assert "unused" not in {t.name for t in model.graph.initializer}
    assert inferred_shapes(model)["input"] == (None, 3, 8, 8)


def copy_node(node: Any) -> Any:
    return onnx.NodeProto.FromString(node.SerializeToString())

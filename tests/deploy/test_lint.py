"""lint: results and messages, for our files and for those of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clipdistill.cli import main
from clipdistill.core.errors import FormatError, InputError
from clipdistill.core.results import to_json
from clipdistill.deploy.export import export
from clipdistill.deploy.lint import lint


def foreign(path: Path, *, batch: str | int = "batch") -> Path:
    """A network of somebody else: one convolution with its batch norm."""
    weights = [
        numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "w"),
        *(numpy_helper.from_array(np.ones(8, np.float32), name) for name in "gbmv"),
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w"], ["y"], "conv"),
            helper.make_node("BatchNormalization", ["y", "g", "b", "m", "v"], ["out"], "bn"),
        ],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 16, 16])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, 8, 14, 14])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def test_a_file_of_ours(tiny_classifier: Path) -> None:
    result = lint(tiny_classifier, target="onnxruntime")
    assert result.ready
    assert result.exit_code == 0
    assert (result.made_for, result.opset, result.findings) == ("onnxruntime", 17, ())
    assert result.macs > 1e6
    text = "\n".join(map(str, result.summary()))
    assert "ready for onnxruntime; opset 17" in text
    assert "No findings." in text


def test_a_file_for_another_runtime(tiny_student: Path, tmp_path: Path) -> None:
    export(str(tiny_student), tmp_path / "a.onnx", target="tensorrt", fp16=True)
    result = lint(tmp_path / "a.onnx", target="onnxruntime")
    assert not result.ready
    assert result.exit_code == FormatError.exit_code
    first, _, finding, advice = result.summary()
    assert "NOT ready (1 errors) for onnxruntime (made for tensorrt)" in str(first)
    assert str(finding).startswith("  error: fp16: Expected FP32 or INT8")
    assert str(advice).endswith("--target onnxruntime")


def test_a_file_of_another_program(tmp_path: Path) -> None:
    result = lint(foreign(tmp_path / "a.onnx", batch=1), target="tensorrt")
    assert {one.rule for one in result.findings} == {"batch-norm", "dynamic-batch"}
    assert (result.made_for, result.macs) == ("", 8 * 27 * 14 * 14)
    assert lint(foreign(tmp_path / "b.onnx"), target="onnxruntime").ready


def unknown(path: Path, nodes: list[onnx.NodeProto], weights: list[np.ndarray]) -> Path:
    """A network of somebody else, whose shapes do not follow from the file."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, f"w{index}") for index, value in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def test_an_unknown_shape_is_not_counted_as_no_multiplications(tmp_path: Path) -> None:
    ones = np.ones((8, 3, 3, 3), np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "w0"], ["known"], "known"),
        helper.make_node("Abs", ["w1"], ["pads"]),  # a padding that is computed
        helper.make_node("Pad", ["input", "pads"], ["padded"]),
        helper.make_node("Conv", ["padded", "w0"], ["out"], "hidden"),
    ]
    path = unknown(tmp_path / "a.onnx", nodes, [ones, np.array([0, 0, 1, 1, 0, 0, 1, 1])])
    result = lint(path, target="tensorrt")
    assert (result.macs, result.uncounted) == (8 * 27 * 14 * 14, 1)
    assert [layer.macs for layer in result.layers] == [8 * 27 * 14 * 14, None]
    (found,) = [one for one in result.findings if one.rule == "unknown-shape"]
    assert (found.severity, found.node) == ("warning", "hidden")
    text = "\n".join(map(str, result.summary()))
    assert "0.0 million multiplications per image in 1 layers, without 1 of unknown shape" in text
    value = json.loads(json.dumps(to_json(result)))
    assert value["layers"][1]["macs"] is None
    only = unknown(tmp_path / "b.onnx", nodes[1:], [ones, np.array([0, 0, 1, 1, 0, 0, 1, 1])])
    lines = "\n".join(map(str, lint(only, target="tensorrt").summary()))
    assert "The multiplications of its 1 layers are unknown." in lines


def test_a_weight_that_is_computed_is_reported(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Abs", ["w0"], ["weight"]),
        helper.make_node("Conv", ["input", "weight"], ["out"], "standardised"),
    ]
    path = unknown(tmp_path / "a.onnx", nodes, [np.ones((8, 3, 3, 3), np.float32)])
    (found,) = [
        one for one in lint(path, target="tensorrt").findings if one.rule == "computed-weight"
    ]
    assert (found.severity, found.node) == ("warning", "standardised")
    assert "1 convolutions whose weight is computed" in found.message


def test_json(tmp_path: Path) -> None:
    result = lint(foreign(tmp_path / "a.onnx"), target="tensorrt")
    value = json.loads(json.dumps(to_json(result)))
    assert value["ready"] is False
    assert value["findings"][0]["rule"] == "batch-norm"
    assert value["findings"][0]["advice"].endswith("--target tensorrt")
    assert value["layers"][0]["macs"] == 8 * 27 * 14 * 14


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such"):
        lint(tmp_path / "a.onnx", target="tensorrt")
    (tmp_path / "b.onnx").write_bytes(b"junk" * 9)
    with pytest.raises(FormatError, match=r"b\.onnx"):
        lint(tmp_path / "b.onnx", target="tensorrt")
    path = foreign(tmp_path / "c.onnx")
    model = onnx.load(str(path))
    model.graph.initializer[0].raw_data = b"\0" * 8
    onnx.save(model, str(path))
    with pytest.raises(FormatError, match=r"c\.onnx: .*damaged"):
        lint(path, target="tensorrt")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(foreign(tmp_path / "a.onnx"))
    assert main(["lint", path, "--target", "onnxruntime"]) == 0
    capsys.readouterr()
    assert main(["--json", "lint", path, "--target", "tensorrt"]) == 4
    value = json.loads(capsys.readouterr().out)
    assert [one["rule"] for one in value["findings"]] == ["batch-norm"]

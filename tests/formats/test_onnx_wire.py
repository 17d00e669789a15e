"""Walking an ONNX file's bytes: what is found, what is refused, whatever the bytes are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from clipdistill.core.errors import FormatError, InputError
from clipdistill.formats import onnx_wire
from clipdistill.formats.onnx_wire import read_onnx, sparse_share


def save(path: Path, *weights: np.ndarray, operators: tuple[str, ...] = (), domain="") -> Path:
    nodes = [helper.make_node(kind, [], [], domain=domain) for kind in operators]
    stored = [numpy_helper.from_array(value, f"w{i}") for i, value in enumerate(weights)]
    graph = helper.make_graph(nodes, "g", [], [], stored)
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def two_of_four(shape: tuple[int, ...], axis: int, kind: type = np.float32) -> np.ndarray:
    values = np.ones(shape, kind)
    kept = np.arange(shape[axis]) % 4 < 2
    return values * np.moveaxis(kept.reshape(-1, *[1] * (len(shape) - 1)), 0, axis).astype(kind)


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int8])
def test_two_of_four_in_stored_weights(tmp_path: Path, kind: type) -> None:
    sparse, dense = two_of_four((8, 8, 3, 3), 1, kind), np.ones((8, 8, 3, 3), kind)
    path = save(tmp_path / "a.onnx", sparse, dense, np.ones(1000, kind))
    assert sparse_share(path, read_onnx(path)) == pytest.approx(0.5)
    path = save(tmp_path / "b.onnx", two_of_four((8, 16), 1, kind), two_of_four((16, 8), 0, kind))
    assert sparse_share(path, read_onnx(path)) == 1.0
    path = save(tmp_path / "c.onnx", two_of_four((8, 8, 3, 3), 0, kind))  # along the outputs
    assert sparse_share(path, read_onnx(path)) == 0.0
    assert np.isnan(sparse_share(path, onnx_wire.OnnxFacts()))


def test_precision(tmp_path: Path) -> None:
    full, half = np.ones((16, 16), np.float32), np.ones((16, 16), np.float16)
    path = tmp_path / "a.onnx"
    assert read_onnx(save(path, full)).precision == "fp32"
    assert read_onnx(save(path, half)).precision == "fp16"
    assert read_onnx(save(path, full, operators=("QuantizeLinear",))).precision == "int8"
    assert read_onnx(save(path, half, operators=("QLinearConv",))).precision == "int8+fp16"
    own = save(path, full, operators=("QLinearAdd",), domain="com.microsoft")
    assert read_onnx(own).precision == "int8"
    with pytest.raises(FormatError, match=r"com\.microsoft"):
        read_onnx(own, domains=onnx_wire.STANDARD_DOMAINS)


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.onnx", np.ones((16, 16), np.float32))
    monkeypatch.setattr(onnx_wire, "MAX_FIELDS", 5)
    with pytest.raises(FormatError, match="more than 5 fields"):
        read_onnx(path)
    monkeypatch.undo()
    graph = helper.make_graph([], "deepest", [], [])
    for _ in range(20):
        node = helper.make_node("If", [], [], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], "g", [], [])
        if len(graph.SerializeToString()) > 1 << 20:
            break
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(FormatError, match="nested"):
        read_onnx(path)
    with pytest.raises(InputError, match="no such ONNX file"):
        read_onnx(tmp_path / "nowhere.onnx")


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_give_facts_or_a_format_error(data: bytes, tmp_path_factory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(data)
    message = ""
    try:
        read_onnx(path)
    except FormatError as error:
        message = str(error)
    assert "\n" not in message


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_one_changed_byte(place: int, value: int, tiny_classifier: Path, tmp_path_factory) -> None:
    data = bytearray(tiny_classifier.read_bytes())
    data[place % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "changed.onnx"
    path.write_bytes(data)
    message = str(path)
    try:
        sparse_share(path, read_onnx(path))
    except FormatError as error:
        message = str(error)
    assert "changed.onnx" in message


def test_onnx_is_not_needed() -> None:
    assert not hasattr(onnx_wire, "onnx")
    assert onnx.__name__ not in vars(onnx_wire)

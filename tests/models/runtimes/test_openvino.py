"""OpenVINO runs the same files as ONNX Runtime, and refuses the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clipdistill.core.errors import FormatError, InputError, MissingExtraError
from clipdistill.formats.onnx_wire import read_onnx
from clipdistill.measure.evaluate import evaluate
from clipdistill.models.open import installed_runtimes, open_embedder
from clipdistill.show.predict import predict

pytest.importorskip("openvino")


def test_the_same_answers(tiny_classifier: Path, draw_pixels, labels) -> None:
    mine, theirs = (
        open_embedder(f"{runtime}:{tiny_classifier}") for runtime in ("openvino", "onnxruntime")
    )
    assert (mine.spec.runtime, mine.spec.device, mine.spec.arch) == (
        "openvino",
        "cpu",
        "test_resnet",
    )
    assert mine.text.labels == labels
    for count in (1, 5, 1, 3, 0):  # any batch, in any order
        pixels = draw_pixels(5)[:count]
        np.testing.assert_allclose(
            mine.embed_pixels(pixels), theirs.embed_pixels(pixels), atol=2e-5
        )
        np.testing.assert_allclose(
            mine.classify_pixels(pixels), theirs.classify_pixels(pixels), atol=1e-4
        )


def test_results_are_not_overwritten(tiny_classifier: Path, draw_pixels) -> None:
    embedder = open_embedder(f"openvino:{tiny_classifier}", threads=1)
    pixels = draw_pixels(2)
    first = embedder.embed_pixels(pixels[:1])
    kept = first.copy()
    embedder.embed_pixels(pixels[1:])
    np.testing.assert_array_equal(first, kept)


def test_a_bare_embedder(tiny_bare_onnx: Path, draw_pixels) -> None:
    embedder = open_embedder(f"openvino:{tiny_bare_onnx}")
    assert embedder.text is None
    assert embedder.embed_pixels(draw_pixels(2)).shape == (2, 16)
    with pytest.raises(InputError, match="--text"):
        embedder.classify_pixels(draw_pixels(1))


def test_predict_and_evaluate(tiny_classifier: Path, pictures, tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 3)
    model = f"openvino:{tiny_classifier}"
    mine = predict(model, *map(str, photos)).predictions
    theirs = predict(str(tiny_classifier), *map(str, photos)).predictions
    assert [one.ranked[0][0] for one in mine] == [one.ranked[0][0] for one in theirs]
    result = evaluate(model, str(tiny_classifier), images=tmp_path / "photos")
    assert [row.runtime for row in result.rows] == ["openvino", "onnxruntime"]
    assert result.rows[0].counts == result.rows[1].counts
    headings = result.summary()[-1].columns
    assert len(set(headings)) == len(headings)  # one file twice: the runtimes differ


def test_devices(tiny_classifier: Path) -> None:
    open_embedder(f"openvino:{tiny_classifier}", device="cpu")
    with pytest.raises(InputError, match="--device cpu"):
        open_embedder(f"openvino:{tiny_classifier}", device="warp9")


def test_what_it_cannot_run(tiny_student: Path, tiny_teacher_name: str, tmp_path: Path) -> None:
    for model in (tiny_student, tiny_teacher_name):
        with pytest.raises(InputError, match="clipdistill export"):
            open_embedder(f"openvino:{model}")
    with pytest.raises(InputError, match="no such ONNX file"):
        open_embedder(f"openvino:{tmp_path / 'a.onnx'}")
    with pytest.raises(InputError, match="Did you mean openvino"):
        open_embedder("openvin:a.onnx")


def test_without_openvino(tiny_classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"clipdistill\[openvino\]"):
        open_embedder(f"openvino:{tiny_classifier}")


def test_installed_runtimes_are_found_without_importing_them() -> None:
    code = (
        "import sys; from clipdistill.models.open import installed_runtimes as i\n"
        "print(i('onnx'), 'openvino' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{installed_runtimes('onnx')} False"
    assert "openvino" in installed_runtimes("onnx")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated(tiny_classifier: Path, tmp_path: Path, keep: float) -> None:
    data = tiny_classifier.read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
    with pytest.raises(FormatError, match=r"cut\.onnx") as caught:
        open_embedder(f"openvino:{cut}")
    assert "\n" not in str(caught.value)


def _external(model: onnx.ModelProto, where: str) -> None:
    """Let one tensor's values live in another file, somewhere in the model."""
    tensor = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../etc/passwd"
    graph = model.graph
    if where == "initializer":
        graph.initializer.append(tensor)
    elif where == "constant":
        graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    elif where == "sparse":
        graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif where == "subgraph":
        inner = helper.make_graph([], "inner", [], [], [tensor])
        graph.node.append(
            helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
        )
    elif where == "function":
        model.functions.add().node.add().attribute.add(name="value").t.CopyFrom(tensor)
    elif where == "training":
        model.training_info.add().algorithm.initializer.append(tensor)
    else:  # the mark alone, without entries
        del tensor.external_data[:]
        graph.initializer.append(tensor)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(
    "where", ["initializer", "constant", "sparse", "subgraph", "function", "training", "mark"]
)
def test_external_data_is_refused(
    tiny_classifier: Path, tmp_path: Path, where: str, runtime: str
) -> None:
    model = onnx.load(str(tiny_classifier))
    _external(model, where)
    path = tmp_path / "outside.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match="external data"):
        open_embedder(f"{runtime}:{path}")


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_foreign_operators_are_refused(tiny_classifier: Path, tmp_path: Path, runtime: str) -> None:
    model = onnx.load(str(tiny_classifier))
    model.graph.node.append(helper.make_node("Evil", ["input"], ["z"], domain="org.evil"))
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    with pytest.raises(FormatError, match=r"org\.evil"):
        open_embedder(f"{runtime}:{tmp_path / 'foreign.onnx'}")


def test_metadata_of_another_network(tiny_classifier: Path, tmp_path: Path) -> None:
    model = onnx.load(str(tiny_classifier))
    for entry in model.metadata_props:
        if entry.key == "clipdistill.card":
            card = json.loads(entry.value)
            card["preprocess"]["size"] = 64
            entry.value = json.dumps(card)
    onnx.save(model, str(tmp_path / "mixed.onnx"))
    with pytest.raises(FormatError, match="does not fit its metadata"):
        open_embedder(f"openvino:{tmp_path / 'mixed.onnx'}")


def test_the_file_is_read_as_onnx_reads_it(tiny_classifier: Path) -> None:
    facts, model = read_onnx(tiny_classifier), onnx.load(str(tiny_classifier))
    assert facts.metadata == {entry.key: entry.value for entry in model.metadata_props}
    assert facts.operators == {node.op_type for node in model.graph.node}
    assert facts.opset == 17
    assert facts.precision == "fp32"
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    data = tiny_classifier.read_bytes()
    assert facts.weights
    for weight in facts.weights:
        values = numpy_helper.to_array(stored[weight.name])
        assert values.shape == weight.dims
        assert data[weight.start : weight.end] == values.tobytes()

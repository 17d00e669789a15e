"""export --target: what each file holds, and that it computes what torch computes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from clipdistill.core.errors import ClipDistillError, FormatError, InputError
from clipdistill.core.metrics import cosines
from clipdistill.core.zeroshot import probabilities
from clipdistill.deploy import export as stage
from clipdistill.deploy.export import export
from clipdistill.deploy.relabel import relabel
from clipdistill.formats.text import load_text
from clipdistill.models.open import OnnxEmbedder, open_embedder

pytest.importorskip("modelopt")
pytest.importorskip("requests")

from int8_students import compress  # needs the extra `compress`

FAMILIES = {
    "test_resnet": 32,
    "test_convnext": 32,
    "test_efficientnet": 32,
    "mobilenetv3_small_050": 32,
    "efficientnet_lite0": 32,
    "tf_efficientnet_lite0": 48,
    "regnetx_002": 32,
}
STEADY = ("test_resnet", "test_convnext")
"""Random networks that do not amplify what is rounded otherwise."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, make_student, tmp_path_factory):
    """(timm's name, an INT8 student of it)."""
    folder = tmp_path_factory.mktemp(request.param)
    dense = make_student(folder / "dense", request.param, size=FAMILIES[request.param])
    return request.param, compress(dense, folder / "int8")


@pytest.fixture(scope="module")
def int8(make_student, tmp_path_factory) -> Path:
    """An INT8 test_resnet."""
    folder = tmp_path_factory.mktemp("int8")
    return compress(make_student(folder / "dense"), folder / "int8")


@pytest.fixture(scope="module")
def sparse_int8(make_student, tmp_path_factory) -> Path:
    """A sparse INT8 test_resnet."""
    folder = tmp_path_factory.mktemp("sparse")
    return compress(make_student(folder / "dense"), folder / "student", sparse=True)


def kinds(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def optimised(path: Path, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return kinds(folder / "optimised.onnx")


def test_tensorrt_files_of_every_family_round_as_the_student_does(family, tmp_path: Path) -> None:
    _, student = family
    result = export(str(student), tmp_path / "a.onnx", target="tensorrt")
    assert result.mean_cosine >= 0.999
    assert (result.target, result.precision, result.opset) == ("tensorrt", "int8", 17)
    assert result.int8_share > 0.75
    found = kinds(tmp_path / "a.onnx")
    assert not {"BatchNormalization", "Cast", "HardSwish", "Constant", "Identity"} & set(found)
    model = onnx.load(str(tmp_path / "a.onnx"))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = [
        stored[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored
    ]
    assert len(weights) > 10
    assert all(weight.data_type == onnx.TensorProto.INT8 for weight in weights)
    assert not any(
        node.op_type == "QuantizeLinear" and node.input[0] in stored for node in model.graph.node
    )


def test_onnxruntime_files_of_every_family_run_on_integers(family, tmp_path: Path) -> None:
    arch, student = family
    result = export(str(student), tmp_path / "a.onnx")
    if arch in STEADY:
        assert result.mean_cosine >= 0.999
    assert (result.target, result.precision) == ("onnxruntime", "int8")
    compression = OnnxEmbedder(tmp_path / "a.onnx").card.compression
    assert compression is not None
    assert compression.int8 is not None
    gates = [name for name, _ in compression.int8.skipped if ".se." in name]
    ran = optimised(tmp_path / "a.onnx", tmp_path)
    assert ran["Conv"] == len(gates)
    assert ran["QLinearConv"] == kinds(tmp_path / "a.onnx")["Conv"] - len(gates)


def test_a_resnet_runs_on_integers_from_end_to_end(int8: Path, tmp_path: Path) -> None:
    export(str(int8), tmp_path / "a.onnx")
    ran = optimised(tmp_path / "a.onnx", tmp_path)
    assert (ran["QLinearConv"], ran["QLinearAdd"], ran["QLinearAveragePool"]) == (15, 4, 3)
    assert not {"Conv", "Add", "Relu", "AveragePool"} & set(ran)


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_a_classifier_keeps_its_head_in_float(
    target, int8: Path, tiny_text: Path, draw_pixels, tmp_path: Path
) -> None:
    result = export(str(int8), tmp_path / "a.onnx", target=target, text=tiny_text)
    assert len(result.labels) == 4
    written = OnnxEmbedder(tmp_path / "a.onnx")
    assert (written.card.target, written.card.precision) == (target, "int8")
    assert written.card.compression is not None
    assert written.card.compression.int8 is not None
    pixels = draw_pixels(5)
    classes = load_text(tiny_text)
    scores = probabilities(written.embed_pixels(pixels), classes.vectors, classes.teacher.logits)
    np.testing.assert_allclose(written.classify_pixels(pixels), scores, atol=1e-4)


@pytest.mark.parametrize(("target", "fp16"), [("onnxruntime", False), ("tensorrt", True)])
def test_relabel_keeps_the_target(
    target, fp16, int8: Path, make_text, draw_pixels, tmp_path: Path
) -> None:
    export(str(int8), tmp_path / "a.onnx", target=target, fp16=fp16)
    text = make_text(tmp_path / "text.npy", ("one", "two"))
    relabel(tmp_path / "a.onnx", text, tmp_path / "b.onnx")
    before, after = OnnxEmbedder(tmp_path / "a.onnx"), OnnxEmbedder(tmp_path / "b.onnx")
    assert (after.card.target, after.card.precision) == (target, "int8+fp16" if fp16 else "int8")
    assert after.card.compression == before.card.compression
    pixels = draw_pixels(4)
    np.testing.assert_array_equal(before.embed_pixels(pixels), after.embed_pixels(pixels))
    assert after.classify_pixels(pixels).shape == (4, 2)


def test_half_precision_of_a_dense_student(
    tiny_student: Path, tiny_text: Path, draw_pixels, tmp_path: Path
) -> None:
    full = export(str(tiny_student), tmp_path / "a.onnx", target="tensorrt", text=tiny_text)
    half = export(
        str(tiny_student), tmp_path / "b.onnx", target="tensorrt", fp16=True, text=tiny_text
    )
    assert (full.precision, half.precision, half.opset) == ("fp32", "fp16", 17)
    assert half.size_mb < 0.55 * full.size_mb
    source, written = open_embedder(str(tiny_student)), OnnxEmbedder(tmp_path / "b.onnx")
    pixels = draw_pixels(5)
    assert cosines(source.embed_pixels(pixels), written.embed_pixels(pixels)).min() > 0.999
    assert written.classify_pixels(pixels).dtype == np.float32
    model = onnx.load(str(tmp_path / "b.onnx"))
    assert kinds(tmp_path / "b.onnx")["Cast"] == 2
    weights = [t for t in model.graph.initializer if len(t.dims) == 4]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}
    assert {
        item.type.tensor_type.elem_type for item in (*model.graph.input, *model.graph.output)
    } == {onnx.TensorProto.FLOAT}


def test_half_precision_of_an_int8_student(int8: Path, tmp_path: Path) -> None:
    result = export(str(int8), tmp_path / "a.onnx", target="tensorrt", fp16=True)
    assert (result.precision, result.opset) == ("int8+fp16", 19)
    model = onnx.load(str(tmp_path / "a.onnx"))
    assert kinds(tmp_path / "a.onnx")["Cast"] == 2
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    scales = {
        types[node.input[1]]
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }
    assert scales == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_a_sparse_int8_student_stays_sparse(target, sparse_int8: Path, tmp_path: Path) -> None:
    result = export(str(sparse_int8), tmp_path / "a.onnx", target=target)
    card = OnnxEmbedder(tmp_path / "a.onnx").card
    assert card.compression is not None
    assert card.compression.sparse is not None
    assert result.two_four_share == pytest.approx(card.compression.sparse.macs_share, abs=0.02)
    assert 0.5 < result.engaging_share <= result.two_four_share


def test_a_sparse_float_student(make_student, tmp_path: Path) -> None:
    student = compress(make_student(tmp_path / "a"), tmp_path / "b", sparse=True, int8=False)
    result = export(str(student), tmp_path / "a.onnx", target="tensorrt")
    assert (result.precision, result.remarks) == ("fp32", ())
    assert result.engaging_share > 0.5


def test_openvino_agrees(int8: Path, draw_pixels, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    export(str(int8), tmp_path / "a.onnx", target="tensorrt")
    card = OnnxEmbedder(tmp_path / "a.onnx").card
    pixels = card.preprocess.normalize(draw_pixels(6))
    compiled = openvino.Core().compile_model(str(tmp_path / "a.onnx"), "CPU")
    found = compiled(pixels)[compiled.output("embeddings")]
    expected = open_embedder(str(int8)).embed_images(pixels)
    assert cosines(found, expected).mean() > 0.999


def test_images_are_needed_where_ranges_are(int8: Path, pictures, tmp_path: Path) -> None:
    bare = tmp_path / "student"
    bare.mkdir()
    for name in ("student.json", "model.safetensors"):
        (bare / name).write_bytes((int8 / name).read_bytes())
    with pytest.raises(InputError, match=r"--images FOLDER"):
        export(str(bare), tmp_path / "a.onnx")
    pictures(tmp_path / "photos", 8)
    export(str(bare), tmp_path / "a.onnx", images=tmp_path / "photos")
    assert "synthetic" in export(str(bare), tmp_path / "b.onnx", target="tensorrt").checked_on


def test_half_precision_is_for_tensorrt(tiny_student: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--target tensorrt"):
        export(str(tiny_student), tmp_path / "a.onnx", fp16=True)


def test_a_file_that_is_not_ready_is_not_kept(
    int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipdistill.deploy.graph import targets

    monkeypatch.setattr(targets, "to_cpu_form", lambda model, measure: None)
    with pytest.raises(FormatError, match=r"not ready for onnxruntime.*unsigned"):
        export(str(int8), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_rounds_otherwise_is_not_kept(
    int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipdistill.deploy.graph import cpu

    covering = cpu.Grid.covering
    monkeypatch.setattr(cpu, "trained_grid", lambda step, bounds: covering(cpu.Range(-9, 900)))
    with pytest.raises(ClipDistillError, match="differs from torch"):
        export(str(int8), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_summary(sparse_int8: Path, tmp_path: Path) -> None:
    lines = export(str(sparse_int8), tmp_path / "a.onnx", target="tensorrt").summary()
    text = "\n".join(str(line) for line in lines)
    assert "int8 for TensorRT and OpenVINO, opset 17" in text
    assert "2:4:" in text
    assert "clipdistill engine" in text
    assert stage.MIN_COSINE["int8"] == 0.999


def test_a_student_that_is_not_steady(make_student, tmp_path: Path) -> None:
    """A random MobileNet amplifies whatever is rounded otherwise; the summary says so."""
    dense = make_student(tmp_path / "dense", "mobilenetv3_small_050")
    student = compress(dense, tmp_path / "int8", calm=0.0)
    result = export(str(student), tmp_path / "a.onnx")
    assert result.mean_cosine < 0.999
    assert 1 - result.mean_cosine < 2 * (1 - result.steadiness)
    assert "no more than rounding itself does" in "\n".join(map(str, result.summary()))

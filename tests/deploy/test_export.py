"""export: what is written, that it computes what torch computes, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from clipdistill.core import zeroshot
from clipdistill.core.errors import ClipDistillError, InputError, MismatchError, OutputError
from clipdistill.core.metrics import cosines
from clipdistill.core.progress import reporting
from clipdistill.core.reporters import PlainReporter
from clipdistill.deploy import graph as onnx_graph
from clipdistill.deploy.export import export
from clipdistill.deploy.lint import lint
from clipdistill.formats.student import load_weights
from clipdistill.formats.text import load_text
from clipdistill.models import tracing
from clipdistill.models.open import OnnxEmbedder, open_embedder


@pytest.fixture
def dirty_logs(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder):
    """Everything that was logged or warned."""
    return lambda: [record.message for record in caplog.records] + [w.message for w in recwarn]


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "test_efficientnet"])
def test_it_computes_what_torch_computes(
    arch: str, make_student, tiny_text: Path, draw_pixels, tmp_path: Path
) -> None:
    student = make_student(tmp_path / "student", arch)
    result = export(str(student), tmp_path / "a.onnx", text=tiny_text)
    assert result.min_cosine >= 0.9999
    assert (result.opset, result.dim, result.image_size) == (17, 16, 32)
    source, written = open_embedder(str(student)), OnnxEmbedder(tmp_path / "a.onnx")
    pixels = draw_pixels(7)
    expected = source.embed_pixels(pixels)
    between = expected @ expected.T - np.eye(7)
    assert between.max() < 0.995, "the student answers alike to everything: nothing is compared"
    for part in (pixels[:1], pixels[:3], pixels):
        assert cosines(written.embed_pixels(part), expected[: len(part)]).min() > 0.9999
    classes = load_text(tiny_text)
    scores = zeroshot.probabilities(expected, classes.vectors, classes.teacher.logits)
    np.testing.assert_allclose(written.classify_pixels(pixels), scores, atol=1e-3)


def test_the_file_as_others_see_it(tiny_classifier: Path, tiny_bare_onnx: Path) -> None:
    model = onnx.load(str(tiny_classifier))
    onnx.checker.check_model(model, full_check=True)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 17)]
    (pixels,) = model.graph.input
    sizes = [side.dim_param or side.dim_value for side in pixels.type.tensor_type.shape.dim]
    assert (pixels.name, sizes) == ("input", ["batch", 3, 32, 32])
    assert [output.name for output in model.graph.output] == ["probabilities", "embeddings"]
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"BatchNormalization", "Identity"}  # folded away
    assert not model.functions
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert [output.name for output in onnx.load(str(tiny_bare_onnx)).graph.output] == ["embeddings"]


def test_metadata(tiny_classifier: Path, tiny_student: Path, tiny_text: Path) -> None:
    card = OnnxEmbedder(tiny_classifier).card
    student = open_embedder(str(tiny_student)).spec
    assert (card.role, card.arch, card.training) == ("student", "test_resnet", {"epochs": 0})
    assert (card.teacher, card.preprocess) == (student.teacher, student.preprocess)
    assert card.text is not None
    np.testing.assert_allclose(card.text.vectors, load_text(tiny_text).vectors, atol=1e-6)


def test_where_the_pictures_come_from(
    make_student, pictures, tiny_student: Path, tmp_path: Path
) -> None:
    pictures(tmp_path / "photos", 3)
    (tmp_path / "photos" / "bad.png").write_bytes(b"bad")
    out = tmp_path / "a.onnx"
    given = export(str(tiny_student), out, images=tmp_path / "photos")
    assert given.checked_on == f"3 images of {tmp_path / 'photos'}"
    assert "training images" in export(str(tiny_student), out).checked_on
    bare = make_student(tmp_path / "bare", samples=0)
    assert "synthetic" in export(str(bare), out).checked_on
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "bad.png").write_bytes(b"bad")
    with pytest.raises(InputError, match="can be read"):
        export(str(tiny_student), out, images=tmp_path / "none")


def test_a_teacher(
    tiny_teacher, tiny_teacher_name: str, tiny_text: Path, draw_pixels, tmp_path: Path
) -> None:
    result = export(tiny_teacher_name, tmp_path / "a.onnx", teacher=True, text=tiny_text)
    assert result.role == "teacher"
    written = OnnxEmbedder(tmp_path / "a.onnx")
    assert written.spec.teacher == tiny_teacher.card.shipped()
    expected = tiny_teacher.images.embed_pixels(draw_pixels(4))
    assert cosines(written.embed_pixels(draw_pixels(4)), expected).min() > 0.9999


def test_a_sigmoid_teacher(sigmoid_teacher, make_text, draw_pixels, tmp_path: Path) -> None:
    text = make_text(tmp_path / "text.npy", teacher=sigmoid_teacher)
    name = sigmoid_teacher.card.model_name
    export(name, tmp_path / "a.onnx", teacher=True, text=text)
    written = OnnxEmbedder(tmp_path / "a.onnx")
    classes = load_text(text)
    assert classes.teacher.logits.bias is not None
    embeddings = written.embed_pixels(draw_pixels(3))
    expected = zeroshot.probabilities(embeddings, classes.vectors, classes.teacher.logits)
    np.testing.assert_allclose(written.classify_pixels(draw_pixels(3)), expected, atol=1e-5)
    assert abs(expected.sum(axis=1) - 1).max() > 0.05


def test_an_older_checkpoint(tiny_student: Path, tiny_text: Path, tmp_path: Path) -> None:
    path = tmp_path / "older" / "checkpoint.pth"
    path.parent.mkdir()
    weights = load_weights(tiny_student / "model.safetensors")
    torch.save({"model": weights, "optimizer": {}, "epoch": 1}, path)
    with pytest.raises(InputError, match="--arch"):
        export(str(path), tmp_path / "a.onnx")
    result = export(
        str(path), tmp_path / "a.onnx", arch="test_resnet", image_size=32, text=tiny_text
    )
    assert len(result.labels) == 4
    assert OnnxEmbedder(tmp_path / "a.onnx").card.teacher is None


def test_nothing_is_printed_or_warned(
    tiny_student: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], dirty_logs
) -> None:
    export(str(tiny_student), tmp_path / "a.onnx")
    assert capfd.readouterr() == ("", "")
    assert dirty_logs() == []


def test_wrong_arguments(
    tiny_student: Path,
    tiny_classifier: Path,
    tiny_teacher_name: str,
    make_text,
    other_teacher,
    tmp_path: Path,
) -> None:
    out = tmp_path / "a.onnx"
    foreign = make_text(tmp_path / "foreign.npy", teacher=other_teacher)
    with pytest.raises(MismatchError, match="same embedding space"):
        export(str(tiny_student), out, text=foreign)
    with pytest.raises(InputError, match="order"):
        export(str(out), tiny_student)
    with pytest.raises(InputError, match="already"):
        export(str(tiny_classifier), out)
    with pytest.raises(InputError, match="Add --teacher"):
        export(tiny_teacher_name, out)
    with pytest.raises(InputError, match="Leave --teacher away"):
        export(str(tiny_student), out, teacher=True)
    with pytest.raises(InputError, match="MODEL may be"):
        export(str(tmp_path / "nowhere"), out)
    with pytest.raises(MismatchError, match="is a test_resnet, not a resnet18"):
        export(str(tiny_student), out, arch="resnet18")
    with pytest.raises(MismatchError, match="32 px, not of 64 px"):
        export(str(tiny_student), out, image_size=64)
    with pytest.raises(MismatchError, match="32 px, not of 64 px"):
        export(tiny_teacher_name, out, teacher=True, image_size=64)
    with pytest.raises(InputError, match="Leave --arch away"):
        export(tiny_teacher_name, out, teacher=True, arch="resnet18")
    assert not out.exists()


def test_outputs_that_cannot_be_written(tiny_student: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(OutputError, match="in the way"):
        export(str(tiny_student), tmp_path / "folder.onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        export(str(tiny_student), tmp_path / "file" / "a.onnx")


def test_a_file_that_differs_is_not_kept(
    tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.onnx"
    out.write_bytes(b"earlier")

    def spoil(model: object, card: object) -> None:
        tidy(model, card)
        (first, *_) = [t for t in model.graph.initializer if len(t.dims) == 4]  # type: ignore[attr-defined]
        weights = onnx.numpy_helper.to_array(first)
        first.CopyFrom(onnx.numpy_helper.from_array(weights * 0.5 + 0.3, first.name))

    tidy = onnx_graph.tidy
    monkeypatch.setattr(onnx_graph, "tidy", spoil)
    with pytest.raises(ClipDistillError, match="differs from torch"):
        export(str(tiny_student), out)
    assert out.read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_a_network_that_torch_cannot_export(
    tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(tracing.UnitLength):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(pixels)

    monkeypatch.setattr(tracing, "UnitLength", Odd)
    with pytest.raises(ClipDistillError, match="cannot export test_resnet"):
        export(str(tiny_student), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_padding_that_torch_computes_is_constant_in_the_file(make_student, tmp_path: Path) -> None:
    found = {}
    for arch in ("efficientnet_lite0", "tf_efficientnet_lite0"):
        student = make_student(tmp_path / arch, arch, size=48)
        result = export(str(student), tmp_path / f"{arch}.onnx")
        assert result.min_cosine >= 0.9999
        model = onnx.load(str(tmp_path / f"{arch}.onnx"))
        found[arch] = Counter(node.op_type for node in model.graph.node)
    assert found["tf_efficientnet_lite0"] == found["efficientnet_lite0"]
    macs = {lint(tmp_path / f"{arch}.onnx", target="onnxruntime").macs for arch in found}
    assert len(macs) == 1
    assert macs.pop() > 1e7


def test_probabilities_of_the_teacher_are_announced_in_a_students_file(
    tmp_path, tiny_student, independent_text, tiny_text, capsys
):
    for name, text in (("own", independent_text), ("plain", tiny_text)):
        with reporting(PlainReporter()):
            export(str(tiny_student), tmp_path / f"{name}.onnx", text=text)
        said = capsys.readouterr().err
        assert (f"--text {text} --calibrate" in said) == (name == "own")

"""export --target litert, the runtime LiteRT, relabel of its files."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from clipdistill.core import zeroshot
from clipdistill.core.errors import (
    ClipDistillError,
    InputError,
    MismatchError,
    MissingExtraError,
    OptionError,
)
from clipdistill.core.metrics import cosines
from clipdistill.deploy.export import export
from clipdistill.deploy.relabel import relabel
from clipdistill.formats.litert import MEMBER, network_size
from clipdistill.formats.text import load_text
from clipdistill.measure.benchmark import benchmark
from clipdistill.measure.evaluate import evaluate
from clipdistill.models import open as opening
from clipdistill.models.open import open_embedder
from clipdistill.models.recognizer import open_recognizer
from clipdistill.show.predict import predict

LEAST = {"fp32": 0.99999, "fp16": 0.9999, "int8": 0.999}


@pytest.fixture(scope="module")
def students(tmp_path_factory, tiny_student: Path) -> dict[str, Path]:
    """Precision -> the student of the file."""
    pytest.importorskip("ai_edge_litert", reason="needs clipdistill[litert]")
    pytest.importorskip("litert_torch", reason="needs clipdistill[litert-convert]")
    pytest.importorskip("modelopt", reason="needs clipdistill[compress]")
    from int8_students import compress

    int8 = compress(tiny_student, tmp_path_factory.mktemp("litert") / "int8")
    return {"fp32": tiny_student, "fp16": tiny_student, "int8": int8}


@pytest.fixture(scope="module")
def tflite(tmp_path_factory, students, tiny_text: Path):
    """Precision -> (file, result of export)."""
    folder = tmp_path_factory.mktemp("tflite")
    made = {}
    for precision, student in students.items():
        out = folder / f"{precision}.tflite"
        fp16 = precision == "fp16"
        made[precision] = (
            out,
            export(str(student), out, text=tiny_text, target="litert", fp16=fp16),
        )
    return made


@pytest.mark.parametrize("precision", LEAST)
def test_it_computes_what_torch_computes(
    tflite, students, tiny_text: Path, draw_pixels, precision: str
) -> None:
    path, result = tflite[precision]
    assert (result.target, result.precision) == ("litert", precision)
    written = open_embedder(str(path))
    assert (written.spec.runtime, written.spec.precision) == ("litert", precision)
    assert written.card.target == "litert"
    pixels = draw_pixels(7)
    expected = open_embedder(str(students[precision]))
    assert written.spec.preprocess == expected.spec.preprocess
    found = written.embed_pixels(pixels)
    assert cosines(found, expected.embed_pixels(pixels)).mean() > LEAST[precision]
    text = load_text(tiny_text)
    shares = zeroshot.probabilities(found, text.vectors, text.logits)
    np.testing.assert_allclose(written.classify_pixels(pixels), shares, atol=1e-6)
    assert written.embed_pixels(pixels[:0]).shape == (0, written.spec.dim)
    assert "Reloaded in LiteRT" in str(result.summary()[1])


def test_sizes(tflite) -> None:
    sizes = {name: network_size(path) for name, (path, _) in tflite.items()}
    assert sizes["int8"] < sizes["fp16"] < sizes["fp32"]


def test_int8_keeps_the_ranges_of_the_student(tflite, students) -> None:
    """The steps of the student's quantisers are those of tensors in the file."""
    from ai_edge_litert.interpreter import Interpreter

    from clipdistill.models.compression.quantization import modelopt
    from clipdistill.models.student import load_student

    path, _ = tflite["int8"]
    details = Interpreter(
        model_content=path.read_bytes()[: network_size(path)]
    ).get_tensor_details()
    steps = np.array([one["quantization"][0] for one in details])
    kind = modelopt().quantizer
    _, student = load_student(students["int8"], device="cpu", precision="fp32")
    trained = [
        float(one.amax) / 127
        for one in student.module.modules()
        if isinstance(one, kind) and one.is_enabled and one.axis is None
    ]
    assert len(trained) > 5
    kept = [float(np.abs(steps / step - 1).min()) < 1e-4 for step in trained]
    assert kept.count(False) <= 3  # behind its three average pools, which keep their input's step


def test_the_verbs_take_it(tflite, pictures, tmp_path: Path) -> None:
    path, _ = tflite["fp32"]
    labels = open_recognizer(str(path)).labels
    (photo,) = pictures(tmp_path / "one", 1)
    (one,) = predict(str(path), str(photo), threshold=0).predictions
    assert one.ranked[0][0] in labels
    for label in labels[:2]:
        pictures(tmp_path / "labelled" / label, 10)
    labelled = tmp_path / "labelled"
    copy = tmp_path / "copy.tflite"
    copy.write_bytes(path.read_bytes())
    evaluate(str(copy), labelled=labelled, calibrate=True)
    assert open_recognizer(str(copy)).text.calibration is not None
    (row,) = benchmark(str(path), images=labelled).rows
    assert (row.runtime, row.reason) == ("litert", "")
    with pytest.raises(InputError, match="--device cpu"):
        open_embedder(str(path), device="cuda")


def test_relabel(tflite, make_text, other_teacher, draw_pixels, tmp_path: Path) -> None:
    path, _ = tflite["int8"]
    text = make_text(tmp_path / "other.npy", ("door", "wall"))
    out = tmp_path / "other.tflite"
    result = relabel(path, text, out)
    assert result.labels == ("door", "wall")
    assert len(result.before) == 4
    before, after = open_embedder(str(path)), open_recognizer(str(out))
    np.testing.assert_array_equal(
        after.embedder.embed_pixels(draw_pixels(3)), before.embed_pixels(draw_pixels(3))
    )
    assert after.probabilities(draw_pixels(3)).shape == (3, 2)
    relabel(out, text, out)
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist() == [MEMBER]
    with pytest.raises(MismatchError, match="teacher"):
        relabel(path, make_text(tmp_path / "far.npy", teacher=other_teacher), out)
    with pytest.raises(InputError, match=r"\.tflite"):
        relabel(path, text, tmp_path / "other.onnx")


def test_a_file_that_computes_something_else_is_not_kept(
    students, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from clipdistill.deploy import litert_int8
    from clipdistill.deploy.graph.cpu import Grid, Range

    monkeypatch.setattr(litert_int8, "trained_grid", lambda *_: Grid.covering(Range(-9, 900)))
    with pytest.raises(ClipDistillError, match="differs from torch"):
        export(str(students["int8"]), tmp_path / "a.tflite", target="litert")
    assert list(tmp_path.iterdir()) == []


def test_what_export_refuses(students, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"classifier\.tflite"):
        export(str(students["fp32"]), tmp_path / "a.onnx", target="litert")
    with pytest.raises(OptionError, match="no FP16 beside INT8"):
        export(str(students["int8"]), tmp_path / "a.tflite", target="litert", fp16=True)


def test_without_the_converter(
    tiny_student: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(MissingExtraError, match=r"clipdistill\[litert-convert\]"):
        export(str(tiny_student), tmp_path / "a.tflite", target="litert")
    assert list(tmp_path.iterdir()) == []


def test_without_the_runtime(tflite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(MissingExtraError, match=r"clipdistill\[litert\]"):
        open_embedder(str(tflite["fp32"][0]))
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda name: None)
    assert opening.installed_runtimes("litert") == ()

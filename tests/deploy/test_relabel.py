"""relabel, used as its users do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import clipdistill
from clipdistill.core import zeroshot
from clipdistill.core.errors import (
    ClipDistillError,
    FormatError,
    InputError,
    MismatchError,
    ModelNotFoundError,
)
from clipdistill.deploy.relabel import relabel
from clipdistill.distillation.embed_text import embed_text
from clipdistill.formats.text import load_text
from clipdistill.models.open import OnnxEmbedder, open_embedder
from clipdistill.show.predict import predict

NEW = ["day", "night", "dusk", "dawn", "noon", "midnight"]


@pytest.mark.parametrize("source", ["classifier", "bare"])
def test_other_classes(
    source: str,
    tiny_classifier: Path,
    tiny_bare_onnx: Path,
    make_text,
    draw_pixels,
    tmp_path: Path,
) -> None:
    before = tiny_classifier if source == "classifier" else tiny_bare_onnx
    text = make_text(tmp_path / "new.npy", NEW)
    result = relabel(before, text, tmp_path / "new.onnx")
    assert result.labels == tuple(NEW)
    assert len(result.before) == (4 if source == "classifier" else 0)
    after = OnnxEmbedder(tmp_path / "new.onnx")
    assert after.text is not None
    assert after.text.labels == tuple(NEW)
    pixels = draw_pixels(3)
    embeddings = after.embed_pixels(pixels)
    np.testing.assert_array_equal(embeddings, OnnxEmbedder(before).embed_pixels(pixels))
    classes = load_text(text)
    expected = zeroshot.probabilities(embeddings, classes.vectors, classes.teacher.logits)
    np.testing.assert_allclose(after.classify_pixels(pixels), expected, atol=1e-5)
    model = onnx.load(str(tmp_path / "new.onnx"))
    assert [output.name for output in model.graph.output] == ["probabilities", "embeddings"]


def test_prompts_are_embedded_where_the_teacher_is(
    tiny_classifier: Path, tiny_teacher_name: str, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"{label}\n" for label in NEW))
    relabel(tiny_classifier, prompts, tmp_path / "a.onnx", model_name=tiny_teacher_name)
    text = embed_text(prompts, tmp_path / "text.npy", model_name=tiny_teacher_name).out
    relabel(tiny_classifier, text, tmp_path / "b.onnx")
    a, b = (OnnxEmbedder(tmp_path / name).text for name in ("a.onnx", "b.onnx"))
    assert a is not None
    assert b is not None
    assert a.labels == b.labels
    np.testing.assert_allclose(a.vectors, b.vectors, atol=1e-6)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_independent_classes_are_computed_in_the_graph(
    independent_classifier: Path, independent_text: Path, draw_pixels, runtime: str
) -> None:
    pytest.importorskip(runtime)
    after = open_embedder(f"{runtime}:{independent_classifier}", device="cpu")
    classes = load_text(independent_text)
    assert after.text.independent == classes.independent
    pixels = draw_pixels(3)
    expected = zeroshot.probabilities(
        after.embed_pixels(pixels), classes.vectors, classes.independent
    )
    np.testing.assert_allclose(after.classify_pixels(pixels), expected, atol=1e-5)
    assert not np.allclose(expected.sum(axis=1), 1, atol=0.01)


def test_prompts_for_an_independent_classifier_keep_what_was_fitted(
    independent_classifier: Path, tiny_teacher_name: str, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("dusk\nred disc\n")
    result = relabel(
        independent_classifier,
        tmp_path / "prompts.txt",
        tmp_path / "new.onnx",
        model_name=tiny_teacher_name,
    )
    found = OnnxEmbedder(tmp_path / "new.onnx").text.independent
    assert (found.scales[1], found.biases[1], found.thresholds) == (4.0, 0.5, (0.9, 0.5))
    assert found.scales[0] == 5.5
    assert result.cautious == found.unmatched == ("dusk",)
    assert "not fitted" in "\n".join(map(str, result.summary()))


def test_single_classes_in_place_of_independent_ones_are_mentioned(
    independent_classifier: Path, tiny_text: Path, tmp_path: Path
) -> None:
    result = relabel(independent_classifier, tiny_text, tmp_path / "new.onnx")
    assert result.now_single
    assert "adapt TEXT EMBEDDINGS TEXT --independent" in "\n".join(map(str, result.summary()))


def test_prompts_without_the_teacher_say_what_to_run(
    tiny_classifier: Path, tmp_path: Path, monkeypatch
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("day\nnight\n")

    def gone(*_: object, **__: object) -> None:
        raise ModelNotFoundError("nowhere")

    monkeypatch.setattr("clipdistill.models.teacher.load_teacher", gone)
    with pytest.raises(ModelNotFoundError) as raised:
        relabel(tiny_classifier, prompts, tmp_path / "a.onnx")
    command = f"clipdistill embed-text {prompts} TEXT.npy --model-name local-dir:tiny"
    assert command in str(raised.value)
    assert not (tmp_path / "a.onnx").exists()


def test_there_and_back(tiny_classifier: Path, tiny_text: Path, make_text, tmp_path: Path) -> None:
    relabel(tiny_classifier, make_text(tmp_path / "new.npy", NEW), tmp_path / "new.onnx")
    relabel(tmp_path / "new.onnx", tiny_text, tmp_path / "back.onnx")
    first, last = onnx.load(str(tiny_classifier)), onnx.load(str(tmp_path / "back.onnx"))
    assert [node.name for node in first.graph.node] == [node.name for node in last.graph.node]
    assert len(first.graph.initializer) == len(last.graph.initializer)


def test_in_place_and_predict(tiny_classifier: Path, make_text, pictures, tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(tiny_classifier.read_bytes())
    relabel(path, make_text(tmp_path / "new.npy", NEW), path)
    (picture,) = pictures(tmp_path, 1)
    result = predict(str(path), str(picture), top_k=6)
    assert {label for label, _ in result.predictions[0].ranked} == set(NEW)
    assert "instead of" not in str(result.summary())


def test_no_torch_is_needed(tiny_classifier: Path, tiny_text: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from clipdistill.deploy.relabel import relabel\n"
        "print(relabel(*map(Path, sys.argv[1:])).summary()[0])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(clipdistill.__path__[0]).parent)}
    command = [sys.executable, "-c", code, str(tiny_classifier), str(tiny_text)]
    done = subprocess.run(
        [*command, str(tmp_path / "new.onnx")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "4 labels" in done.stdout, done.stderr


def test_wrong_files_leave_the_output_alone(
    tiny_classifier: Path, tiny_text: Path, make_text, other_teacher, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"earlier")
    foreign = make_text(tmp_path / "foreign.npy", teacher=other_teacher)
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(tiny_classifier.read_bytes()[:5000])
    attempts: list[tuple[tuple[Path, Path, Path], type[ClipDistillError]]] = [
        ((tiny_classifier, foreign, out), MismatchError),
        ((cut, tiny_text, out), FormatError),
        ((tiny_text, tiny_classifier, out), FormatError),
        ((tiny_classifier, out, tiny_text), InputError),
        ((tmp_path / "missing.onnx", tiny_text, out), InputError),
        ((tiny_classifier, tmp_path / "missing.npy", out), InputError),
    ]
    for arguments, error in attempts:
        with pytest.raises(error):
            relabel(*arguments)
    assert out.read_bytes() == b"earlier"
    assert not list(tmp_path.glob(".clipdistill*"))
    assert load_text(tiny_text).labels  # swapped arguments did not touch it

"""The metadata of an ONNX file: what goes in comes out, and damage is named."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipdistill.core.errors import FormatError, InputError, OutputError
from clipdistill.core.zeroshot import Independent, LogitScale, normalized
from clipdistill.formats.cards import Compression, Sparsity, TeacherCard
from clipdistill.formats.classifier import OnnxCard, check_output
from clipdistill.formats.text import TextEmbeddings
from clipdistill.images.preprocess import Preprocess

PATH = Path("model.onnx")


def teacher(logits: LogitScale) -> TeacherCard:
    return TeacherCard("ViT-B-32", "openai", "ab" * 16, 4, logits, Preprocess(224))


def card(logits: LogitScale = LogitScale(42.5), *, text: bool = True) -> OnnxCard:
    vectors = normalized(np.random.default_rng(0).normal(size=(3, 4)))
    labels = ("cat", "dög", "fish")
    classes = TextEmbeddings(vectors, labels, (("cat",),) * 3, ("a {}",), teacher(logits))
    return OnnxCard(
        role="student",
        arch="resnet18",
        dim=4,
        preprocess=Preprocess(64),
        teacher=teacher(logits),
        training={"epochs": 3},
        text=classes if text else None,
    )


@pytest.mark.parametrize("logits", [LogitScale(42.5), LogitScale(117.3, -12.9)])
def test_round_trip(logits: LogitScale) -> None:
    before = card(logits)
    after = OnnxCard.from_metadata(PATH, {"other": "tool", **before.to_metadata()})
    assert before.text is not None
    assert after.text is not None
    np.testing.assert_allclose(after.text.vectors, before.text.vectors, atol=1e-7)
    assert after.text.teacher.logits == logits
    vectors = before.text.vectors
    assert replace(after, text=replace(after.text, vectors=vectors)) == before


def test_what_a_file_is_made_for() -> None:
    sparse = Sparsity("magnitude", ("layer1.0.conv1",), (("conv1", "3 channels"),), 0.5, 0.6)
    made = replace(
        card(), target="tensorrt", precision="int8+fp16", compression=Compression(sparse, None)
    )
    metadata = made.to_metadata()
    read = OnnxCard.from_metadata(PATH, metadata)
    assert (read.target, read.precision) == ("tensorrt", "int8+fp16")
    assert read.compression == made.compression
    older = json.loads(metadata["clipdistill.card"])
    for key in ("target", "precision", "compression"):
        del older[key]
    read = OnnxCard.from_metadata(PATH, metadata | {"clipdistill.card": json.dumps(older)})
    assert (read.target, read.precision, read.compression) == ("onnxruntime", "fp32", None)


@pytest.mark.parametrize(
    ("key", "value"),
    [("target", "toaster"), ("target", ["tensorrt"]), ("precision", "int2"), ("compression", 3)],
)
def test_an_odd_target(key: str, value: object) -> None:
    metadata = card().to_metadata()
    described = json.loads(metadata["clipdistill.card"]) | {key: value}
    with pytest.raises(FormatError, match=r"model\.onnx"):
        OnnxCard.from_metadata(PATH, metadata | {"clipdistill.card": json.dumps(described)})


def test_round_trip_without_classes() -> None:
    before = replace(card(text=False), teacher=None)
    assert OnnxCard.from_metadata(PATH, before.to_metadata()) == before


def test_metadata_can_be_read_without_us() -> None:
    values = card(LogitScale(10.0, -2.0)).to_metadata()
    assert json.loads(values["clipdistill.labels"])["labels"] == ["cat", "dög", "fish"]
    assert float(values["clipdistill.temperature"]) == 10.0
    assert float(values["clipdistill.logit_bias"]) == -2.0
    raw = base64.b64decode(values["clipdistill.text_embeddings"])
    assert np.frombuffer(raw, "<f4").reshape(3, 4).shape == (3, 4)


def test_a_foreign_file() -> None:
    with pytest.raises(FormatError, match="clipdistill export"):
        OnnxCard.from_metadata(PATH, {"author": "somebody"})


def test_a_newer_file() -> None:
    with pytest.raises(FormatError, match=r"newer.*Update"):
        OnnxCard.from_metadata(PATH, card().to_metadata() | {"clipdistill.version": "2"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("card", "{"),
        ("card", "[1]"),
        ("card", "{}"),
        ("card", "[" * 100_000),
        ("labels", "{}"),
        ("labels", '{"labels": 3}'),
        ("text_embeddings", ""),
        ("text_embeddings", "!" * 64),
        ("text_embeddings", base64.b64encode(b"\xff" * 48).decode()),
        ("text_embeddings", "A" * 1000),
        ("temperature", "warm"),
        ("temperature", "nan"),
        ("temperature", "1.0"),
        ("logit_bias", "-10.0"),
        ("version", "one"),
    ],
)
def test_damage_is_a_format_error(key: str, value: str) -> None:
    with pytest.raises(FormatError, match=r"model\.onnx"):
        OnnxCard.from_metadata(PATH, card().to_metadata() | {f"clipdistill.{key}": value})


@pytest.mark.parametrize("count", [-1, 0, 10**12])
def test_absurd_sizes_are_refused_before_decoding(count: int) -> None:
    values = card().to_metadata()
    labels = json.loads(values["clipdistill.labels"])
    labels["teacher"]["dim"] = count
    with pytest.raises(FormatError, match="damaged"):
        OnnxCard.from_metadata(PATH, values | {"clipdistill.labels": json.dumps(labels)})


@pytest.mark.parametrize("key", ["card", "labels", "text_embeddings", "temperature"])
def test_something_is_missing(key: str) -> None:
    values = card().to_metadata()
    del values[f"clipdistill.{key}"]
    if key == "labels":  # then it is a bare embedder
        assert OnnxCard.from_metadata(PATH, values).text is None
        return
    with pytest.raises(FormatError):
        OnnxCard.from_metadata(PATH, values)


def test_output_names_and_places(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "a.onnx")
    with pytest.raises(InputError, match="order"):
        check_output(tmp_path / "text.npy")
    (tmp_path / "b.onnx").mkdir()
    with pytest.raises(OutputError, match="in the way"):
        check_output(tmp_path / "b.onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        check_output(tmp_path / "file" / "c.onnx")


@pytest.mark.parametrize(
    "wrong",
    [{"biases": [float("nan")] * 3}, {"thresholds": [0.5]}, {"scales": [[1.0]] * 3}, {}],
)
def test_independent_probabilities_of_strangers_are_checked(wrong: dict[str, object]) -> None:
    own = Independent(
        (9.0, 8.0, 7.0), (0.0, 1.0, 2.0), (0.5, 0.9, 0.5), "pool", "", 9, (3, 0, 4), ("dög",)
    )
    plain = card()
    assert plain.text is not None
    several = replace(plain, text=replace(plain.text, independent=own))
    metadata = several.to_metadata()
    found = OnnxCard.from_metadata(Path("a.onnx"), metadata)
    assert found.text is not None
    assert found.text.logits == own
    labels = json.loads(metadata["clipdistill.labels"])
    labels["independent"] = {**labels["independent"], **wrong} if wrong else 3
    damaged = {**metadata, "clipdistill.labels": json.dumps(labels)}
    with pytest.raises(FormatError, match=r"a\.onnx: its metadata is damaged .*clipdistill export"):
        OnnxCard.from_metadata(Path("a.onnx"), damaged)

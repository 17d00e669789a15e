"""quantize: INT8 without training, its table, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clipdistill.core.errors import InputError, MismatchError, OutputError
from clipdistill.distillation.embed import embed
from clipdistill.distillation.quantize import QuantizedState, quantize
from clipdistill.formats.cards import Compression
from clipdistill.formats.student import (
    load_card,
    load_samples,
    load_weights,
    save_card,
    save_weights,
)
from clipdistill.models.compression.sparsity import is_sparse, prune
from clipdistill.models.student import build_student, load_state, load_student

pytest.importorskip("modelopt")
pytest.importorskip("requests")


@pytest.fixture(scope="module")
def images(tmp_path_factory, pictures) -> Path:
    folder = tmp_path_factory.mktemp("images")
    pictures(folder, 40, seed=2)
    return folder


@pytest.fixture(scope="module")
def sparse_student(tmp_path_factory, tiny_student) -> Path:
    """The tiny student, pruned."""
    out, card = tmp_path_factory.mktemp("sparse") / "student", load_card(tiny_student)
    network = build_student(card.arch, card.dim)
    load_state(network, load_weights(tiny_student / "model.safetensors"), tiny_student)
    facts, _ = prune(network, card.preprocess.size)
    out.mkdir()
    save_weights(out, network.state_dict())
    save_card(out, replace(card, compression=Compression(sparse=facts)))
    return out


@pytest.mark.parametrize("calibration", ["max", "percentile"])
def test_the_int8_student_is_near_to_the_one_it_was_made_from(
    tmp_path, tiny_student, images, tiny_text, tiny_teacher_name, calibration
):
    embed(images, tmp_path / "embeddings", model_name=tiny_teacher_name, device="cpu")
    result = quantize(
        tiny_student,
        images,
        tmp_path / "int8",
        text=tiny_text,
        device="cpu",
        embeddings=tmp_path / "embeddings",
        calibration=calibration,
    )
    before, after = result.states
    assert (before.cosine, before.same_label) == (pytest.approx(1, abs=1e-6), 1.0)
    assert 0.85 < result.worst_cosine <= after.cosine < 0.99999
    assert after.cosine > 0.95
    assert after.teacher_cosine == pytest.approx(before.teacher_cosine, abs=0.05)
    assert 0.7 <= after.same_label <= 1
    assert result.held_out == 8
    facts = load_card(tmp_path / "int8").compression.int8
    assert (facts.calibration_images, facts.method, facts.trained) == (32, calibration, False)
    assert load_samples(tmp_path / "int8").shape == (16, 32, 32, 3)
    text = "\n".join(map(str, result.summary()))
    assert "15 layers, 4 residual adds" in text
    assert "INT8, calibrated, not trained" in text
    _, student = load_student(tmp_path / "int8", device="cpu")
    _, dense = load_student(tiny_student, device="cpu")
    samples = load_samples(tmp_path / "int8")
    cosine = (student.embed_pixels(samples) * dense.embed_pixels(samples)).sum(1)
    assert 0.85 < cosine.min() < 1


@pytest.mark.parametrize(
    ("cosine", "teacher", "same_label", "nothing"),
    [
        (0.999, None, None, True),
        (0.997, None, None, False),
        (0.997, (0.66, 0.659), None, True),
        (0.999, (0.66, 0.657), 1.0, False),
        (0.999, (0.66, 0.66), 0.98, False),
        (0.999, (0.66, 0.67), 0.99, True),
    ],
)
def test_training_is_only_advised_where_int8_lost_something(
    cosine, teacher, same_label, nothing, tmp_path, tiny_student, images
):
    made = quantize(tiny_student, images, tmp_path / "int8", device="cpu", calibration_images=1)
    before, after = teacher or (None, None)
    states = (
        QuantizedState("before", 1.0, before, None if same_label is None else 1.0),
        QuantizedState("calibrated", cosine, after, same_label),
    )
    result = replace(made, states=states)
    text = "\n".join(map(str, result.summary()))
    assert result.lost_nothing == nothing
    assert ("INT8 lost nothing: training it with" in text) == nothing
    assert ("keeps the result only where it is nearer to the teacher" in text) != nothing
    cost = f"from {before:.4f} to {after:.4f}" if teacher else f"is {cosine:.4f} to the student"
    assert (cost in text) != nothing


def test_a_sparse_student_stays_sparse(tmp_path, sparse_student, images):
    result = quantize(sparse_student, images, tmp_path / "int8", device="cpu")
    card = load_card(tmp_path / "int8")
    assert card.compression.sparse == load_card(sparse_student).compression.sparse
    stored = load_weights(tmp_path / "int8/model.safetensors")
    assert all(is_sparse(stored[f"{name}.weight"]) for name in card.compression.sparse.layers)
    assert result.states[1].cosine > 0.95


def test_the_same_again_gives_the_same_and_fewer_images_another(tmp_path, tiny_student, images):
    for _ in range(2):
        quantize(tiny_student, images, tmp_path / "one", device="cpu", calibration_images=8)
    quantize(tiny_student, images, tmp_path / "two", device="cpu", calibration_images=8)
    few = quantize(tiny_student, images, tmp_path / "few", device="cpu", calibration_images=1)
    assert few.compression.int8.calibration_images == 1
    found = {
        name: (tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two", "few")
    }
    assert found["one"] == found["two"] != found["few"]


def test_bad_images_are_rows_in_the_report(tmp_path, tiny_student, images):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in images.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for name in ("a", "b", "c", "d"):
        (folder / f"{name}.png").write_bytes(b"not a picture")
    result = quantize(tiny_student, folder, tmp_path / "int8", device="cpu")
    assert sorted(one.image_path for one in result.failures) == ["a.png", "b.png", "c.png", "d.png"]


def test_an_older_checkpoint(tmp_path, tiny_student, images):
    state = load_weights(tiny_student / "model.safetensors")
    torch.save({"model": state, "optimizer": {}, "epoch": 1}, tmp_path / "checkpoint.pth")
    quantize(
        tmp_path / "checkpoint.pth",
        images,
        tmp_path / "int8",
        device="cpu",
        arch="test_resnet",
        image_size=32,
    )
    card = load_card(tmp_path / "int8")
    assert (card.arch, card.teacher) == ("test_resnet", None)
    json.dumps(card.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("change", "found"),
    [({"arch": "test_vit"}, "is a test_resnet, not a"), ({"image_size": 64}, "32 px, not of 64")],
)
def test_what_is_said_of_a_student_must_be_true(tmp_path, tiny_student, images, change, found):
    with pytest.raises(MismatchError, match=found):
        quantize(tiny_student, images, tmp_path / "int8", device="cpu", **change)
    true = {"arch": "test_resnet", "image_size": 32}
    quantize(tiny_student, images, tmp_path / "int8", device="cpu", calibration_images=2, **true)
    assert load_card(tmp_path / "int8").preprocess == load_card(tiny_student).preprocess


def test_images_that_have_no_embedding_are_not_compared_with_the_teacher(
    tmp_path, tiny_student, images, pictures, tiny_teacher_name
):
    pictures(tmp_path / "some", 20, seed=2)  # half of `images`, by the same names
    embed(tmp_path / "some", tmp_path / "embeddings", model_name=tiny_teacher_name, device="cpu")
    given = {"embeddings": tmp_path / "embeddings", "device": "cpu"}
    result = quantize(tiny_student, images, tmp_path / "int8", **given)
    assert -1 <= result.states[1].teacher_cosine <= 1
    pictures(tmp_path / "other", 10)
    for path in sorted((tmp_path / "other").iterdir()):
        path.rename(path.with_name(f"else_{path.name}"))
    with pytest.raises(InputError, match="None of the 2 held-out images has an embedding"):
        quantize(tiny_student, tmp_path / "other", tmp_path / "no", **given)


def test_residual_adds_that_stay_in_float_are_counted(tmp_path, images, make_student):
    vit = make_student(tmp_path / "vit", "test_vit", size=48)
    result = quantize(vit, images, tmp_path / "int8", device="cpu")
    assert result.states[1].cosine > 0.97
    facts = load_card(tmp_path / "int8").compression.int8
    assert (facts.residuals, facts.float_adds) == ((), 12)
    text = "\n".join(map(str, result.summary()))
    assert "Residual adds that stay in floating point: 12. TensorRT and OpenVINO" in text


def test_a_student_with_branches_is_stored_merged(tmp_path, images, make_student):
    student = make_student(tmp_path / "student", "repghostnet_050", size=64)
    quantize(student, images, tmp_path / "int8", device="cpu")
    card, embedder = load_student(tmp_path / "int8", device="cpu")
    assert card.compression.merged
    stored = load_weights(tmp_path / "int8/model.safetensors")
    assert not any(".fusion_bn." in name for name in stored)
    assert any(".fusion_bn." in name for name in load_weights(student / "model.safetensors"))
    assert np.isfinite(embedder.embed_pixels(load_samples(tmp_path / "int8"))).all()


def test_what_is_refused(tmp_path, tiny_student, images, pictures, make_text, other_teacher):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        quantize(tiny_student, tmp_path / "nowhere", tmp_path / "out", device="cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        quantize(tiny_student, tmp_path / "empty", tmp_path / "out", device="cpu")
    pictures(tmp_path / "single", 1)
    with pytest.raises(InputError, match="1 image is not enough"):
        quantize(tiny_student, tmp_path / "single", tmp_path / "out", device="cpu")
    with pytest.raises(InputError, match="--calibration-images"):
        quantize(tiny_student, images, tmp_path / "out", calibration_images=0, device="cpu")
    foreign = make_text(tmp_path / "foreign.npy", teacher=other_teacher)
    with pytest.raises(MismatchError, match=r"foreign\.npy"):
        quantize(tiny_student, images, tmp_path / "out", text=foreign, device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_student_that_is_quantised_already(tmp_path, tiny_student, images):
    quantize(tiny_student, images, tmp_path / "int8", device="cpu", calibration_images=4)
    with pytest.raises(InputError, match="quantised already"):
        quantize(tmp_path / "int8", images, tmp_path / "again", device="cpu")


def test_a_student_that_was_trained_is_never_overwritten(tmp_path, tiny_student, images):
    before = (tiny_student / "model.safetensors").read_bytes()
    with pytest.raises(OutputError, match="was trained"):
        quantize(tiny_student, images, tiny_student, device="cpu")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/checkpoint.pth").write_bytes(b"x")
    with pytest.raises(OutputError, match="was trained"):
        quantize(tiny_student, images, tmp_path / "other", device="cpu")
    assert (tiny_student / "model.safetensors").read_bytes() == before


def test_measuring_and_calibrating_share_no_image(tmp_path, tiny_student, images, monkeypatch):
    from clipdistill.distillation import quantize as module

    seen = []
    real = module._load

    def spy(items, card, workers):
        seen.append({item.key for item in items})
        return real(items, card, workers)

    monkeypatch.setattr(module, "_load", spy)
    quantize(tiny_student, images, tmp_path / "int8", device="cpu")
    assert not seen[0] & seen[1]
    assert len(seen[0] | seen[1]) == 40
    assert np.isfinite([len(part) for part in seen]).all()

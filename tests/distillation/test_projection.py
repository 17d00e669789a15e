"""The projection of pretrained weights is fitted in closed form before they are trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from clipdistill.core.errors import OutputError
from clipdistill.core.progress import reporting
from clipdistill.core.reporters import PlainReporter
from clipdistill.distillation.batches import split_rows
from clipdistill.distillation.distill import distill
from clipdistill.distillation.embed import embed
from clipdistill.distillation.options import DistillOptions
from clipdistill.formats.embeddings import load_embeddings
from clipdistill.formats.student import load_card, load_weights
from clipdistill.images.loading import load_one
from clipdistill.images.sources import list_images
from clipdistill.models.student import build_student

STILL = DistillOptions(
    image_size=32,
    batch_size=8,
    num_epochs=1,
    optimizer="sgd",
    lr=1e-12,
    weight_decay=0.0,
    device="cpu",
    val_fraction=0.2,
    check_export=False,
    flip=False,
)
"""A training that moves no weight, so that the student is what it began with."""


@timm.models.register_model
def two_layer_head(pretrained: bool = False, **options: object) -> torch.nn.Module:
    """A network that does not end in one linear layer."""
    network = timm.create_model("test_resnet", **options)
    network.fc = torch.nn.Sequential(network.fc, torch.nn.ReLU())
    return network


@pytest.fixture(scope="module")
def data(tmp_path_factory, pictures, tiny_teacher_name):
    root = tmp_path_factory.mktemp("data")
    pictures(root / "images", 90)
    embed(root / "images", root / "embeddings", model_name=tiny_teacher_name, device="cpu")
    return root / "images", root / "embeddings"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of the network with another projection, as ImageNet's have."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "imagenet.pth"
    torch.save(build_student("test_resnet", 10).state_dict(), path)
    return path


def run(data, out, options, arch="test_resnet"):
    images, embeddings = data
    return distill(arch, images, embeddings, out, options)


def features(data, weights):
    """Features float64 (N, F), targets (N, D) and the training rows, found without the product."""
    images, embeddings = data
    network = build_student("test_resnet", 16).eval()
    network.load_state_dict(
        {k: v for k, v in torch.load(weights).items() if not k.startswith("fc.")}, strict=False
    )
    items, stored = list_images(images), load_embeddings(embeddings)
    rows, preprocess = stored.by_image(), replace(stored.teacher.preprocess, size=32)
    pixels = np.stack([load_one(item, preprocess).pixels for item in items]).astype(np.float32)
    inputs = (pixels / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    with torch.inference_mode():
        found = network.forward_features(
            torch.from_numpy(inputs).float().permute(0, 3, 1, 2).contiguous()
        )
        found = network.forward_head(found, pre_logits=True).double().numpy()
    targets = stored.vectors[[rows[item.key] for item in items]].astype(np.float64)
    train, val = split_rows([item.key for item in items], STILL.val_fraction, STILL.seed)
    return found, targets, train, val


def test_it_is_the_ridge_regression_that_suits_the_held_out_images(tmp_path, data, weights):
    result = run(data, tmp_path / "student", replace(STILL, student_weights=weights))
    given, targets, train, val = features(data, weights)
    centred = given[train] - given[train].mean(0)
    gram = centred.T @ centred / len(train)
    best = None
    for strength in (0.001, 0.01, 0.1, 1.0, 10.0):
        penalty = strength * np.trace(gram) / len(gram) * np.eye(len(gram))
        cross = centred.T @ (targets[train] - targets[train].mean(0)) / len(train)
        weight = np.linalg.solve(gram + penalty, cross).T
        bias = targets[train].mean(0) - weight @ given[train].mean(0)
        outputs = given[val] @ weight.T + bias
        cosine = np.mean(
            (outputs * targets[val]).sum(1)
            / np.linalg.norm(outputs, axis=1)
            / np.linalg.norm(targets[val], axis=1)
        )
        if best is None or cosine > best[0]:
            best = cosine, strength, weight, bias
    cosine, strength, weight, bias = best
    state = load_weights(tmp_path / "student/model.safetensors")
    np.testing.assert_allclose(state["fc.weight"].numpy(), weight, atol=2e-3)
    np.testing.assert_allclose(state["fc.bias"].numpy(), bias, atol=2e-3)
    before = load_card(tmp_path / "student").training["before"]
    assert [row["state"] for row in before] == ["fitted"]
    assert (before[0]["ridge"], before[0]["images"]) == (strength, len(train))
    assert result.before[0].val_cosine == pytest.approx(cosine, abs=1e-4)
    assert "its projection fitted: cosine" in "\n".join(map(str, result.summary()))
    first = json.loads((tmp_path / "student/metrics.jsonl").read_text().splitlines()[0])
    assert first["state"] == "fitted"


def test_without_it_the_projection_stays_random(tmp_path, data, weights):
    fitted = run(data, tmp_path / "fitted", replace(STILL, student_weights=weights))
    options = replace(STILL, student_weights=weights, fit_projection=False)
    plain = run(data, tmp_path / "plain", options)
    assert plain.before == ()
    assert fitted.before[0].val_cosine > plain.val_cosine + 0.2
    with pytest.raises(OutputError, match="--fit-projection"):
        run(data, tmp_path / "plain", replace(options, fit_projection=True))


def test_the_training_is_kept_even_if_its_cosine_is_lower(tmp_path, data, weights):
    """A regression with few images has a high cosine, and tells classes apart less."""
    options = replace(STILL, student_weights=weights, optimizer="adamw", lr=3.0)
    result = run(data, tmp_path / "student", options)
    assert result.best_epoch == 1
    assert result.not_kept is None
    assert result.val_cosine < result.before[-1].val_cosine


def test_without_held_out_images_the_training_is_kept(tmp_path, data, weights):
    options = replace(STILL, student_weights=weights, val_fraction=0.0)
    result = run(data, tmp_path / "student", options)
    before = load_card(tmp_path / "student").training["before"]
    assert [row["ridge"] for row in before] == [0.1]
    assert (result.best_epoch, result.val_cosine) == (1, None)


def test_a_network_with_another_head_is_trained_without(tmp_path, data, weights, capsys):
    with reporting(PlainReporter()):
        result = run(
            data, tmp_path / "student", replace(STILL, student_weights=weights), "two_layer_head"
        )
    assert result.before == ()
    assert "does not end in one linear layer" in capsys.readouterr().err


@pytest.mark.scale
def test_two_processes_fit_what_one_fits(tmp_path, data, weights):
    one = tmp_path / "one"
    run(data, one, replace(STILL, student_weights=weights))
    several = "-m torch.distributed.run --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint"
    options = f"--image-size 32 --batch-size 8 --num-epochs 1 --student-weights {weights}"
    command = [sys.executable, *several.split(), "localhost:0", "-m", "clipdistill", "distill"]
    command += ["test_resnet", *map(str, data), str(tmp_path / "two"), *options.split()]
    command += ["--val-fraction", "0.2", "--device", "cpu", "--no-check"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (load_card(out).training["before"][0] for out in (one, tmp_path / "two"))
    assert (second["images"], second["ridge"]) == (first["images"], first["ridge"])
    assert second["val_cosine"] == pytest.approx(first["val_cosine"], abs=1e-5)

"""distill: it learns, it survives kills bit for bit, and it refuses what does not fit."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import clipdistill.distillation.trainer as training
import killing
from clipdistill.core.errors import (
    FormatError,
    InputError,
    MismatchError,
    ModelNotFoundError,
    OutputError,
    TrainingError,
)
from clipdistill.core.progress import reporting
from clipdistill.core.reporters import PlainReporter
from clipdistill.distillation.batches import split_rows
from clipdistill.distillation.distill import distill
from clipdistill.distillation.embed import embed
from clipdistill.distillation.options import DistillOptions
from clipdistill.distillation.trainer import Trainer
from clipdistill.formats.embeddings import load_embeddings
from clipdistill.formats.student import load_card, load_checkpoint, load_samples, load_weights
from clipdistill.images.loading import load_one
from clipdistill.images.preprocess import Preprocess
from clipdistill.images.sources import list_images
from clipdistill.models import tracing
from clipdistill.models.student import build_student, load_student
from clipdistill.models.torch_embedder import memory_layout

FAST = DistillOptions(
    image_size=32,
    batch_size=8,
    num_epochs=2,
    device="cpu",
    val_fraction=0.2,
    check_export=False,
)


@timm.models.register_model
def dropping_resnet(pretrained: bool = False, **options: object) -> torch.nn.Module:
    """A network with dropout and stochastic depth, which draw random numbers in every step."""
    return timm.create_model("test_resnet", drop_rate=0.3, drop_path_rate=0.3, **options)


@dataclass(frozen=True)
class Embedded:
    """Pictures and their embeddings."""

    images: Path
    embeddings: Path

    def copy(self, to: Path) -> Embedded:
        shutil.copytree(self.images, to / "images")
        shutil.copytree(self.embeddings, to / "embeddings")
        return Embedded(to / "images", to / "embeddings")


@pytest.fixture(scope="module")
def data(tmp_path_factory, pictures, tiny_teacher_name) -> Embedded:
    root = tmp_path_factory.mktemp("data")
    pictures(root / "images", 60)
    embed(root / "images", root / "embeddings", model_name=tiny_teacher_name, device="cpu")
    return Embedded(root / "images", root / "embeddings")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """A finished student of the FAST recipe; not to be changed."""
    out = tmp_path_factory.mktemp("finished") / "student"
    return out, distill("test_resnet", data.images, data.embeddings, out, FAST)


def run(data: Embedded, out: Path, options: DistillOptions = FAST, arch: str = "test_resnet"):
    return distill(arch, data.images, data.embeddings, out, options)


def history(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


# What it does.


def test_the_student_comes_nearer_to_the_teacher(tmp_path, data):
    options = replace(FAST, num_epochs=12)
    result = run(data, tmp_path / "student", options)
    rows = history(tmp_path / "student")
    assert len(rows) == result.epochs == 12
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    assert result.val_cosine == max(row["val_cosine"] for row in rows)
    assert result.val_cosine > rows[0]["val_cosine"] + 0.05
    assert all(row["images_per_second"] > 0 for row in rows)


def test_the_weights_that_are_kept_have_the_cosine_that_is_reported(finished, data):
    out, result = finished
    card, student = load_student(out, device="cpu")
    found = load_embeddings(data.embeddings)
    rows = found.by_image()
    items = list_images(data.images)
    _, val = split_rows([item.key for item in items], 0.2, 0)
    pixels = np.stack([load_one(items[row], card.preprocess).pixels for row in val])
    ours = student.embed_pixels(pixels)
    theirs = found.vectors[[rows[items[row].key] for row in val]].astype(np.float32)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    assert (ours * theirs).sum(axis=1).mean() == pytest.approx(result.val_cosine, abs=1e-5)


def test_what_lies_in_the_folder(finished, tiny_teacher):
    out, result = finished
    names = {path.name for path in out.iterdir()}
    assert names == {
        "student.json",
        "model.safetensors",
        "checkpoint.pth",
        "metrics.jsonl",
        "samples.npy",
        "log",
    }
    assert any(path.name.startswith("events.out.tfevents") for path in (out / "log").iterdir())
    card = load_card(out)
    assert (card.arch, card.dim, card.teacher) == ("test_resnet", 16, tiny_teacher.card.shipped())
    assert card.preprocess.size == 32
    assert card.preprocess.interpolation == tiny_teacher.card.preprocess.interpolation
    assert card.training["options"]["lr"] == FAST.peak_lr
    assert load_samples(out).shape == (16, 32, 32, 3)
    assert (result.train_images, result.val_images) == (48, 12)
    assert not result.resumed
    assert "12 held-out images" in "\n".join(map(str, result.summary()))


def test_the_checkpoint_is_one_of_the_older_scripts(finished):
    out, _ = finished
    checkpoint = load_checkpoint(out / "checkpoint.pth")
    assert checkpoint["epoch"] == 1  # the last finished one, from 0
    plain = timm.create_model("test_resnet", num_classes=16)
    plain.load_state_dict(checkpoint["model"])
    torch.optim.AdamW(plain.parameters())
    _, student = load_student(out / "checkpoint.pth", device="cpu")
    assert student.spec.dim == 16


def test_a_finished_run_returns_at_once(finished, data, monkeypatch):
    out, first = finished
    before = snapshot(out)

    def never(self):
        raise AssertionError("it trains again")

    monkeypatch.setattr(Trainer, "run", never)
    again = run(data, out)
    assert again.resumed
    assert again.seconds < 2
    assert replace(again, resumed=False, seconds=0, failures=()) == replace(first, seconds=0)
    assert snapshot(out) == before


def test_the_same_seed_gives_the_same_student_and_another_another(tmp_path, finished, data):
    out, _ = finished
    run(data, tmp_path / "same")
    run(data, tmp_path / "other", replace(FAST, seed=1))
    assert weights(tmp_path / "same") == weights(out)
    assert weights(tmp_path / "other") != weights(out)


@pytest.mark.parametrize(
    "change", [{"cache_gb": 0.0}, {"num_workers": 0}, {"cache_gb": 3e-5, "num_workers": 3}]
)
def test_the_pixel_cache_does_not_change_what_is_learnt(tmp_path, finished, data, change):
    out, _ = finished
    run(data, tmp_path / "student", replace(FAST, cache_dir=tmp_path / "cache", **change))
    assert weights(tmp_path / "student") == weights(out)


@pytest.mark.parametrize("flip", [True, False])
def test_half_of_the_pictures_are_mirrored_or_none(tmp_path, data, monkeypatch, flip):
    seen: list[np.ndarray] = []
    real = training.to_input

    def spy(pixels: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
        seen.extend(pixels.numpy().copy())
        return real(pixels, preprocess)

    monkeypatch.setattr(training, "to_input", spy)
    run(data, tmp_path / "student", replace(FAST, flip=flip, val_fraction=0.0, num_epochs=4))
    preprocess = load_card(tmp_path / "student").preprocess
    originals = [load_one(item, preprocess).pixels for item in list_images(data.images)]
    plain = {picture.tobytes() for picture in originals}
    mirrored = {picture[:, ::-1].tobytes() for picture in originals}
    assert len(seen) == 4 * 60
    assert all(picture.tobytes() in plain | mirrored for picture in seen)
    share = sum(picture.tobytes() in mirrored for picture in seen) / len(seen)
    assert (0.4 < share < 0.6) if flip else share == 0


def shown_to_the_network(data: Embedded, out: Path, monkeypatch, **change: object) -> list:
    """Every (pixels, targets) of a training's batches, float32 (B, 3, H, W) and (B, D)."""
    seen = []
    real = training.Trainer._step

    def spy(self, step, rate, pixels, targets, fine, size):
        seen.append((pixels.clone(), targets.clone()))
        return real(self, step, rate, pixels, targets, fine, size)

    monkeypatch.setattr(training.Trainer, "_step", spy)
    run(data, out, replace(FAST, flip=False, val_fraction=0.0, **change))
    monkeypatch.undo()
    return seen


def test_crops_reach_the_network_anew_in_every_epoch(tmp_path, data, monkeypatch):
    plain, cropped = (
        shown_to_the_network(data, tmp_path / str(crop), monkeypatch, crop=crop)
        for crop in (1.0, 0.3)
    )
    assert len(plain) == len(cropped) == 16
    for (pixels, targets), (parts, same) in zip(plain, cropped, strict=True):
        assert torch.equal(targets, same)
        assert parts.shape == pixels.shape
        assert not torch.isclose(parts, pixels).flatten(1).all(dim=1).any()
    means = [torch.cat([p.mean(dim=(1, 2, 3)) for p, _ in cropped[at : at + 8]]) for at in (0, 8)]
    assert not torch.allclose(*(values.sort().values for values in means))


def test_views_are_not_cropped(tmp_path, data, tiny_teacher_name, monkeypatch):
    views = tmp_path / "views"
    embed(data.images, views, model_name=tiny_teacher_name, device="cpu", views=2)
    viewed = Embedded(data.images, views)
    plain, cropped = (
        shown_to_the_network(viewed, tmp_path / str(crop), monkeypatch, crop=crop)
        for crop in (1.0, 0.3)
    )
    same = [
        torch.isclose(a, b, atol=1e-4).flatten(1).all(dim=1)
        for (a, _), (b, _) in zip(plain, cropped, strict=True)
    ]
    share = float(torch.cat(same).float().mean())
    assert 0.5 < share < 0.85  # two of three shown are views, the third is the image, cropped


def test_a_training_of_before_crops_is_continued_as_it_was(tmp_path, data):
    out = tmp_path / "student"
    older = {"optimizer": "adamw", "lr": 2e-3, "crop": 1.0}
    run(data, out, replace(FAST, **older))
    card = json.loads((out / "student.json").read_text())
    del card["training"]["options"]["crop"]
    (out / "student.json").write_text(json.dumps(card))
    with pytest.raises(OutputError, match=r"--crop was 1\.0, now 0\.4 by default") as refused:
        run(data, out)
    for name, value in older.items():
        assert f"(--{name} {value} continues it)" in str(refused.value)
    assert run(data, out, replace(FAST, **older)).epochs == 2


def test_without_held_out_pictures_the_last_epoch_is_kept(tmp_path, data):
    result = run(data, tmp_path / "student", replace(FAST, val_fraction=0.0))
    assert (result.train_images, result.val_images, result.val_cosine) == (60, 0, None)
    assert result.best_epoch == 2
    last = load_checkpoint(tmp_path / "student/checkpoint.pth")["model"]
    kept = load_weights(tmp_path / "student/model.safetensors")
    assert all(torch.equal(kept[name], last[name]) for name in kept)


def test_agreement_is_measured_with_text_embeddings_or_a_prompts_file(tmp_path, data, make_text):
    labels = ("red disc", "green square", "blue triangle")
    text = make_text(tmp_path / "text.npy", labels)
    (tmp_path / "prompts.txt").write_text("".join(f"{x}\ta photo of a {x}\n" for x in labels))
    one = run(data, tmp_path / "one", replace(FAST, prompts=text))
    two = run(data, tmp_path / "two", replace(FAST, prompts=tmp_path / "prompts.txt"))
    assert one.val_agreement == two.val_agreement
    assert 0 <= one.val_agreement <= 1
    assert all("val_agreement" in row for row in history(tmp_path / "one"))
    assert "same label as the teacher" in "\n".join(map(str, one.summary()))


@pytest.mark.parametrize("criterion", ["mse", "l1", "huber", "relational", "anchors"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_every_criterion_and_optimizer_learns(tmp_path, data, criterion, optimizer):
    lr = {"adam": 2e-3, "sgd": 0.05}[optimizer]
    options = replace(
        FAST, criterion=criterion, optimizer=optimizer, lr=lr, num_epochs=4, weight_decay=0.0
    )
    run(data, tmp_path / "student", options)
    losses = [row["loss"] for row in history(tmp_path / "student")]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_runs(tmp_path, data, precision):
    result = run(data, tmp_path / "student", replace(FAST, precision=precision))
    assert math.isfinite(result.val_cosine)
    state = load_weights(tmp_path / "student/model.safetensors")
    assert all(value.dtype != torch.float16 for value in state.values())


@pytest.mark.parametrize("arch", ["test_vit", "test_convnext"])
def test_other_architectures_at_another_size(tmp_path, data, arch):
    result = run(data, tmp_path / "student", replace(FAST, image_size=48, num_epochs=1), arch)
    assert result.image_size == 48
    card, student = load_student(tmp_path / "student", device="cpu")
    assert student.embed_images(np.zeros((2, 3, 48, 48), np.float32)).shape == (2, 16)
    assert card.arch == arch


@pytest.mark.parametrize("batch_size", [2, 7, 47, 500])
def test_any_batch_size(tmp_path, data, batch_size):
    run(data, tmp_path / "student", replace(FAST, batch_size=batch_size, num_epochs=1))
    assert len(history(tmp_path / "student")) == 1


def test_the_older_scripts_embeddings(tmp_path, data):
    (tmp_path / "bare").mkdir()
    found = load_embeddings(data.embeddings)
    for row, vector in zip(found.rows, found.vectors, strict=True):
        np.save(tmp_path / "bare" / Path(row.image_path).with_suffix(".npy"), vector)
    result = distill("test_resnet", data.images, tmp_path / "bare", tmp_path / "student", FAST)
    assert (result.train_images, result.not_embedded) == (48, 0)
    assert load_card(tmp_path / "student").teacher is None
    # The decoded pixels that now lie in the same folder are no embeddings.
    again = distill("test_resnet", data.images, tmp_path / "bare", tmp_path / "again", FAST)
    assert again.val_cosine == result.val_cosine


def test_pictures_that_changed_or_have_no_embedding_are_left_out_and_listed(
    tmp_path, data, pictures
):
    copy = data.copy(tmp_path)
    pictures(copy.images / "new", 2, seed=6)
    (copy.images / "picture_3.png").write_bytes((copy.images / "picture_4.png").read_bytes())
    (copy.images / "picture_5.png").unlink()
    result = run(copy, tmp_path / "student")
    assert (result.not_embedded, result.gone) == (2, 1)
    [failure] = result.failures
    assert failure.image_path == "picture_3.png"
    assert "changed since it was embedded" in failure.reason
    assert result.train_images + result.val_images == 58


def test_the_advice_for_a_picture_that_changed_in_secret_works(tmp_path, data, tiny_teacher_name):
    copy = data.copy(tmp_path)
    small, large = sorted(
        (copy.images / f"picture_{index}.png" for index in (3, 4)),
        key=lambda path: path.stat().st_size,
    )
    status = large.stat()
    large.write_bytes(small.read_bytes().ljust(status.st_size, b"\0"))
    os.utime(large, ns=(status.st_atime_ns, status.st_mtime_ns))
    fresh = replace(FAST, cache_dir=tmp_path / "pixels")  # none decoded before the change
    [failure] = run(copy, tmp_path / "student", fresh).failures
    assert "run `clipdistill embed --recheck`" in failure.reason
    embed(
        copy.images,
        copy.embeddings,
        model_name=tiny_teacher_name,
        device="cpu",
        recheck=True,
    )
    assert run(copy, tmp_path / "again", fresh).failures == ()


# Starting from weights.


def still(**changes: object) -> DistillOptions:
    """A recipe that moves nothing."""
    return replace(
        FAST, optimizer="sgd", lr=1e-12, weight_decay=0.0, num_epochs=1, seed=9, **changes
    )


def check_parameters(out: Path, expected: dict[str, torch.Tensor]) -> None:
    found = load_weights(out / "model.safetensors")
    names = [name for name, _ in build_student("test_resnet", 16).named_parameters()]
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in names)


def test_init_checkpoint_from_a_student_its_checkpoint_and_an_older_one(tmp_path, finished, data):
    out, _ = finished
    kept = load_weights(out / "model.safetensors")
    older = tmp_path / "older.pth"
    optimizer = {"state": {}, "param_groups": []}
    torch.save({"model": kept, "optimizer": optimizer, "epoch": 7}, older)
    sources = {"folder": out, "file": out / "model.safetensors", "older": older}
    for name, source in sources.items():
        run(data, tmp_path / name, still(init_checkpoint=source))
        check_parameters(tmp_path / name, kept)
    run(data, tmp_path / "last", still(init_checkpoint=out / "checkpoint.pth"))
    check_parameters(tmp_path / "last", load_checkpoint(out / "checkpoint.pth")["model"])


def test_a_derived_student_has_its_parents_input(tmp_path, finished, data):
    """timm's own size of test_resnet is 160 pixels."""
    parent, first = finished
    derived = replace(FAST, image_size=None, num_epochs=1, init_checkpoint=parent)
    result = run(data, tmp_path / "derived", derived)
    assert result.image_size == first.image_size == 32
    assert load_card(tmp_path / "derived").preprocess == load_card(parent).preprocess
    larger = run(data, tmp_path / "larger", replace(derived, image_size=40))
    assert larger.image_size == 40
    beside = replace(derived, init_checkpoint=parent / "model.safetensors")
    assert run(data, tmp_path / "beside", beside).image_size == 32


def test_a_parent_without_a_card_gives_no_input_size_and_that_is_reported(
    tmp_path, finished, data, capsys
):
    torch.save({"model": load_weights(finished[0] / "model.safetensors")}, tmp_path / "older.pth")
    derived = replace(FAST, image_size=None, num_epochs=1, init_checkpoint=tmp_path / "older.pth")
    with reporting(PlainReporter()):
        result = run(data, tmp_path / "derived", derived)
    assert result.image_size == 160
    assert "older.pth does not record its image size: 160 px" in capsys.readouterr().err


def test_a_checkpoint_to_start_from_replaces_pretrained_weights(tmp_path, finished, data):
    """No hub can be reached in tests."""
    parent, _ = finished
    run(data, tmp_path / "derived", still(init_checkpoint=parent, pretrained=True))
    check_parameters(tmp_path / "derived", load_weights(parent / "model.safetensors"))


def test_pretrained_weights_that_cannot_be_fetched_leave_no_folder(tmp_path, data):
    with pytest.raises(ModelNotFoundError):
        run(data, tmp_path / "student", still(pretrained=True))
    assert not (tmp_path / "student").exists()


def test_init_checkpoint_that_does_not_fit(tmp_path, finished, data):
    other = build_student("test_vit", 16).state_dict()
    wide = build_student("test_resnet", 32).state_dict()
    for name, state, reason in (
        ("arch", other, "another architecture"),
        ("dim", wide, "dimension"),
    ):
        torch.save({"model": state}, tmp_path / f"{name}.pth")
        with pytest.raises(MismatchError, match=reason):
            run(data, tmp_path / "student", still(init_checkpoint=tmp_path / f"{name}.pth"))
    with pytest.raises(InputError, match="no such checkpoint"):
        run(data, tmp_path / "student", still(init_checkpoint=tmp_path / "missing.pth"))
    (tmp_path / "cut.pth").write_bytes((tmp_path / "dim.pth").read_bytes()[:999])
    with pytest.raises(FormatError, match=r"cut\.pth"):
        run(data, tmp_path / "student", still(init_checkpoint=tmp_path / "cut.pth"))


def test_student_weights_keep_their_projection_out(tmp_path, data):
    torch.manual_seed(5)
    wide = build_student("test_resnet", 1000).state_dict()
    torch.save(wide, tmp_path / "imagenet.pth")
    # --pretrained then needs no hub: the file replaces timm's weights.
    options = still(student_weights=tmp_path / "imagenet.pth", pretrained=True)
    run(data, tmp_path / "student", options)
    found = load_weights(tmp_path / "student/model.safetensors")
    assert torch.allclose(found["conv1.0.weight"], wide["conv1.0.weight"], atol=1e-6)
    assert found["fc.weight"].shape == (16, 96)


def test_a_training_from_random_weights_is_announced(tmp_path, finished, data, capsys):
    parent, _ = finished
    torch.save(build_student("test_resnet", 9).state_dict(), tmp_path / "weights.pth")
    for name, start in (
        ("random", {}),
        ("file", {"student_weights": tmp_path / "weights.pth"}),
        ("derived", {"init_checkpoint": parent}),
    ):
        with reporting(PlainReporter()):
            run(data, tmp_path / name, still(**start))
        announced = "starts from random weights" in capsys.readouterr().err
        assert announced == (name == "random"), name


# Kills and resuming.


def distill_alone(arch: str, data: Embedded, out: Path, options: DistillOptions) -> None:
    """For processes that are killed."""
    torch.set_num_threads(1)
    run(data, out, options, arch)


LONG = replace(FAST, batch_size=4, num_epochs=3, val_fraction=0.1, checkpoint_seconds=0.0)


@pytest.mark.parametrize(
    ("arch", "change"),
    [
        ("test_resnet", {}),
        ("test_resnet", {"ema_decay": 0.9}),
        ("dropping_resnet", {}),
        ("test_resnet", {"student_weights": Path("imagenet.pth")}),
    ],
    ids=["plain", "ema", "dropout", "pretrained"],
)
def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path, data, arch, change):
    if "student_weights" in change:
        change = {"student_weights": tmp_path / change["student_weights"]}
        torch.save(build_student(arch, 10).state_dict(), change["student_weights"])
    options = replace(LONG, **change)
    killing.run_to_end(distill_alone, arch, data, tmp_path / "whole", options)
    killed, moments, kills = tmp_path / "killed", random.Random(arch + str(change)), 0
    while kills < 4:
        saved = killing.changed(killed / "checkpoint.pth")
        moment = killing.soon_after(saved, moments.uniform(0, 0.1))
        if not killing.killed_when(moment, distill_alone, arch, data, killed, options):
            break
        kills += 1
    assert kills >= 2, "it was done before it could be killed: the test shows nothing"
    killing.run_to_end(distill_alone, arch, data, killed, options)
    assert weights(killed) == weights(tmp_path / "whole")
    rows = [history(out) for out in (killed, tmp_path / "whole")]
    for row in rows[0] + rows[1]:
        row.pop("images_per_second", None)
    assert rows[0] == rows[1]


@pytest.fixture
def interrupted(tmp_path, data, monkeypatch):
    """A run that was stopped right after its first save; returns its folder."""
    real = Trainer._save

    def stop(self):
        real(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path / "student", replace(FAST, checkpoint_seconds=0.0))
    return tmp_path / "student"


def test_a_stopped_run_goes_on_to_the_same_end(interrupted, finished, data):
    with pytest.raises(InputError, match=r"has not finished. Run the same"):
        load_card(interrupted)
    assert run(data, interrupted).resumed
    assert weights(interrupted) == weights(finished[0])


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"lr": 1e-3}, "--lr was 0.004, now 0.001"),
        ({"num_epochs": 3}, "--num-epochs"),
        ({"batch_size": 16}, "--batch-size"),
        ({"seed": 4}, "--seed"),
        ({"image_size": 48}, "48px"),
        ({"criterion": "mse"}, "--criterion was cosine, now mse"),
    ],
)
@pytest.mark.parametrize("state", ["interrupted", "finished"])
def test_other_settings_are_refused_by_name(request, data, state, change, option):
    found = request.getfixturevalue(state)
    out = found if state == "interrupted" else found[0]
    before = snapshot(out)
    with pytest.raises(OutputError, match=option) as caught:
        run(data, out, replace(FAST, **change))
    assert str(out) in str(caught.value)
    assert "another output folder" in str(caught.value)
    assert snapshot(out) == before


def test_settings_that_change_nothing_may_change(interrupted, finished, data):
    options = replace(FAST, num_workers=0, checkpoint_seconds=3.0, output_dim=16)
    assert run(data, interrupted, options).resumed
    assert weights(interrupted) == weights(finished[0])


def test_another_architecture_or_other_pictures_are_refused(interrupted, data, tmp_path):
    with pytest.raises(OutputError, match="it is a test_resnet, not a test_vit"):
        run(data, interrupted, FAST, "test_vit")
    copy = data.copy(tmp_path)
    (copy.images / "picture_5.png").unlink()
    with pytest.raises(OutputError, match="other images or embeddings"):
        run(copy, interrupted)


def test_raw_and_normalised_embeddings_are_not_one_training(
    interrupted, data, tmp_path, tiny_teacher_name
):
    embed(
        data.images, tmp_path / "raw", model_name=tiny_teacher_name, device="cpu", normalize=False
    )
    with pytest.raises(OutputError, match="other images or embeddings"):
        distill("test_resnet", data.images, tmp_path / "raw", interrupted, FAST)


def test_a_checkpoint_of_the_older_scripts_is_not_overwritten(tmp_path, data):
    out = tmp_path / "student"
    out.mkdir()
    torch.save({"model": {}, "optimizer": {}, "epoch": 3}, out / "checkpoint.pth")
    before = snapshot(out)
    with pytest.raises(OutputError, match=r"older scripts.*--init-checkpoint"):
        run(data, out)
    assert snapshot(out) == before


def test_a_damaged_checkpoint_is_refused(interrupted, data):
    path = interrupted / "checkpoint.pth"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(FormatError, match=r"checkpoint\.pth"):
        run(data, interrupted)


# Losses that are not finite.


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adam", "sgd"])
@pytest.mark.parametrize("batch_size", [8, 500])
def test_an_exploding_run_stops_and_saves_nothing_bad(tmp_path, data, optimizer, batch_size):
    options = replace(
        FAST,
        lr=1e30,
        optimizer=optimizer,
        checkpoint_seconds=0.0,
        grad_clip=0.0,
        batch_size=batch_size,
        criterion="mse",
        warmup=0.0,
        num_epochs=3,
    )
    with pytest.raises(TrainingError, match=r"no longer finite in epoch .*e\+.*--lr") as caught:
        run(data, tmp_path / "student", options)
    assert "None was saved" in str(caught.value)
    assert not (tmp_path / "student/checkpoint.pth").exists()
    assert not (tmp_path / "student/student.json").exists()


@pytest.mark.parametrize("bad_step", [12, 13, 20, 23, 25])
def test_the_last_good_state_is_kept_and_loads(tmp_path, data, monkeypatch, bad_step):
    def explode(options: DistillOptions, step: int, total: int) -> float:
        return 1e30 if step >= bad_step else real(options, step, total)

    real = training.learning_rate
    monkeypatch.setattr(training, "learning_rate", explode)
    out = tmp_path / "student"
    with pytest.raises(TrainingError, match=r"last good state is kept in .*checkpoint\.pth"):
        run(data, out, LONG)
    state = load_checkpoint(out / "checkpoint.pth")
    assert all(torch.isfinite(value).all() for value in state["model"].values())
    assert all(value.abs().max() < 1e6 for value in state["model"].values())
    _, student = load_student(out / "checkpoint.pth", device="cpu")
    assert np.isfinite(student.embed_images(np.ones((1, 3, 32, 32), np.float32))).all()
    monkeypatch.undo()
    assert run(data, out, LONG).epochs == 3  # with a cause that is gone, it goes on


def test_targets_that_are_not_finite_name_their_image(tmp_path, data):
    copy = data.copy(tmp_path)
    path = copy.embeddings / "img_emb/img_emb_0.npy"
    array = np.load(path)
    array[7] = np.inf
    np.save(path, array)
    with pytest.raises(FormatError, match=r"picture_.*\.png' is not finite"):
        run(copy, tmp_path / "student")
    assert not (tmp_path / "student").exists()


# What does not fit.


@timm.models.register_model
def zero_head_resnet(pretrained: bool = False, **options: object) -> torch.nn.Module:
    """A network whose projection starts at zero, as those of MLP-Mixer and Hiera do."""
    network = timm.create_model("test_resnet", **options)
    torch.nn.init.zeros_(network.fc.weight)
    torch.nn.init.zeros_(network.fc.bias)
    return network


def test_a_student_whose_projection_starts_at_zero_can_be_trained(tmp_path, data):
    options = replace(FAST, check_export=True)
    result = run(data, tmp_path / "student", options, "zero_head_resnet")
    assert result.val_cosine > 0.1


def test_a_student_that_cannot_be_exported_is_refused_before_training(tmp_path, data, monkeypatch):
    checked = replace(FAST, check_export=True, num_epochs=1)
    assert run(data, tmp_path / "fine", checked).val_cosine is not None

    class Unknown(tracing.UnitLength):
        def forward(self, pixels):
            return torch.special.bessel_j0(super().forward(pixels))

    monkeypatch.setattr(tracing, "UnitLength", Unknown)
    out = tmp_path / "student"
    with pytest.raises(InputError, match=r"test_resnet at 32 px cannot be exported.*--no-check"):
        run(data, out, checked)
    assert not out.exists()
    run(data, out, replace(checked, check_export=False))
    run(data, out, checked)  # finished: nothing is left to refuse
    child = replace(checked, init_checkpoint=tmp_path / "fine")
    run(data, tmp_path / "child", child)  # its parent was exported


def test_a_file_that_computes_something_else_is_refused_before_training(
    tmp_path, data, monkeypatch
):
    class Other(tracing.UnitLength):
        def forward(self, pixels):
            return super().forward(pixels.flip(-1)).roll(1, -1)

    monkeypatch.setattr(tracing, "UnitLength", Other)
    with pytest.raises(InputError, match=r"embeddings have a cosine of .* with torch's"):
        run(data, tmp_path / "student", replace(FAST, check_export=True))


def test_weights_of_five_dimensions_have_no_channels_last() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3))
    assert memory_layout(network) == torch.channels_last
    network.append(torch.nn.Conv3d(1, 1, 3))
    network.to(memory_format=memory_layout(network))
    assert memory_layout(network) == torch.contiguous_format


def test_output_dim_is_checked(tmp_path, data):
    with pytest.raises(MismatchError, match=r"--output-dim 512, but .* holds 16-d"):
        run(data, tmp_path / "student", replace(FAST, output_dim=512))
    assert not (tmp_path / "student").exists()
    result = run(data, tmp_path / "student", replace(FAST, output_dim=16, num_epochs=1))
    assert result.dim == 16


def test_embeddings_of_other_pictures(tmp_path, data, pictures):
    for index, path in enumerate(pictures(tmp_path / "other", 5, seed=3)):
        path.rename(path.with_name(f"elsewhere_{index}.png"))
    with pytest.raises(
        InputError, match=r"Only 0 of 5 images .*'picture_0.png'.*'elsewhere_0.png'"
    ):
        distill("test_resnet", tmp_path / "other", data.embeddings, tmp_path / "student", FAST)


def test_missing_things(tmp_path, data):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        distill("test_resnet", tmp_path / "nowhere", data.embeddings, tmp_path / "s", FAST)
    with pytest.raises(
        InputError, match=r"nowhere: there is no such folder of embeddings.*clipdistill embed"
    ):
        distill("test_resnet", data.images, tmp_path / "nowhere", tmp_path / "s", FAST)
    with pytest.raises(ModelNotFoundError, match=r"'resnet81'\. Did you mean .*resnet18"):
        run(data, tmp_path / "s", FAST, "resnet81")
    assert not (tmp_path / "s").exists()


def test_text_embeddings_of_another_teacher(tmp_path, data, make_text, other_teacher):
    text = make_text(tmp_path / "text.npy", teacher=other_teacher)
    with pytest.raises(MismatchError, match=r"text\.npy"):
        run(data, tmp_path / "student", replace(FAST, prompts=text))


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.0},
        {"lr": -1.0},
        {"lr": math.nan},
        {"lr": math.inf},
        {"batch_size": 1},
        {"num_epochs": 0},
        {"val_fraction": 0.9},
        {"ema_decay": 1.0},
        {"warmup": 1.0},
        {"cache_gb": -1.0},
        {"image_size": 4},
        {"seed": -1},
        {"momentum": 1.5},
        {"weight_decay": -1.0},
        {"grad_clip": -1.0},
    ],
)
def test_options_out_of_range_are_named(tmp_path, data, change):
    [name] = change
    with pytest.raises(InputError, match=rf"^--{name.replace('_', '-')} .*expected"):
        run(data, tmp_path / "student", replace(FAST, **change))
    assert not (tmp_path / "student").exists()


def test_too_few_pictures(tmp_path, data, pictures):
    pictures(tmp_path / "few", 3)
    with pytest.raises(InputError, match="Only 3 of 3 images have an embedding"):
        distill("test_resnet", tmp_path / "few", data.embeddings, tmp_path / "student", FAST)


# Several processes.

TWO = """
    import json, sys, threading
    from pathlib import Path
    import torch
    from clipdistill.images.pixels import PixelCache
    from clipdistill.distillation.options import DistillOptions
    from clipdistill.distillation.distill import distill

    torch.set_num_threads(1)
    images, embeddings, out, rows = map(Path, sys.argv[1:5])
    used, real = [], PixelCache.gather

    def gather(self, rows, *more):
        if threading.current_thread().name == "load-ahead":
            used.append([int(row) for row in rows])
        return real(self, rows, *more)

    PixelCache.gather = gather
    options = DistillOptions(**json.loads(sys.argv[5]))
    result = distill(sys.argv[6], images, embeddings, out, options)
    Path(f"{rows}-{__import__('os').environ.get('RANK', '0')}.json").write_text(
        json.dumps({"used": used, "cosine": result.val_cosine})
    )
"""


@pytest.mark.scale
def test_two_processes_learn_what_one_does_and_use_every_picture_once(tmp_path, data):
    (tmp_path / "two.py").write_text(textwrap.dedent(TWO))
    # No batch norm, whose statistics are each process's own: the rest must agree closely.
    options = {
        "image_size": 32,
        "batch_size": 7,
        "num_epochs": 3,
        "device": "cpu",
        "val_fraction": 0.2,
        "lr": 1e-3,
    }
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "0",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
        str(tmp_path / "two.py"),
        str(data.images),
        str(data.embeddings),
        str(tmp_path / "two"),
        str(tmp_path / "rows"),
        json.dumps(options),
        "test_vit",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    one = run(data, tmp_path / "one", DistillOptions(**options), "test_vit")
    ranks = [json.loads((tmp_path / f"rows-{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["cosine"] == ranks[1]["cosine"] == pytest.approx(one.val_cosine, abs=2e-3)
    steps = len(ranks[0]["used"]) // 3
    assert len(ranks[0]["used"]) == len(ranks[1]["used"]) == 3 * steps
    everything = None
    for epoch in range(3):
        here = [rank["used"][epoch * steps : (epoch + 1) * steps] for rank in ranks]
        rows = sorted(row for rank in here for batch in rank for row in batch)
        assert len(rows) == len(set(rows)) == 48
        everything = everything or rows
        assert rows == everything
    states = [load_weights(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], atol=1e-2), name
    rows = [history(tmp_path / name) for name in ("one", "two")]
    for mine, theirs in zip(*rows, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], abs=2e-3)


def test_a_selection_decides_which_pictures_are_learnt_from(tmp_path, data):
    chosen = [item.key for item in list_images(data.images)][::3]
    (tmp_path / "only.txt").write_text("\n".join([*chosen, "gone.png"]))
    result = run(data, tmp_path / "out", replace(FAST, only=tmp_path / "only.txt"))
    assert result.train_images + result.val_images == len(chosen)
    (tmp_path / "only.txt").write_text("elsewhere/1.png\n")
    with pytest.raises(InputError, match="names none of the 60 images"):
        run(data, tmp_path / "other", replace(FAST, only=tmp_path / "only.txt"))

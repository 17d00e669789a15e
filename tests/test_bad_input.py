"""The wrong things that people give: one clear message each, and earlier results stay as they are.

A message is clear when it has the right class (and so the right exit code), names what it is about,
and says what to do.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from clipdistill.core import errors
from clipdistill.distillation.distill import distill
from clipdistill.distillation.embed import embed
from clipdistill.distillation.embed_text import embed_text
from clipdistill.distillation.options import DistillOptions
from clipdistill.models.student import build_student, load_student
from clipdistill.models.teacher import load_teacher
from clipdistill.models.torch_embedder import resolve_device

FAST = DistillOptions(
    image_size=32,
    batch_size=8,
    num_epochs=1,
    device="cpu",
    val_fraction=0.2,
    check_export=False,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory, pictures, tiny_teacher_name, make_text) -> Path:
    root = tmp_path_factory.mktemp("template")
    pictures(root / "images", 12)
    (root / "prompts.txt").write_text("a cat\na dog\n")
    embed(root / "images", root / "emb", model_name=tiny_teacher_name, device="cpu")
    distill("test_resnet", root / "images", root / "emb", root / "student", FAST)
    make_text(root / "text.npy")
    return root


@pytest.fixture
def here(tmp_path, template) -> Path:
    """A project with images, embeddings, a student, prompts and text embeddings."""
    shutil.copytree(template, tmp_path / "work")
    return tmp_path / "work"


def snapshot(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def refused(kind: type[Exception], root: Path, call: Callable[[], object], *says: str) -> str:
    """Check class and words of the message, and that nothing in `root` has changed."""
    before = snapshot(root)
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    message = str(caught.value)
    for words in says:
        assert re.search(words, message), f"{words!r} is not in: {message}"
    assert "Traceback" not in message
    assert snapshot(root) == before
    return message


# Images.


@pytest.mark.parametrize("stage", ["embed", "distill"])
def test_missing_or_empty_folder(here, tiny_teacher_name, stage):
    def call(images: Path) -> object:
        if stage == "embed":
            return embed(images, here / "emb", model_name=tiny_teacher_name, device="cpu")
        return distill("test_resnet", images, here / "emb", here / "new", FAST)

    refused(
        errors.InputError, here, lambda: call(here / "nope"), "nope: no such folder", "Expected"
    )
    (here / "empty").mkdir()
    refused(errors.InputError, here, lambda: call(here / "empty"), "empty: no images", "Expected")
    refused(
        errors.InputError, here, lambda: call(here / "prompts.txt"), r"prompts\.txt: expected a"
    )


def test_no_readable_image(here, tiny_teacher_name):
    (here / "bad").mkdir()
    for index in range(3):
        (here / f"bad/{index}.jpg").write_bytes(b"<html>")
    refused(
        errors.InputError,
        here,
        lambda: embed(here / "bad", here / "emb2", model_name=tiny_teacher_name, device="cpu"),
        "bad: none of its 3 images can be read",
        r"0\.jpg: not a",
    )


def test_no_readable_image_beside_earlier_embeddings(here, tiny_teacher_name):
    shutil.rmtree(here / "images")
    (here / "images").mkdir()
    (here / "images/x.jpg").write_bytes(b"<html>")
    vectors = (here / "emb/img_emb/img_emb_0.npy").read_bytes()
    result = embed(here / "images", here / "emb", model_name=tiny_teacher_name, device="cpu")
    assert (result.embedded, result.gone, len(result.failures)) == (0, 12, 1)
    assert (here / "emb/img_emb/img_emb_0.npy").read_bytes() == vectors


# Teachers.


def test_embeddings_of_another_teacher(here, other_teacher):
    name = other_teacher.card.model_name
    refused(
        errors.MismatchError,
        here,
        lambda: embed(here / "images", here / "emb", model_name=name, device="cpu"),
        "emb",
        "same embedding space",
        "--model-name",
    )


def test_embeddings_of_another_dimension(here):
    for path in (here / "emb/img_emb").iterdir():
        np.save(path, np.ones((12, 24), dtype=np.float16))
    refused(
        errors.FormatError,
        here,
        lambda: distill("test_resnet", here / "images", here / "emb", here / "new", FAST),
        r"img_emb_0\.npy",
        r"expected floats \(12, 16\), found float16 \(12, 24\)",
        "Delete it",
    )


def test_text_embeddings_of_another_teacher(here, make_text, other_teacher):
    text = make_text(here / "other.npy", teacher=other_teacher)
    options = DistillOptions(**{**vars(FAST), "prompts": text})
    refused(
        errors.MismatchError,
        here,
        lambda: distill("test_resnet", here / "images", here / "emb", here / "new", options),
        "emb",
        r"other\.npy",
        "same teacher",
    )


@pytest.mark.parametrize(
    ("name", "pretrained", "says"),
    [
        ("ViT-B-23", "openai", ["Unknown teacher 'ViT-B-23'", "Did you mean .*ViT-B-32"]),
        ("vit-b-32", "openai", ["Did you mean .*ViT-B-32"]),
        ("xyzzy", "openai", ["Unknown teacher 'xyzzy'", "open_clip.list_models"]),
        ("ViT-B-32", "laion2b_s34b_b79", ["Unknown weights", "Did you mean laion2b_s34b_b79k"]),
        ("ViT-B-32", "", ["needs the name of its weights \\(--pretrained\\)", "openai"]),
        ("ViT-B-32", "missing.pt", ["Unknown weights 'missing.pt'", "path of a weights file"]),
        ("http://x/y", "", ["expected an open_clip name, hf-hub:ORG/REPO or local-dir:FOLDER"]),
    ],
)
def test_unknown_teachers(here, name, pretrained, says):
    def call() -> object:
        return embed(here / "images", here / "new", model_name=name, pretrained=pretrained)

    (here / "new").mkdir()
    refused(errors.ModelNotFoundError, here, call, *says)


def test_local_teachers_that_are_not_there_or_damaged(here, tiny_teacher_dir, tmp_path):
    def call() -> object:
        return load_teacher(f"local-dir:{tmp_path / 'teacher'}", device="cpu")

    refused(errors.InputError, here, call, "teacher: expected a folder with open_clip_config.json")
    shutil.copytree(tiny_teacher_dir, tmp_path / "teacher")
    weights = tmp_path / "teacher/open_clip_model.safetensors"
    data = weights.read_bytes()
    for cut in (0, 100, len(data) // 2, len(data) - 1):
        weights.write_bytes(data[:cut])
        refused(
            errors.FormatError, here, call, "teacher", "cannot be loaded", "copy the folder again"
        )
    weights.unlink()
    refused(errors.FormatError, here, call, "teacher", "cannot be loaded")
    weights.write_bytes(data)
    for text in ("", "{", "[]", "{}", '{"model_cfg": {}}', '{"model_cfg": {"embed_dim": 3}}'):
        (tmp_path / "teacher/open_clip_config.json").write_text(text)
        refused(errors.FormatError, here, call, "teacher", "cannot be loaded")


def test_a_malicious_teacher_file_runs_nothing(here, tmp_path):
    sign = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {sign}",)

    torch.save({"state_dict": Bomb()}, tmp_path / "weights.pt")
    refused(
        errors.ModelNotFoundError,
        here,
        lambda: load_teacher("RN50", str(tmp_path / "weights.pt"), device="cpu"),
        "RN50",
    )
    assert not sign.exists()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and nothing in the hub's cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(
    ("name", "tag"),
    [("ViT-B-32", "laion2b_s34b_b79k"), ("hf-hub:nobody/nothing", "")],
)
def test_no_network_for_a_teacher(here, offline, name, tag):
    (here / "new").mkdir()
    refused(
        errors.ModelNotFoundError,
        here,
        lambda: embed(here / "images", here / "new", model_name=name, pretrained=tag, device="cpu"),
        f"Teacher {name}",
        "Tried the model hub and the local hub cache",
        "--model-name local-dir:FOLDER",
    )


@pytest.mark.parametrize("arch", ["resnet18", "hf-hub:nobody/nothing"])
def test_no_network_for_a_students_weights(here, offline, arch):
    refused(
        errors.ModelNotFoundError,
        here,
        lambda: build_student(arch, 8, pretrained=True),
        f"Student {arch}",
        "Tried the model hub and the local hub cache",
        "--student-weights FILE",
    )


# Students.


@pytest.mark.parametrize(
    ("arch", "near"),
    [
        ("resnet81", "resnet18"),
        ("mobilenet_v3_small_100", "mobilenetv3_small_100"),
        ("ResNet18", "resnet18"),
    ],
)
def test_unknown_students(here, arch, near):
    refused(
        errors.ModelNotFoundError,
        here,
        lambda: distill(arch, here / "images", here / "emb", here / "new", FAST),
        f"Unknown student '{arch}'",
        f"Did you mean .*{near}",
        "timm.list_models",
    )


@pytest.mark.parametrize(
    ("arch", "size", "says"),
    [
        ("xcit_nano_12_p16_224", 100, "cannot be built at 100 px"),
        ("inception_v3", 32, "cannot take images of 32 px.*--image-size .its own is 299"),
    ],
)
def test_a_size_that_the_network_cannot_have(here, arch, size, says):
    options = DistillOptions(**{**vars(FAST), "image_size": size})
    (here / "new").mkdir()
    refused(
        errors.InputError,
        here,
        lambda: distill(arch, here / "images", here / "emb", here / "new", options),
        arch,
        says,
    )


def test_a_truncated_student_checkpoint(here):
    path = here / "student/checkpoint.pth"
    path.write_bytes(path.read_bytes()[:2000])
    refused(errors.FormatError, here, lambda: load_student(path), r"checkpoint\.pth", "truncated")


def test_a_malicious_student_checkpoint(here):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {here / 'executed'}",)

    torch.save({"model": {"fc.weight": Bomb()}, "epoch": 1}, here / "student/checkpoint.pth")
    refused(
        errors.FormatError,
        here,
        lambda: load_student(here / "student/checkpoint.pth"),
        r"checkpoint\.pth: refused",
        "run code",
        "Give a checkpoint of",
    )


# Prompts.


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        (b"", errors.InputError, ["no prompts in it", "Write one per line"]),
        (b"# only comments\n", errors.InputError, ["no prompts in it"]),
        ("café".encode("latin-1"), errors.FormatError, ["UTF-8", "0xe9", "iconv"]),
        (None, errors.InputError, ["prompts file cannot be read", "Expected a text file"]),
    ],
)
def test_prompt_files(here, tiny_teacher_name, data, kind, says):
    if data is not None:
        (here / "p.txt").write_bytes(data)
    refused(
        kind,
        here,
        lambda: embed_text(here / "p.txt", here / "text.npy", model_name=tiny_teacher_name),
        r"p\.txt",
        *says,
    )


def test_prompts_for_distilling(here):
    (here / "p.txt").write_bytes(b"\xff\xff")
    options = DistillOptions(**{**vars(FAST), "prompts": here / "p.txt"})
    refused(
        errors.FormatError,
        here,
        lambda: distill("test_resnet", here / "images", here / "emb", here / "new", options),
        r"p\.txt",
        "UTF-8",
    )


# Outputs.


def stages(here: Path, teacher: str) -> dict[str, Callable[[Path], object]]:
    return {
        "embed": lambda out: embed(here / "images", out, model_name=teacher, device="cpu"),
        "embed npy": lambda out: embed(
            here / "images", out, model_name=teacher, device="cpu", layout="npy"
        ),
        "embed-text": lambda out: embed_text(
            here / "prompts.txt", out / "text.npy", model_name=teacher, device="cpu"
        ),
        "distill": lambda out: distill("test_resnet", here / "images", here / "emb", out, FAST),
    }


STAGES = ["embed", "embed npy", "embed-text", "distill"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_file_in_the_way_of_the_output(here, tiny_teacher_name, stage):
    (here / "taken").write_text("mine")
    for out in (here / "taken", here / "taken/deeper"):
        refused(
            errors.OutputError,
            here,
            lambda out=out: stages(here, tiny_teacher_name)[stage](out),
            "taken",
            "Choose an",
        )


@pytest.mark.parametrize("stage", STAGES)
def test_an_output_that_may_not_be_written(here, tiny_teacher_name, stage, monkeypatch):
    if os.geteuid() != 0:
        (here / "locked").mkdir(mode=0o500)
    else:  # root may write anywhere but in /proc and /sys
        (here / "locked").symlink_to("/proc/self")
    refused(
        errors.OutputError,
        here,
        lambda: stages(here, tiny_teacher_name)[stage](here / "locked/out"),
        "Cannot write .*locked",
        "Choose an output you may write to",
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk(here, tiny_teacher_name, stage):
    before = snapshot(here)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = 100 if stage.startswith("embed") else 60_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(errors.OutputError, match=r"No space left while writing .* free some"):
            stages(here, tiny_teacher_name)[stage](here / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after = snapshot(here)
    assert {name: after[name] for name in before} == before
    stages(here, tiny_teacher_name)[stage](here / "new")  # with space again, the same command works


# Devices.


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "cpu:x", ""])
def test_devices_that_are_not_there(name):
    with pytest.raises(errors.InputError, match=rf"Device '{name}' cannot be used .*--device cpu"):
        resolve_device(name)

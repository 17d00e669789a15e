"""Files that are passed on: no place of the maker's machine in them, and equal makes equal."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipdistill.core.errors import OutputError
from clipdistill.core.progress import Silent, reporting
from clipdistill.core.zeroshot import Calibration, LogitScale
from clipdistill.deploy.export import export
from clipdistill.deploy.relabel import relabel
from clipdistill.distillation.adapt import adapt
from clipdistill.distillation.distill import distill
from clipdistill.distillation.embed import embed
from clipdistill.distillation.embed_text import embed_text
from clipdistill.distillation.options import DistillOptions
from clipdistill.distillation.quantize import quantize
from clipdistill.formats.cards import TeacherCard, last_name
from clipdistill.formats.student import load_card
from clipdistill.formats.text import load_text, save_text
from clipdistill.measure.evaluate import evaluate
from clipdistill.models.open import open_embedder

HOME = "home-of-the-maker"
FAST = DistillOptions(image_size=32, batch_size=8, num_epochs=2, device="cpu", val_fraction=0.2)
TUNED = replace(FAST, num_epochs=1, sparse=True)


class Maker:
    """Somebody who makes everything below a folder of an own name."""

    def __init__(self, home: Path, teacher: Path, pictures: Any) -> None:
        self.home = home
        self.teacher = f"local-dir:{shutil.copytree(teacher, home / 'the-teacher')}"
        self.images, self.embeddings = home / "images", home / "embeddings"
        self.text, self.adapted = home / "text.npy", home / "adapted.npy"
        self.dense, self.sparse = home / "student", home / "student-sparse"
        pictures(self.images, 40)
        embed(self.images, self.embeddings, model_name=self.teacher, device="cpu")
        (home / "prompts.txt").write_text("red disc\ngreen square\n")
        embed_text(home / "prompts.txt", self.text, model_name=self.teacher, device="cpu")
        self.distill(self.dense, replace(FAST, prompts=self.text))
        self.distill(self.sparse, replace(TUNED, init_checkpoint=self.dense))

    def distill(self, out: Path, options: DistillOptions) -> Any:
        return distill("test_resnet", self.images, self.embeddings, out, options)


@pytest.fixture(scope="module")
def maker(tmp_path_factory, tiny_teacher_dir, pictures) -> Maker:
    home = tmp_path_factory.mktemp("somewhere") / HOME
    home.mkdir()
    return Maker(home, tiny_teacher_dir, pictures)


def check_clean(*paths: Path) -> None:
    for path in paths:
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        assert files
        assert [file for file in files if HOME.encode() in file.read_bytes()] == []


def test_students_and_their_files_name_no_place(maker: Maker, tmp_path: Path) -> None:
    home = maker.home
    adapt(maker.text, maker.embeddings, maker.adapted, student=maker.dense, images=maker.images)
    onnx, bare, tower = (home / f"{name}.onnx" for name in ("classifier", "bare", "teacher"))
    export(str(maker.sparse), onnx, text=maker.adapted)
    export(str(maker.dense), bare)
    export(maker.teacher, tower, teacher=True)
    evaluate(
        str(onnx), images=maker.images, embeddings=maker.embeddings, calibrate=True, device="cpu"
    )
    relabel(bare, maker.adapted, home / "relabelled.onnx")
    check_clean(maker.dense, maker.sparse, maker.text, maker.text.with_suffix(".json"))
    check_clean(maker.adapted.with_suffix(".json"))
    check_clean(onnx, bare, tower, home / "relabelled.onnx")
    assert open_embedder(str(onnx)).spec.teacher.model_name == "local-dir:the-teacher"
    assert load_text(maker.adapted).adaptation.pool == "embeddings"
    card = load_card(maker.sparse)
    assert card.training["options"]["init_checkpoint"].startswith("student (")
    assert load_card(maker.dense).training["options"]["prompts"] == "text.npy"


@pytest.mark.skipif(importlib.util.find_spec("modelopt") is None, reason="needs ModelOpt")
def test_a_quantised_student_names_no_place(maker: Maker) -> None:
    out = maker.home / "int8"
    quantize(maker.dense, maker.images, out, device="cpu")
    check_clean(out)
    assert load_card(out).training["quantized"]["from"].startswith("student (")
    for target in ("onnxruntime", "tensorrt"):
        export(str(out), maker.home / "int8.onnx", target=target)
        first = (maker.home / "int8.onnx").read_bytes()
        export(str(out), maker.home / "int8.onnx", target=target)
        assert (maker.home / "int8.onnx").read_bytes() == first


def test_two_exports_and_two_trainings_are_equal(maker: Maker, tmp_path: Path) -> None:
    for out in (tmp_path / "one" / "a", tmp_path / "b"):
        maker.distill(out / "dense", replace(FAST, prompts=maker.text))
        maker.distill(out / "sparse", replace(TUNED, init_checkpoint=out / "dense"))
        export(str(out / "sparse"), out / "it.onnx", text=maker.text)
    for name in (
        "dense/student.json",
        "dense/model.safetensors",
        "dense/samples.npy",
        "sparse/student.json",
        "sparse/model.safetensors",
        "it.onnx",
    ):
        assert (tmp_path / "one/a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_training_goes_on_from_the_same_weights_wherever_they_lie(
    maker: Maker, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(maker.dense, tmp_path / "student"))
    assert maker.distill(maker.sparse, replace(TUNED, init_checkpoint=moved)).resumed
    other = tmp_path / "other" / "student"
    maker.distill(other, replace(FAST, seed=3))
    with pytest.raises(OutputError, match=r"--init-checkpoint was student \(\w+\), now student \("):
        maker.distill(maker.sparse, replace(TUNED, init_checkpoint=other))


def test_cards_with_places_are_still_read_and_passed_on_without(
    maker: Maker, tmp_path: Path
) -> None:
    old = Path(shutil.copytree(maker.sparse, tmp_path / "old"))
    card = json.loads((old / "student.json").read_text())
    card["teacher"]["model_name"] = maker.teacher
    card["training"]["options"]["init_checkpoint"] = str(maker.dense)
    card["training"]["best"]["images_per_second"] = 123.4
    (old / "student.json").write_text(json.dumps(card))
    assert load_card(old).training["best"]["images_per_second"] == 123.4
    assert maker.distill(old, replace(TUNED, init_checkpoint=maker.dense)).resumed
    text = load_text(maker.text)
    calibration = Calibration(LogitScale(10.0), 0.1, "teacher", str(maker.dense), 40, 0.2, 0.1, 0.9)
    teacher = replace(text.teacher, model_name=maker.teacher)
    before = save_text(
        tmp_path / "text.npy", replace(text, teacher=teacher, calibration=calibration)
    )
    out = tmp_path / "old.onnx"
    export(str(old), out, text=before)
    check_clean(out, before.with_suffix(".json"))
    assert b"123.4" not in out.read_bytes()
    assert load_text(before).calibration.model == "student"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("", ""),
        ("openai", "openai"),
        ("/home/me/weights.pt", "weights.pt"),
        ("C:\\models\\clip\\", "clip"),
        ("a/b/", "b"),
        ("student (0123abcd)", "student (0123abcd)"),
    ],
)
def test_the_last_name_of_a_path(path: str, name: str) -> None:
    assert last_name(path) == name


def test_names_of_hubs_and_of_open_clip_stay(maker: Maker, monkeypatch) -> None:
    card = load_card(maker.dense).teacher
    for name, tag in (("hf-hub:org/repo", ""), ("ViT-B-32", "openai")):
        same = replace(card, model_name=name, pretrained=tag)
        assert same.shipped() == same
    monkeypatch.chdir(maker.home / "the-teacher")
    here: TeacherCard = replace(card, model_name="local-dir:.")
    assert here.shipped().model_name == "local-dir:the-teacher"
    weights = replace(card, model_name="ViT-B-32", pretrained="/home/me/clip.pt")
    assert weights.shipped().pretrained == "clip.pt"


def test_the_page_finds_the_teacher_of_a_run_and_else_asks_for_it(
    maker: Maker, tmp_path: Path
) -> None:
    from clipdistill.models.recognizer import open_recognizer
    from clipdistill.show import demo

    said: list[str] = []

    class Listener(Silent):
        def message(self, text: str) -> None:
            said.append(text)

    inside, outside = maker.home / "cpu" / "it.onnx", tmp_path / "it.onnx"
    for out in (inside, outside):
        export(str(maker.dense), out, text=maker.text)
    options = demo.DemoOptions(web=True, device="cpu")
    assert demo._load_teacher(open_recognizer(str(inside), device="cpu"), options) is not None
    with reporting(Listener()):
        assert demo._load_teacher(open_recognizer(str(outside), device="cpu"), options) is None
    assert "the teacher, local-dir:the-teacher (16-d)" in said[-1]
    assert "--teacher" in said[-1]

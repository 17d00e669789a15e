"""Settings of run: checks, and the TOML file that holds them."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipdistill.collect.sources.options import SearchOptions
from clipdistill.collect.web.options import DownloadOptions
from clipdistill.core.errors import ClipDistillError, FormatError, InputError
from clipdistill.core.signatures import documentation
from clipdistill.distillation.options import DistillOptions
from clipdistill.pipeline.options import RunOptions
from clipdistill.pipeline.run import run
from clipdistill.pipeline.settings_file import load_settings, save_settings

TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1)
SIZES = st.integers(min_value=-(2**63), max_value=2**63 - 1)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "images": TEXT.map(Path),
    "search": st.sampled_from(["knn", "commons"]),
    "url": TEXT,
    "tables": st.lists(TEXT, max_size=3).map(tuple),
    "template": st.lists(TEXT, max_size=3).map(tuple),
    "teacher": TEXT,
    "num_epochs": SIZES,
    "image_size": SIZES,
    "lr": st.floats(allow_nan=False, allow_infinity=False),
    "holdout": st.floats(allow_nan=False, allow_infinity=False),
    "qat": st.booleans(),
    "benchmark": st.booleans(),
    "labelled": TEXT.map(Path),
    "target": st.sampled_from(["onnxruntime", "tensorrt"]),
    "classifier": st.sampled_from(["dense", "sparse-int8"]),
    "criterion": st.sampled_from(["cosine", "huber"]),
    "image_width": st.sampled_from([250, 3840]),
    "student_weights": TEXT.map(Path),
    "verify_tls": st.booleans(),
}


@given(st.fixed_dictionaries({}, optional=KINDS))
def test_what_is_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    options = RunOptions(**values)
    path = tmp_path_factory.mktemp("toml") / "run.toml"
    save_settings(path, options)
    assert load_settings(path) == options


def test_the_command_line_wins_over_the_file_even_with_a_default(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("num-epochs = 7\nseed = 3\nqat = true\n")
    merged = RunOptions(num_epochs=50, images=Path("photos"), qat=False).over(load_settings(path))
    assert (merged.num_epochs, merged.seed, merged.qat) == (50, 3, False)
    assert merged.images == Path("photos")


def test_what_excludes_a_setting_of_the_file_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('images = "photos"\nholdout = 0.2\n')
    merged = RunOptions(search="commons", labelled=Path("known")).over(load_settings(path))
    assert merged.images is None
    assert merged.holdout == 0.2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("num_epoch = 3", "'num_epoch' is not a setting of run. Did you mean num_epochs"),
        ('num_epochs = "3"', "num_epochs = '3': expected a whole number"),
        ("num_epochs = true", "num_epochs = true: expected a whole number"),
        ("qat = 1", "qat = 1: expected true or false"),
        ("images = 3", "images = 3: expected a path in quotes"),
        ("image_width = 7", "image_width = 7: expected one of 250, 330,"),
        ('target = "tensort"', "one of onnxruntime, tensorrt. Did you mean tensorrt"),
        ('tables = "x"', "tables = 'x': expected a list of texts"),
        ("[run]\nseed = 1", "'run' is not a setting"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(line)
    with pytest.raises(InputError) as raised:
        load_settings(path)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


def test_what_is_no_toml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("num_epochs: 3")
    with pytest.raises(FormatError, match="should be UTF-8 TOML"):
        load_settings(path)
    path.write_bytes(b'student = "\xff"')
    with pytest.raises(FormatError):
        load_settings(path)
    with pytest.raises(InputError, match="--save-config"):
        load_settings(tmp_path / "none.toml")


def test_a_name_that_is_not_unicode_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not Unicode"):
        save_settings(tmp_path / "run.toml", RunOptions(images=Path("\udcff")))
    assert not list(tmp_path.iterdir())


IMAGES = {"images": Path("photos")}
COMMONS = {"search": "commons", "contact": "me@home.org"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "Give --images FOLDER"),
        ({**IMAGES, "search": "commons"}, "exclude each other"),
        ({"search": "knn"}, "--search knn needs --url"),
        ({**IMAGES, "holdout": 0.9}, "--holdout 0.9: expected"),
        ({**IMAGES, "num_epochs": 0}, "--num-epochs 0: expected 1 or more"),
        ({**IMAGES, "warmup": 1.5}, "--warmup 1.5: expected 0 to below 1"),
        ({**IMAGES, "fine_tuning_lr": 0.0}, "--fine-tuning-lr 0.0: expected above 0"),
        ({**COMMONS, "retries": 99}, "--retries 99: expected 0 to 20"),
        ({**COMMONS, "aesthetic_score": 11}, "--aesthetic-score 11: expected 0 to 9"),
        ({**IMAGES, "classifier": "int8"}, "this run makes dense"),
        ({**IMAGES, "teacher": "ViT-B-32"}, "expected NAME/PRETRAINED"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ClipDistillError) as raised:
        RunOptions(**values).check()
    assert said in str(raised.value)


def test_students_that_are_made() -> None:
    def made(**flags: bool) -> tuple[str, ...]:
        return RunOptions(**IMAGES, **flags).students

    assert made() == ("dense",)
    assert made(sparse=True) == ("dense", "sparse")
    assert made(sparse=True, qat=True) == ("dense", "sparse-int8")
    assert made(sparse=True, qat=True, compare=True) == ("dense", "sparse", "int8", "sparse-int8")
    assert RunOptions(**IMAGES, qat=True).shipped == "int8"


def test_every_setting_is_explained_once() -> None:
    text = documentation(run)
    for field in fields(RunOptions):
        assert len(re.findall(rf"^    {field.name}: ", text, re.MULTILINE)) == 1, field.name


NOT_OFFERED: dict[type, set[str]] = {
    # Of a search of its own; the teacher, the device and the source have other names or defaults.
    SearchOptions: {"source", "max_workers", "append", "model_name", "pretrained"}
    | {"precision", "timeout", "retries", "backoff"},
    DownloadOptions: {"retry_failed", "layout", "shard_size"},  # into a folder of the run
    # `run` chooses these itself.
    DistillOptions: {"only", "output_dim", "init_checkpoint", "sparse_from", "prompts"},
}


@pytest.mark.parametrize("verb", NOT_OFFERED)
def test_options_of_the_verbs_are_options_of_run(verb: type) -> None:
    offered = {field.name: field.default for field in fields(RunOptions)}
    theirs = {field.name: field.default for field in fields(verb)}
    shared = set(theirs) - NOT_OFFERED[verb]
    assert shared <= set(offered)
    other = {name for name in shared if offered[name] != theirs[name]}
    assert other <= {"num_images", "pretrained"}


def test_what_is_given_reaches_the_verbs() -> None:
    options = RunOptions(
        search="commons",
        contact="me@home.org",
        image_width=960,
        timeout=3.0,
        retries=7,
        criterion="l1",
        warmup=0.3,
        lr=0.5,
        pretrained=True,
        student_weights=Path("w.pth"),
        fine_tuning_lr=0.25,
    )
    searching, downloading = options.search_options(), options.download_options()
    assert (searching.source, searching.image_width, searching.contact) == (
        "commons",
        960,
        "me@home.org",
    )
    assert (searching.timeout, searching.retries) == (60.0, 4)
    assert (downloading.timeout, downloading.retries) == (3.0, 7)
    assert downloading.user_agent.endswith("(me@home.org)")
    dense = options.distill_options("dense", only=Path("list"))
    assert (dense.criterion, dense.warmup, dense.lr, dense.pretrained) == ("l1", 0.3, 0.5, True)
    assert dense.student_weights == Path("w.pth")
    assert not dense.compresses
    both = options.distill_options("sparse-int8", dense=Path("student"), only=Path("list"))
    assert (both.criterion, both.lr, both.num_epochs) == ("l1", 0.25, 10)
    assert both.sparse
    assert both.qat
    assert (both.init_checkpoint, both.only) == (Path("student"), Path("list"))
    assert (both.pretrained, both.student_weights) == (False, None)


def test_the_record_leaves_out_what_has_no_effect() -> None:
    assert "timeout" not in RunOptions(**IMAGES).used_settings()
    assert RunOptions(**COMMONS).used_settings()["timeout"] == 10.0
    assert RunOptions(**IMAGES).used_settings()["warmup"] == 0.1

"""predict, used as its users do."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cyclopts import App
from PIL import Image

from clipdistill import cli
from clipdistill.core.errors import FormatError, InputError, MismatchError
from clipdistill.core.results import Table, to_json
from clipdistill.formats.student import load_weights
from clipdistill.formats.text import load_text
from clipdistill.show.predict import predict
from conftest import LABELS


def test_student_and_onnx_give_the_same_answer(
    pictures, tiny_student: Path, tiny_classifier: Path, tiny_text: Path, tmp_path: Path
) -> None:
    pictures(tmp_path / "photos", 5)
    mine = predict(str(tiny_classifier), str(tmp_path / "photos"))
    theirs = predict(str(tiny_student), str(tmp_path / "photos"), text=tiny_text)
    for one, other in zip(mine.predictions, theirs.predictions, strict=True):
        assert one.image == other.image
        assert dict(one.ranked) == pytest.approx(dict(other.ranked), abs=1e-4)
        assert sum(dict(one.ranked).values()) == pytest.approx(1, abs=1e-4)
        shares = [share for _, share in one.ranked]
        assert shares == sorted(shares, reverse=True)
    assert len({one.ranked[0][0] for one in mine.predictions}) > 1  # not all alike


def test_files_folders_and_globs_in_the_order_given(
    pictures, tiny_classifier: Path, tmp_path: Path
) -> None:
    first = pictures(tmp_path / "a", 3)
    second = pictures(tmp_path / "b", 2, seed=1, ending=".jpg")
    result = predict(
        str(tiny_classifier),
        str(second[1]),
        str(tmp_path / "a"),
        str(tmp_path / "b" / "*.jpg"),
        batch_size=2,
        num_workers=0,
    )
    expected = [second[1], *first, *second]
    assert [one.image for one in result.predictions] == [str(path) for path in expected]
    assert result.predictions[0] == result.predictions[-1]


def test_text_overrides_the_files_own_labels(
    pictures, make_text, tiny_classifier: Path, tmp_path: Path
) -> None:
    (picture,) = pictures(tmp_path, 1)
    other = make_text(tmp_path / "other.npy", ["day", "night"])
    result = predict(str(tiny_classifier), str(picture), text=other)
    assert {label for label, _ in result.predictions[0].ranked} == {"day", "night"}


def test_top_k(pictures, tiny_classifier: Path, tmp_path: Path) -> None:
    (picture,) = pictures(tmp_path, 1)
    result = predict(str(tiny_classifier), str(picture), top_k=2)
    assert len(result.predictions[0].ranked) == 2
    assert result.classes == 4


def test_summaries(pictures, tiny_classifier: Path, tmp_path: Path) -> None:
    paths = pictures(tmp_path, 3)
    (one,) = predict(str(tiny_classifier), str(paths[0])).summary()
    assert isinstance(one, Table)
    assert one.title == str(paths[0])
    assert len(one.rows) == 4
    assert one.rows[0][1].endswith("%")
    (many,) = predict(str(tiny_classifier), *map(str, paths)).summary()
    assert isinstance(many, Table)
    assert len(many.rows) == 3
    assert many.columns == ("image", "label", ">probability", "runner-up")


def test_independent_classes_give_an_image_several_labels_or_none(
    pictures, independent_classifier: Path, tiny_student: Path, independent_text: Path, tmp_path
) -> None:
    paths = [str(path) for path in pictures(tmp_path, 12)]
    result = predict(str(independent_classifier), *paths, top_k=2)
    limits = dict(zip(LABELS, (0.5, 0.6, 0.4, 0.9), strict=True))
    assert {len(one.labels) for one in result.predictions} >= {0, 2}
    for one in result.predictions:
        shares = dict(one.ranked)
        assert one.labels == tuple(shares)[: len(one.labels)]
        assert len(shares) >= 2
        for label, share in shares.items():
            assert (label in one.labels) == (share >= limits[label])
        assert one.unknown is (not one.labels)
    theirs = predict(str(tiny_student), *paths, text=independent_text, top_k=2)
    assert [one.labels for one in theirs.predictions] == [one.labels for one in result.predictions]
    (table,) = result.summary()
    assert table.columns == ("image", "labels", "next")
    several = next(row for row in table.rows if row[1].count("(") > 1)
    assert several[1].count("%") > 1
    rows = result.records()
    assert {row["has"] for row in rows} == {True, False}
    none = predict(str(independent_classifier), *paths, threshold=1.0)
    assert all(one.unknown and one.labels == () for one in none.predictions)
    assert none.summary()[0].rows[0][1] == "unknown"


def test_the_labels_of_a_single_answer(pictures, tiny_classifier: Path, tmp_path: Path) -> None:
    (picture,) = pictures(tmp_path, 1)
    (one,) = predict(str(tiny_classifier), str(picture)).predictions
    assert one.labels == (one.ranked[0][0],)
    assert predict(str(tiny_classifier), str(picture), threshold=1.0).predictions[0].labels == ()


def test_json_is_plain(pictures, tiny_classifier: Path, tmp_path: Path) -> None:
    (picture,) = pictures(tmp_path, 1)
    value = to_json(predict(str(tiny_classifier), str(picture)))
    assert value["predictions"][0]["image"] == str(picture)
    assert isinstance(value["predictions"][0]["ranked"][0][1], float)


def test_an_unreadable_picture_among_good_ones(
    pictures, tiny_classifier: Path, tmp_path: Path
) -> None:
    paths = pictures(tmp_path, 3)
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    (tmp_path / "empty.jpg").write_bytes(b"")
    result = predict(str(tiny_classifier), str(tmp_path))
    reasons = {Path(one.image).name: one.reason for one in result.predictions}
    assert reasons["picture_0.png"] == ""
    assert reasons["picture_2.png"] == ""
    assert reasons["picture_1.png"]
    assert "empty" in reasons["empty.jpg"]
    assert len(result.failures) == 2
    assert any("empty.jpg" in line for line in result.summary() if isinstance(line, str))


def test_nothing_readable(tiny_classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("this is not a picture")
    with pytest.raises(InputError, match=r"None of 1 image.*a\.jpg"):
        predict(str(tiny_classifier), str(tmp_path / "a.jpg"))


def test_no_images(tiny_classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="IMAGE"):
        predict(str(tiny_classifier))
    with pytest.raises(InputError, match="no images found"):
        predict(str(tiny_classifier), str(tmp_path))
    with pytest.raises(InputError, match="no such image"):
        predict(str(tiny_classifier), str(tmp_path / "cat.jpg"))


def test_labels_are_needed(
    pictures, tiny_student: Path, tiny_bare_onnx: Path, tiny_classifier: Path, tmp_path: Path
) -> None:
    (picture,) = pictures(tmp_path, 1)
    for model in (tiny_student, tiny_bare_onnx):
        with pytest.raises(InputError, match="--text"):
            predict(str(model), str(picture))
    with pytest.raises(InputError, match="--prompts"):
        predict(str(tiny_classifier), str(picture), prompts=tmp_path / "prompts.txt")


def test_text_of_another_teacher(
    pictures, make_text, other_teacher, tiny_student: Path, tiny_classifier: Path, tmp_path: Path
) -> None:
    (picture,) = pictures(tmp_path, 1)
    foreign = make_text(tmp_path / "foreign.npy", teacher=other_teacher)
    for model in (tiny_student, tiny_classifier):
        with pytest.raises(MismatchError, match="same embedding space"):
            predict(str(model), str(picture), text=foreign)


def test_swapped_arguments(
    pictures, tiny_classifier: Path, tiny_text: Path, tmp_path: Path
) -> None:
    (picture,) = pictures(tmp_path, 1)
    with pytest.raises(InputError, match="MODEL may be"):
        predict(str(picture), str(tiny_classifier))
    with pytest.raises(InputError, match="embed-text"):
        predict(str(tiny_classifier), str(picture), text=picture)
    (tmp_path / "prompts.txt").write_text("cat\n")
    with pytest.raises(
        InputError, match=r"expected text embeddings .*: clipdistill embed-text .*prompts"
    ):
        predict(str(tiny_classifier), str(picture), text=tmp_path / "prompts.txt")


def test_damaged_text(pictures, tiny_classifier: Path, tiny_text: Path, tmp_path: Path) -> None:
    (picture,) = pictures(tmp_path, 1)
    for ending in (".npy", ".json"):
        shutil.copy(tiny_text.with_suffix(ending), tmp_path / f"text{ending}")
    (tmp_path / "text.npy").write_bytes(tiny_text.read_bytes()[:-8])
    with pytest.raises(FormatError, match=r"text\.npy"):
        predict(str(tiny_classifier), str(picture), text=tmp_path / "text.npy")


def test_the_older_scripts_files(
    pictures, tiny_student: Path, tiny_text: Path, labels, tmp_path: Path
) -> None:
    """checkpoint.pth {"model", "optimizer", "epoch"}, a bare .npy and a prompts file."""
    (picture,) = pictures(tmp_path, 1)
    weights = load_weights(tiny_student / "model.safetensors")
    checkpoint = tmp_path / "checkpoint.pth"
    torch.save({"model": weights, "optimizer": {}, "epoch": 1}, checkpoint)
    np.save(tmp_path / "text_embeddings.npy", 3 * load_text(tiny_text).vectors)
    prompts = tmp_path / "text_prompts.txt"
    prompts.write_text("\n".join(labels) + "\n")
    options = {"text": tmp_path / "text_embeddings.npy", "arch": "test_resnet", "image_size": 32}
    result = predict(str(checkpoint), str(picture), prompts=prompts, **options)
    assert {label for label, _ in result.predictions[0].ranked} == set(labels)
    prompts.write_text("only one\n")
    with pytest.raises(MismatchError, match="4 text embeddings, but the prompts file has 1 prompt"):
        predict(str(checkpoint), str(picture), prompts=prompts, **options)
    with pytest.raises(InputError, match="--arch"):
        predict(str(checkpoint), str(picture), text=options["text"])


def test_a_sigmoid_teachers_labels_are_independent(
    pictures, make_text, sigmoid_teacher, tmp_path: Path
) -> None:
    paths = pictures(tmp_path / "p", 4)
    text = make_text(tmp_path / "text.npy", teacher=sigmoid_teacher)
    result = predict(sigmoid_teacher.card.model_name, *map(str, paths), text=text)
    sums = [sum(dict(one.ranked).values()) for one in result.predictions]
    assert max(abs(total - 1) for total in sums) > 0.05


def test_pictures_of_any_kind(tiny_classifier: Path, tmp_path: Path) -> None:
    Image.new("L", (1, 300), 80).save(tmp_path / "thin.png")
    Image.new("CMYK", (40, 30)).save(tmp_path / "print.JPG", format="JPEG")
    Image.new("P", (20, 20)).save(tmp_path / "palette.gif")
    result = predict(str(tiny_classifier), str(tmp_path))
    assert [one.reason for one in result.predictions] == ["", "", ""]


def test_the_command_line(pictures, tiny_student: Path, tiny_text: Path, tmp_path: Path) -> None:
    paths = pictures(tmp_path, 2)
    app = App(result_action="return_value")
    app.command(predict)
    result = app(
        ["predict", str(tiny_student), str(paths[0]), "--text", str(tiny_text), str(paths[1])],
        exit_on_error=False,
    )
    assert [one.image for one in result.predictions] == [str(path) for path in paths]


def test_csv_has_a_row_per_image_and_label(tiny_classifier, pictures, tmp_path, capsys) -> None:
    pictures(tmp_path / "photos", 2)
    (tmp_path / "photos" / "bad\nname.jpg").write_bytes(b"<html>")
    words = ["predict", str(tiny_classifier), str(tmp_path / "photos")]
    assert cli.main([*words, "--top-k", "2", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == [*["image", "rank", "label", "probability", "unknown", "reason", "has"]]
    assert sorted((row["image"], row["rank"]) for row in rows if not row["reason"]) == [
        (str(tmp_path / f"photos/picture_{index}.png"), rank)
        for index in range(2)
        for rank in ("1", "2")
    ]
    (bad,) = [row for row in rows if row["reason"]]
    assert bad["image"].endswith(r"bad\nname.jpg")
    assert bad["probability"] == ""
    assert cli.main([*words, "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["predictions"]) == 3
    assert cli.main([*words, "--format", "csv", "--json"]) == 2


def test_csv_of_measurements_has_a_row_per_model(
    tiny_classifier, tiny_student, tiny_text, pictures, tmp_path, capsys
) -> None:
    pictures(tmp_path / "photos", 3)
    models = [str(tiny_student), str(tiny_classifier)]
    words = [*models, "--images", str(tmp_path / "photos"), "--text", str(tiny_text)]
    assert cli.main(["evaluate", *words, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["model"] for row in rows] == models
    assert all(float(row["latency_ms"]) > 0 and row["images"] == "3" for row in rows)
    words[0] = f"onnxruntime:{tiny_classifier}"
    quick = ["--rounds", "1", "--batch", "1,2", "--format", "csv"]
    assert cli.main(["benchmark", words[0], *words[2:], *quick]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["runtime"] for row in rows] == ["onnxruntime"]
    assert all(float(row["images_per_second_at_2"]) > 0 for row in rows)

"""evaluate, used as its users do, with and without labels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdistill.core import metrics, zeroshot
from clipdistill.core.errors import InputError, MismatchError
from clipdistill.core.results import Table, to_json
from clipdistill.formats.embeddings import EmbeddingStore, Header, Row
from clipdistill.formats.text import load_text
from clipdistill.images.loading import load_one, stack
from clipdistill.images.sources import list_images
from clipdistill.measure.evaluate import evaluate
from clipdistill.measure.task import true_labels
from clipdistill.models.open import open_embedder

FOLDERS = ("Red_Disc", "green-square", "blue triangle")  # the fourth label has no folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, pictures) -> Path:
    """Three class folders of six pictures, and one of them unreadable."""
    root = tmp_path_factory.mktemp("labelled")
    for index, name in enumerate(FOLDERS):
        pictures(root / name, 6, seed=20 + index)
    (root / FOLDERS[0] / "zz_broken.png").write_bytes(b"broken")
    return root


def by_hand(model: str, root: Path, text: Path) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and probabilities of the readable pictures, in order."""
    embedder, classes = open_embedder(model, device="cpu"), load_text(text)
    loaded = [load_one(item, embedder.spec.preprocess) for item in list_images(root)]
    embeddings = embedder.embed_pixels(stack([one for one in loaded if not one.reason]))
    return embeddings, zeroshot.probabilities(embeddings, classes.vectors, classes.teacher.logits)


def store_embeddings(root: Path, teacher, folder: Path, *, skip: int = 0) -> Path:
    """What `embed` would write, for all but the first `skip` pictures."""
    items = [item for item in list_images(folder) if "broken" not in item.key][skip:]
    loaded = [load_one(item, teacher.card.preprocess) for item in items]
    store = EmbeddingStore(root, Header(teacher.card, "clip-retrieval", "float16", True))
    rows = [Row(item.key, "", item.size, item.mtime_ns) for item in items]
    store.append(rows, teacher.images.embed_pixels(stack(loaded)))
    store.finish([])
    return root


def test_labelled_side_by_side(
    labelled: Path,
    tiny_teacher_name: str,
    tiny_student: Path,
    tiny_classifier: Path,
    tiny_text: Path,
    labels,
) -> None:
    models = (str(tiny_student), tiny_teacher_name, str(tiny_classifier))
    result = evaluate(*models, labelled=labelled, text=tiny_text, batch_size=4)
    student, teacher, onnx = result.rows
    truth = np.repeat([0, 2, 1], 6)  # in order of the folders: red, blue, green
    for model, row in zip(models, result.rows, strict=True):
        _, scores = by_hand(model, labelled, tiny_text)
        predicted = scores.argmax(axis=1)
        assert row.images == len(scores) == 18
        assert row.accuracy == pytest.approx(np.mean(predicted == truth))
        assert row.top5 == 1.0  # four labels
        counts = metrics.confusion(predicted, truth, 4)
        assert row.confusion == counts.tolist()
        assert row.per_class[labels[0]] == pytest.approx(counts[0, 0] / 6)
        assert row.per_class[labels[3]] is None
        assert list(row.per_class) == row.labels == list(labels)
        assert sum(row.counts.values()) == 18
        assert row.latency_ms > 0
        assert row.size_mb > 0.1
    assert (teacher.agreement, teacher.role) == (1.0, "teacher")
    assert teacher.cosine == pytest.approx(1, abs=1e-6)
    ours, theirs = by_hand(models[0], labelled, tiny_text), by_hand(models[1], labelled, tiny_text)
    assert student.agreement == pytest.approx(metrics.agreement(ours[1], theirs[1]))
    assert student.cosine == pytest.approx(metrics.mean_cosine(ours[0], theirs[0]), abs=1e-5)
    assert (onnx.runtime, onnx.agreement) == ("onnxruntime", student.agreement)
    assert (result.reference or "").startswith(tiny_teacher_name)
    assert [failure.image_path for failure in result.failures] == ["Red_Disc/zz_broken.png"]
    assert result.images == 19


def test_summary_and_json(labelled: Path, tiny_classifier: Path, tiny_teacher_name: str) -> None:
    result = evaluate(str(tiny_classifier), tiny_teacher_name, labelled=labelled)
    tables = [part for part in result.summary() if isinstance(part, Table)]
    assert len(tables) == 2
    assert len(tables[0].rows) == 2
    assert len(tables[1].rows) == 3
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    assert any("zz_broken" in part for part in result.summary() if isinstance(part, str))
    value = to_json(result)
    assert set(value["rows"][0]) >= {
        "model",
        "runtime",
        "role",
        "accuracy",
        "top5",
        "agreement",
        "cosine",
        "size_mb",
        "latency_ms",
        "images",
        "per_class",
        "confusion",
        "labels",
    }


def test_labels_without_a_teacher(labelled: Path, tiny_classifier: Path) -> None:
    (row,) = evaluate(str(tiny_classifier), labelled=labelled).rows
    assert row.accuracy is not None
    assert (row.agreement, row.cosine) == (None, None)


def test_tables_show_labels_without_their_template(
    tmp_path: Path, tiny_student: Path, make_text, pictures
) -> None:
    text = make_text(tmp_path / "text.npy", ("a photo of a red disc", "a photo of a dog"))
    root = tmp_path / "labelled"
    pictures(root / "a photo of a red disc", 3, seed=1)
    pictures(root / "a photo of a dog", 3, seed=2)
    for where in ({"labelled": root}, {"images": root}):
        result = evaluate(str(tiny_student), text=text, **where)
        table = [part for part in result.summary() if isinstance(part, Table)][-1]
        assert {row[0] for row in table.rows} == {"red disc", "dog"}
        assert "photo" not in str(table.rows)
        assert result.rows[0].labels == ["a photo of a red disc", "a photo of a dog"]


def test_without_labels(
    labelled: Path, tiny_teacher, tiny_student: Path, tiny_text: Path, tmp_path: Path
) -> None:
    stored = store_embeddings(tmp_path / "embeddings", tiny_teacher, labelled, skip=2)
    result = evaluate(str(tiny_student), images=labelled, embeddings=stored, text=tiny_text)
    (row,) = result.rows
    ours = by_hand(str(tiny_student), labelled, tiny_text)
    theirs = by_hand(tiny_teacher.card.model_name, labelled, tiny_text)
    assert (row.accuracy, row.top5, row.per_class, row.confusion) == (None, None, {}, [])
    assert row.cosine == pytest.approx(metrics.mean_cosine(ours[0][2:], theirs[0][2:]), abs=1e-3)
    assert row.agreement == pytest.approx(metrics.agreement(ours[1][2:], theirs[1][2:]))
    assert row.images == 18  # all of them are classified, 16 are compared
    assert row.confidence == pytest.approx(ours[1].max(axis=1).mean(), abs=1e-5)
    assert "embeddings in" in (result.reference or "")
    assert all(
        len(line) == len(table.columns)
        for table in result.summary()
        if isinstance(table, Table)
        for line in table.rows
    )


def test_stored_embeddings_match_the_teacher_itself(
    labelled: Path, tiny_teacher, tiny_teacher_name: str, tiny_text: Path, tmp_path: Path
) -> None:
    stored = store_embeddings(tmp_path / "embeddings", tiny_teacher, labelled)
    (row,) = evaluate(tiny_teacher_name, labelled=labelled, embeddings=stored, text=tiny_text).rows
    assert row.cosine == pytest.approx(1, abs=1e-4)
    assert row.agreement == 1.0


def test_each_model_gets_its_own_size(
    labelled: Path, make_student, tiny_student: Path, tiny_text: Path, tmp_path: Path
) -> None:
    larger = make_student(tmp_path / "larger", size=48)
    models = (str(tiny_student), str(larger))
    result = evaluate(*models, labelled=labelled, text=tiny_text)
    for model, row in zip(models, result.rows, strict=True):
        _, scores = by_hand(model, labelled, tiny_text)
        assert row.confidence == pytest.approx(scores.max(axis=1).mean(), abs=1e-5)


def test_class_folders(labelled: Path, pictures, tiny_classifier: Path, tmp_path: Path) -> None:
    root = tmp_path / "labelled"
    shutil.copytree(labelled, root)
    (root / "yellow stripe").mkdir()
    (root / ".cache").mkdir()
    result = evaluate(str(tiny_classifier), labelled=root)
    assert result.empty_folders == ("yellow stripe",)
    assert any("yellow stripe" in line for line in result.summary() if isinstance(line, str))
    (root / "yellow stripe").rename(root / "yellow strips")
    with pytest.raises(InputError, match=r"none of the 4 labels.*Did you mean yellow stripe"):
        evaluate(str(tiny_classifier), labelled=root)
    (root / "yellow strips").rmdir()
    pictures(root, 1)
    with pytest.raises(InputError, match="no class folder"):
        evaluate(str(tiny_classifier), labelled=root)


def test_wrong_arguments(labelled: Path, tiny_classifier: Path, tiny_student: Path) -> None:
    model = str(tiny_classifier)
    with pytest.raises(InputError, match="No models"):
        evaluate(labelled=labelled)
    with pytest.raises(InputError, match="--labelled FOLDER"):
        evaluate(model)
    with pytest.raises(InputError, match="exclude"):
        evaluate(model, labelled=labelled, images=labelled)
    with pytest.raises(InputError, match="embed-text"):
        evaluate(str(tiny_student), labelled=labelled)
    with pytest.raises(InputError, match="no such folder"):
        evaluate(model, labelled=labelled / "nowhere")


def test_artefacts_of_another_teacher(
    labelled: Path,
    tiny_classifier: Path,
    tiny_student: Path,
    other_teacher,
    make_text,
    tmp_path: Path,
) -> None:
    foreign = make_text(tmp_path / "foreign.npy", teacher=other_teacher)
    with pytest.raises(MismatchError, match="same embedding space"):
        evaluate(str(tiny_student), labelled=labelled, text=foreign)
    stored = store_embeddings(tmp_path / "embeddings", other_teacher, labelled)
    with pytest.raises(MismatchError, match="same embedding space"):
        evaluate(str(tiny_classifier), labelled=labelled, embeddings=stored)


def test_embeddings_of_other_pictures(
    labelled: Path, pictures, tiny_classifier: Path, tiny_teacher, tmp_path: Path
) -> None:
    pictures(tmp_path / "others", 2)
    stored = store_embeddings(tmp_path / "embeddings", tiny_teacher, tmp_path / "others")
    with pytest.raises(MismatchError, match="embeddings of the 19 images, found none"):
        evaluate(str(tiny_classifier), labelled=labelled, embeddings=stored)


def test_nothing_readable(tiny_classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "red disc").mkdir()
    (tmp_path / "red disc" / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"None of 1 image.*a\.jpg"):
        evaluate(str(tiny_classifier), labelled=tmp_path)


def test_folders_in_another_unicode_form_are_the_same_labels(tmp_path: Path) -> None:
    for name in ("cafe\u0301", "Zu\u0308rich"):  # as macOS writes them
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / name / "a.png")
    found = true_labels(tmp_path, None, ("z\u00fcrich", "caf\u00e9"))
    expected = [1 if item.key.startswith("cafe") else 0 for item in found.items]
    assert found.truth.tolist() == expected
    assert found.empty == ()

"""The teacher's baseline, and pictures that are held out."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from clipdistill.core.errors import InputError
from clipdistill.core.zeroshot import LogitScale
from clipdistill.formats.cards import TeacherCard
from clipdistill.formats.embeddings import EmbeddingStore, Header, Row
from clipdistill.formats.measurements import Baseline, load_measurement, save_measurement
from clipdistill.formats.run import RunFolder
from clipdistill.formats.selection import load_selection
from clipdistill.formats.text import TextEmbeddings, save_text
from clipdistill.images.preprocess import Preprocess
from clipdistill.images.sources import ImageItem, list_images
from clipdistill.pipeline.baseline import measure, sentence, warnings
from clipdistill.pipeline.holdout import hold_out

CARD = TeacherCard("hand-made", "", "abc", 16, LogitScale(10.0), Preprocess(32))
LABELS = ("cat", "dog", "puppy", "fish", "moon")


def store(folder: Path, rows: dict[str, np.ndarray]) -> Path:
    """Embeddings under names."""
    folder.mkdir()
    embeddings = EmbeddingStore(folder, Header(CARD, "clip-retrieval", "float32", True))
    vectors = np.stack(list(rows.values())).astype(np.float32)
    embeddings.append([Row(key, key, 1, 1) for key in rows], vectors)
    embeddings.finish([])
    return folder


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Path]:
    """Five classes; dogs and puppies are nearly the same, and nobody shows the moon."""
    base = np.eye(16, dtype=np.float32)[:5]
    base[2] = base[1] + 0.02 * base[2]
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    prompts = tuple((label,) for label in LABELS)
    text = save_text(tmp_path / "text.npy", TextEmbeddings(base, LABELS, prompts, ("{}",), CARD))
    shown = {f"{number}.jpg": base[number % 4] for number in range(80)}
    labelled = tmp_path / "labelled"
    known = {}
    for label, number in (("cat", 0), ("dog", 1), ("fish", 3)):
        for copy in range(4):
            key = f"{label}/{copy}.jpg"
            path = labelled / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            # One fish in four looks like a cat.
            known[key] = base[0] if (label, copy) == ("fish", 0) else base[number]
    return {
        "embeddings": store(tmp_path / "emb", shown),
        "text": text,
        "labelled": labelled,
        "labelled_embeddings": store(tmp_path / "known", known),
    }


def test_the_ceiling_with_labels(world: dict[str, Path], tmp_path: Path) -> None:
    found = measure(**world)
    assert found.accuracy == pytest.approx(11 / 12)
    assert found.per_class == pytest.approx({"cat": 1.0, "dog": 1.0, "fish": 0.75})
    assert found.counts == {"cat": 20, "dog": 20, "puppy": 20, "fish": 20, "moon": 0}
    assert found.empty == ("moon",)
    assert [pair[:2] for pair in found.overlapping] == [("dog", "puppy")]
    assert found.overlapping[0][2] > 0.99
    assert (found.images, found.labelled_images) == (80, 12)
    save_measurement(tmp_path / "baseline.json", found)
    assert load_measurement(tmp_path / "baseline.json", Baseline) == found


def test_the_ceiling_without_labels_says_how_sure_the_teacher_is(world: dict[str, Path]) -> None:
    found = measure(world["embeddings"], world["text"], None, world["labelled_embeddings"])
    assert found.accuracy is None
    assert not found.labelled
    assert 0 < found.margin < found.confidence < 1
    text = "\n".join([sentence(found), *warnings(found)])
    assert "dog ~ puppy" in text
    assert "moon" in text
    assert "accuracy" not in text


def test_labels_apart_by_their_texts_that_the_pictures_blur(tmp_path: Path) -> None:
    base = np.eye(16, dtype=np.float32)[:3]
    prompts = tuple((label,) for label in "abc")
    classes = TextEmbeddings(base, ("a", "b", "c"), prompts, ("{}",), CARD)
    text = save_text(tmp_path / "text.npy", classes)
    rows = {f"{n}.jpg": base[0] + (0.99 + 0.001 * n) * base[1] for n in range(20)}
    rows |= {f"c{n}.jpg": base[2] for n in range(5)}
    rows = {key: vector / np.linalg.norm(vector) for key, vector in rows.items()}
    found = measure(store(tmp_path / "emb", rows), text, None, tmp_path)
    assert [pair[:2] for pair in found.overlapping] == [("a", "b")]
    assert not found.empty


def test_a_single_class_is_no_reason_to_fail(tmp_path: Path) -> None:
    base = np.eye(16, dtype=np.float32)[:1]
    classes = TextEmbeddings(base, ("a",), (("a",),), ("{}",), CARD)
    text = save_text(tmp_path / "text.npy", classes)
    found = measure(store(tmp_path / "emb", {"0.jpg": base[0]}), text, None, tmp_path)
    assert found.counts == {"a": 1}
    assert isinstance(found, Baseline)


def pictures(folder: Path, count: int) -> list[ImageItem]:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(b"x")
    return list_images(folder)


def test_pictures_that_are_added_move_none_that_were_held_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    (tmp_path / "out").mkdir()
    hold_out(pictures(tmp_path / "photos", 200), 0.2, 0, folder)
    first = {path.name for path in folder.holdout.iterdir()}
    assert 20 < len(first) < 60
    learnt = set(load_selection(folder.training_list))
    assert len(learnt) == 200 - len(first)
    assert not learnt & first
    hold_out(pictures(tmp_path / "photos", 300), 0.2, 0, folder)
    second = {path.name for path in folder.holdout.iterdir()}
    assert first < second
    assert not second & learnt
    hold_out(pictures(tmp_path / "photos", 300), 0.2, 1, folder)
    assert {path.name for path in folder.holdout.iterdir()} != second


def test_links_name_the_pictures_and_tars_are_copied(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "deep").mkdir(parents=True)
    (photos / "deep" / "a.jpg").write_bytes(b"a picture")
    with tarfile.open(photos / "some.tar", "w") as archive:
        for number in range(20):
            entry = tarfile.TarInfo(f"{number}.jpg")
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"%3d" % number))
    folder = RunFolder(tmp_path / "out")
    (tmp_path / "out").mkdir()
    everything = list_images(photos)
    for seed in range(30):  # until the one that is a file of its own is among them
        hold_out(everything, 0.5, seed, folder)
        held = list_images(folder.holdout)
        by_key = {item.key: item for item in everything}
        assert all(item.read() == by_key[item.key].read() for item in held)
        if (folder.holdout / "deep" / "a.jpg").exists():
            assert os.path.islink(folder.holdout / "deep" / "a.jpg")
            return
    pytest.fail("never held out")


def test_a_tar_that_is_cut_short_is_not_held_out_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with tarfile.open(tmp_path / "photos/some.tar", "w") as archive:
        for number in range(20):
            entry = tarfile.TarInfo(f"{number}.jpg")
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"%3d" % number))
    whole = (tmp_path / "photos/some.tar").read_bytes()
    (tmp_path / "photos/some.tar").write_bytes(whole[: 20 * 1024 - 511])
    everything = list_images(tmp_path / "photos")
    assert "some.tar" in {item.key for item in everything}
    folder = RunFolder(tmp_path / "out")
    (tmp_path / "out").mkdir()
    for seed in range(10):
        hold_out(everything, 0.5, seed, folder)
        held = {item.key for item in list_images(folder.holdout)}
        trained = set(folder.training_list.read_text().split())
        assert held
        assert not held & trained


def test_one_picture_is_too_few_to_hold_any_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(InputError, match="Too few images to hold some out: 1"):
        hold_out(pictures(tmp_path / "photos", 1), 0.1, 0, folder)

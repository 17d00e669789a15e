"""Embeddings on disk: both layouts, other programs' folders, damage, and kills."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import killing
from clipdistill.core.errors import FormatError, InputError, MismatchError, OutputError
from clipdistill.core.zeroshot import LogitScale, normalized
from clipdistill.formats.cards import TeacherCard
from clipdistill.formats.embeddings import (
    EmbeddingStore,
    Failure,
    Header,
    Row,
    load_embeddings,
    match_rows,
    npy_path,
    read_header,
    unit_vectors,
)
from clipdistill.images.preprocess import Preprocess

DIM = 8
TEACHER = TeacherCard("ViT-X", "tag", "a" * 32, DIM, LogitScale(50.0, -2.0), Preprocess(32))
LAYOUTS = ("clip-retrieval", "npy")


def header(layout="clip-retrieval", dtype="float32", teacher=TEACHER):
    return Header(teacher, layout, dtype, normalized=True)


def rows(*names: str, content: str = "c") -> list[Row]:
    return [Row(name, f"{content}-{name}", 10, 99) for name in names]


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return normalized(np.random.default_rng(seed).normal(size=(count, DIM)))


def filled(root: Path, layout: str = "clip-retrieval", dtype: str = "float32") -> EmbeddingStore:
    store = EmbeddingStore(root, header(layout, dtype))
    store.append(rows("a.jpg", "sub/b.png"), vectors(2))
    store.append(rows("c.jpg"), vectors(1, seed=1))
    store.finish([Failure("bad.jpg", "the file is empty")])
    return store


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip(tmp_path, layout):
    filled(tmp_path, layout)
    found = load_embeddings(tmp_path)
    assert found.header == header(layout)
    assert found.teacher == TEACHER
    assert found.rows == rows("a.jpg", "sub/b.png", "c.jpg")
    assert np.array_equal(found.vectors, np.concatenate([vectors(2), vectors(1, seed=1)]))
    assert found.by_image() == {"a.jpg": 0, "sub/b.png": 1, "c.jpg": 2}
    [failure] = map(json.loads, (tmp_path / "failures.jsonl").read_text().splitlines())
    assert failure == {"image_path": "bad.jpg", "reason": "the file is empty"}
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert (meta["rows"], meta["failures"]) == (3, 1)


def test_float16_is_stored_as_float16_and_stays_near(tmp_path):
    filled(tmp_path, dtype="float16")
    found = load_embeddings(tmp_path)
    assert found.vectors.dtype == np.float16
    assert np.allclose(unit_vectors(found)[:2], vectors(2), atol=1e-3)


def test_layout_npy_names_files_as_the_images(tmp_path):
    filled(tmp_path, "npy")
    assert np.array_equal(np.load(tmp_path / "sub/b.npy"), vectors(2)[1])
    assert np.load(tmp_path / "a.npy").dtype == np.float32
    assert npy_path(tmp_path, "x.y.jpg").name == "x.y.npy"


def test_clip_retrievals_own_names(tmp_path):
    filled(tmp_path)
    assert sorted(path.name for path in (tmp_path / "img_emb").iterdir()) == [
        "img_emb_0.npy",
        "img_emb_1.npy",
    ]
    table = pyarrow.parquet.read_table(tmp_path / "metadata/metadata_0.parquet")
    assert table.column("image_path").to_pylist() == ["a.jpg", "sub/b.png"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_appending_after_the_end(tmp_path, layout):
    filled(tmp_path, layout)
    store = EmbeddingStore(tmp_path, header(layout))
    assert stored_rows(store) == rows("a.jpg", "sub/b.png", "c.jpg")
    store.append(rows("d.jpg"), vectors(1, seed=2))
    store.finish([])
    found = load_embeddings(tmp_path)
    assert [row.image_path for row in found.rows] == ["a.jpg", "sub/b.png", "c.jpg", "d.jpg"]
    assert np.array_equal(found.vectors[3:], vectors(1, seed=2))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_later_row_of_an_image_wins(tmp_path, layout):
    store = filled(tmp_path, layout)
    store.append(rows("a.jpg", content="new"), vectors(1, seed=5))
    found = load_embeddings(tmp_path)
    assert len(found.rows) == 3
    index = found.by_image()["a.jpg"]
    assert found.rows[index].content == "new-a.jpg"
    assert np.array_equal(found.vectors[index], vectors(1, seed=5)[0])
    assert np.array_equal(found.vectors[found.by_image()["c.jpg"]], vectors(1, seed=1)[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strange_names_survive(tmp_path, layout):
    names = ["a b.jpg", "ünï/Ж.png", "line\nbreak.jpg", "caf\\xe9.jpg", "emoji 🐟.gif"]
    store = EmbeddingStore(tmp_path, header(layout))
    store.append(rows(*names), vectors(len(names)))
    store.finish([Failure(name, "because") for name in names])
    found = load_embeddings(tmp_path)
    assert [row.image_path for row in found.rows] == names
    assert np.array_equal(found.vectors, vectors(len(names)))


def test_ten_and_more_shards_stay_in_order(tmp_path):
    store = EmbeddingStore(tmp_path, header())
    for index in range(12):
        store.append(rows(f"{index}.jpg"), vectors(1, seed=index))
    found = load_embeddings(tmp_path)
    assert [row.image_path for row in found.rows] == [f"{index}.jpg" for index in range(12)]
    assert np.array_equal(found.vectors, np.concatenate([vectors(1, seed=i) for i in range(12)]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "other",
    [
        replace(TEACHER, fingerprint="b" * 32),
        replace(TEACHER, dim=16),
        replace(TEACHER, dim=16, fingerprint=None),
    ],
)
def test_another_teacher_is_refused_and_nothing_is_touched(tmp_path, layout, other):
    filled(tmp_path, layout)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(MismatchError, match=r"same embedding space. Make both with the same"):
        EmbeddingStore(tmp_path, header(layout, teacher=other))
    (tmp_path / "meta.json").rename(tmp_path / "hidden")  # as after a kill: rows, but no card
    with pytest.raises(MismatchError, match="same embedding space"):
        EmbeddingStore(tmp_path, header(layout, teacher=other))
    (tmp_path / "hidden").rename(tmp_path / "meta.json")
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_another_layout_or_precision_is_refused(tmp_path):
    filled(tmp_path)
    for changed in (header("npy"), header(dtype="float16")):
        with pytest.raises(MismatchError, match="Use the same options, or another"):
            EmbeddingStore(tmp_path, changed)


def test_a_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="in the way"):
        EmbeddingStore(tmp_path / "out", header())


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: there is no such folder .* clipdistill embed"):
        load_embeddings(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no embeddings in it. .* clipdistill embed"):
        load_embeddings(tmp_path)
    assert read_header(tmp_path) is None


# Kills.  A process that dies between two writes leaves what is made here by hand; one test kills.


@pytest.mark.parametrize("layout", LAYOUTS)
def test_killed_between_vectors_and_rows(tmp_path, layout):
    filled(tmp_path, layout)
    (tmp_path / "meta.json").unlink()
    last = {"clip-retrieval": 1, "npy": 2}[layout]
    (tmp_path / f"metadata/metadata_{last}.parquet").unlink()
    found = load_embeddings(tmp_path)
    assert [row.image_path for row in found.rows] == ["a.jpg", "sub/b.png"]
    store = EmbeddingStore(tmp_path, header(layout))
    names = {row.image_path for row in stored_rows(store)}
    todo = [name for name in ("a.jpg", "sub/b.png", "c.jpg") if name not in names]
    store.append(rows(*todo), vectors(len(todo), seed=8))
    store.finish([])
    found = load_embeddings(tmp_path)
    assert sorted(row.image_path for row in found.rows) == ["a.jpg", "c.jpg", "sub/b.png"]
    assert np.array_equal(found.vectors[found.by_image()["c.jpg"]], vectors(len(todo), seed=8)[-1])


def stored_rows(store: EmbeddingStore) -> list[Row]:
    return [row for _, part in store.rows() for row in part]


def append_some(root: Path, layout: str) -> None:
    store = EmbeddingStore(root, header(layout))
    for index in range(store.count, 400, 4):
        names = [f"{number}.jpg" for number in range(index, index + 4)]
        store.append(rows(*names), np.full((4, DIM), index, dtype=np.float32))
    store.finish([])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_killed_at_any_moment_and_continued(tmp_path, layout):
    kills = 0
    while killing.killed_when(killing.after(0.25 + 0.1 * kills), append_some, tmp_path, layout):
        kills += 1
        if (tmp_path / "metadata").is_dir() and any((tmp_path / "metadata").glob("[!.]*")):
            EmbeddingStore(tmp_path, header(layout))
    found = load_embeddings(tmp_path)
    assert kills >= 1
    assert [row.image_path for row in found.rows] == [f"{index}.jpg" for index in range(400)]
    expected = np.repeat(np.arange(0, 400, 4), 4)
    assert np.array_equal(found.vectors[:, 0], expected)


def test_layout_npy_killed_in_its_first_shard_can_go_on(tmp_path, monkeypatch):
    store = EmbeddingStore(tmp_path, header("npy"))

    def die(self: EmbeddingStore, number: int, shard: list[Row]) -> None:
        if shard:
            raise KeyboardInterrupt
        real(self, number, shard)

    real = EmbeddingStore._write_shard
    monkeypatch.setattr(EmbeddingStore, "_write_shard", die)
    with pytest.raises(KeyboardInterrupt):
        store.append(rows("a.jpg", "b.jpg"), vectors(2))
    monkeypatch.undo()
    assert (tmp_path / "a.npy").is_file()
    with pytest.raises(InputError, match=r"no embeddings in it yet. Run the same"):
        load_embeddings(tmp_path)
    with pytest.raises(MismatchError):
        EmbeddingStore(tmp_path, header("npy", teacher=replace(TEACHER, fingerprint="0" * 32)))
    store = EmbeddingStore(tmp_path, header("npy"))
    store.append(rows("a.jpg", "b.jpg"), vectors(2))
    assert len(load_embeddings(tmp_path).rows) == 2


# Damage.


@pytest.mark.parametrize("cut", [0, 1, 60, 130])
def test_truncated_vectors(tmp_path, cut):
    filled(tmp_path)
    path = tmp_path / "img_emb/img_emb_0.npy"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FormatError, match=r"img_emb_0\.npy.*Delete it and .*metadata_0\.parquet.*"):
        load_embeddings(tmp_path)


def test_missing_vectors(tmp_path):
    filled(tmp_path)
    (tmp_path / "img_emb/img_emb_1.npy").unlink()
    with pytest.raises(FormatError, match=r"img_emb_1\.npy: no such file. Delete it and"):
        load_embeddings(tmp_path)


def test_the_advice_for_a_damaged_shard_works(tmp_path):
    filled(tmp_path)
    for path in ("img_emb/img_emb_0.npy", "metadata/metadata_0.parquet"):
        (tmp_path / path).unlink()
    store = EmbeddingStore(tmp_path, header())
    assert stored_rows(store) == rows("c.jpg")
    store.append(rows("a.jpg", "sub/b.png"), vectors(2))
    assert len(load_embeddings(tmp_path).rows) == 3


@pytest.mark.parametrize("cut", [0, 3, 100, -1])
def test_truncated_rows(tmp_path, cut):
    filled(tmp_path)
    path = tmp_path / "metadata/metadata_0.parquet"
    path.write_bytes(path.read_bytes()[:cut])
    for load in (load_embeddings, lambda root: EmbeddingStore(root, header())):
        with pytest.raises(FormatError, match=r"metadata_0\.parquet.*Delete it and run"):
            load(tmp_path)


def test_vectors_that_do_not_fit_their_rows(tmp_path):
    filled(tmp_path)
    for wrong in (vectors(3), vectors(2)[:, :4], np.zeros((2, DIM), dtype=np.int64), np.zeros(2)):
        np.save(tmp_path / "img_emb/img_emb_0.npy", wrong)
        with pytest.raises(FormatError, match=r"expected floats \(2, 8\), found"):
            load_embeddings(tmp_path)


def test_an_array_of_objects_is_never_unpickled(tmp_path):
    filled(tmp_path)
    np.save(tmp_path / "img_emb/img_emb_0.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match="img_emb_0"):
        load_embeddings(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_name_their_image(tmp_path, layout, value):
    filled(tmp_path, layout)
    path = tmp_path / ("sub/b.npy" if layout == "npy" else "img_emb/img_emb_0.npy")
    array = np.load(path)
    array[-1:] = value
    np.save(path, array)
    with pytest.raises(FormatError, match=r"'sub/b\.png' is not finite .*clipdistill embed"):
        load_embeddings(tmp_path)


def test_newer_version(tmp_path):
    filled(tmp_path)
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "version": 3}))
    with pytest.raises(FormatError, match=r"meta\.json.*version 3 is newer.*Update clipdistill"):
        load_embeddings(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "something"}'])
def test_a_card_that_cannot_be_read(tmp_path, text):
    filled(tmp_path)
    (tmp_path / "meta.json").write_text(text)
    for load in (load_embeddings, lambda root: EmbeddingStore(root, header())):
        with pytest.raises(FormatError, match=r"meta\.json"):
            load(tmp_path)


@pytest.mark.parametrize("change", [{"teacher": None}, {"layout": "x"}, {"dtype": "float8"}])
def test_a_card_with_a_wrong_field_names_the_file(tmp_path, change):
    filled(tmp_path)
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({**meta, **change}))
    with pytest.raises(FormatError, match=r"meta\.json"):
        load_embeddings(tmp_path)


# Other programs' folders.


def clip_retrieval_folder(root: Path, images: Path, counts: list[int], digits: int = 1) -> None:
    """What clip-retrieval's writer leaves: padded numbers, whole paths, columns of its own."""
    number = 0
    for shard, count in enumerate(counts):
        padded = str(shard).zfill(digits)
        (root / "img_emb").mkdir(parents=True, exist_ok=True)
        (root / "metadata").mkdir(exist_ok=True)
        np.save(root / f"img_emb/img_emb_{padded}.npy", vectors(count, shard).astype(np.float16))
        names = [f"{images}/{index}.jpg" for index in range(number, number + count)]
        table = pyarrow.table({"image_path": names, "size": ["big"] * count})
        pyarrow.parquet.write_table(table, root / f"metadata/metadata_{padded}.parquet")
        number += count


@pytest.mark.parametrize("digits", [1, 2, 5])
def test_a_folder_of_clip_retrieval(tmp_path, digits):
    clip_retrieval_folder(tmp_path / "emb", Path("/data/photos"), [3, 2], digits)
    found = load_embeddings(tmp_path / "emb")
    assert found.vectors.shape == (5, DIM)
    assert found.teacher.fingerprint is None
    assert found.teacher.dim == DIM
    assert found.header.normalized
    assert found.rows[4] == Row("/data/photos/4.jpg", "", 0, 0)
    assert match_rows(found, ["4.jpg", "0.jpg", "9.jpg"]) == {"4.jpg": 4, "0.jpg": 0}


def test_the_end_of_a_stored_path_has_to_be_the_only_one(tmp_path):
    (tmp_path / "emb").mkdir()
    clip_retrieval_folder(tmp_path / "emb", Path("x"), [1, 1])
    table = pyarrow.table({"image_path": ["/p/a/1.jpg", "/p/b/1.jpg"]})
    for path in (tmp_path / "emb").rglob("*_1.*"):
        path.unlink()
    np.save(tmp_path / "emb/img_emb/img_emb_0.npy", vectors(2))
    pyarrow.parquet.write_table(table, tmp_path / "emb/metadata/metadata_0.parquet")
    found = load_embeddings(tmp_path / "emb")
    assert match_rows(found, ["1.jpg"]) == {}
    assert match_rows(found, ["b/1.jpg", "a/1.jpg"]) == {"b/1.jpg": 1, "a/1.jpg": 0}
    assert match_rows(found, ["/p/a/1.jpg"]) == {"/p/a/1.jpg": 0}


def test_ours_are_not_added_to_a_foreign_folder(tmp_path):
    clip_retrieval_folder(tmp_path, Path("/data"), [3])
    with pytest.raises(
        MismatchError, match=r"without a card that names their teacher.*another output"
    ):
        EmbeddingStore(tmp_path, header())


def test_the_older_scripts_folder(tmp_path):
    images = ["a.jpg", "sub/b.c.png", "two.dots.here.jpeg"]
    for name, vector in zip(["a", "sub/b", "two"], vectors(3), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / f"{name}.npy", vector)  # they cut a name at its first dot
    found = load_embeddings(tmp_path)
    assert found.header.layout == "npy"
    assert found.teacher.dim == DIM
    matched = match_rows(found, [*images, "other.jpg"])
    assert set(matched) == set(images)
    for name, vector in zip(images, vectors(3), strict=True):
        assert np.array_equal(found.vectors[matched[name]], vector)


def test_names_with_dots_are_not_confused(tmp_path):
    for name, vector in zip(["a", "a.b", "a.b.c"], vectors(3), strict=True):
        np.save(tmp_path / f"{name}.npy", vector)
    found = load_embeddings(tmp_path)
    matched = match_rows(found, ["a.jpg", "a.b.jpg", "a.b.c.jpg"])
    for name, vector in zip(["a.jpg", "a.b.jpg", "a.b.c.jpg"], vectors(3), strict=True):
        assert np.array_equal(found.vectors[matched[name]], vector)


def test_ours_are_not_added_to_the_older_scripts_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    np.save(tmp_path / "sub/a.npy", vectors(1)[0])
    for layout in LAYOUTS:
        with pytest.raises(MismatchError, match="without a card that names their teacher"):
            EmbeddingStore(tmp_path, header(layout))


@pytest.mark.parametrize("wrong", [np.zeros(4), np.zeros((2, DIM)), np.zeros(()), np.array(["x"])])
def test_a_bare_folder_with_something_else_in_it(tmp_path, wrong):
    np.save(tmp_path / "a.npy", vectors(1)[0])
    np.save(tmp_path / "b.npy", wrong)
    with pytest.raises(FormatError, match=r"b\.npy: expected one vector of 8 floats"):
        load_embeddings(tmp_path)

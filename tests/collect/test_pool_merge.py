"""pool merge: the merged pool gives what one folder gives; what does not belong is refused."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from clipdistill.collect.pool import open_pool
from clipdistill.collect.pool_merge import pool_merge
from clipdistill.core.errors import FormatError, InputError, MismatchError, OptionError, OutputError
from clipdistill.core.zeroshot import LogitScale, normalized
from clipdistill.formats.cards import TeacherCard
from clipdistill.formats.embeddings import EmbeddingStore, Header, Row, load_embeddings
from clipdistill.images.preprocess import Preprocess

TEACHER = TeacherCard("ViT-X", "tag", "f" * 32, 24, LogitScale(), Preprocess(32))


def numbers(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 24)).astype(np.float16)


def write(root, parts, *, teacher=TEACHER, first=0, finish=True, content="{:032x}"):
    """Write arrays as `embed` does, with images numbered from `first` on."""
    store = EmbeddingStore(root, Header(teacher, "clip-retrieval", "float16", False))
    for vectors in parts:
        names = range(first, first + len(vectors))
        store.append([Row(f"{n}.jpg", content.format(n + 1), 1, 2) for n in names], vectors)
        first += len(vectors)
    if finish:
        store.finish([])
    return root


def write_foreign(root, vectors, names):
    """Write one shard as clip-retrieval does."""
    for folder in ("img_emb", "metadata"):
        (root / folder).mkdir(parents=True)
    np.save(root / "img_emb/img_emb_0.npy", vectors)
    table = pyarrow.table({"image_path": names, "url": [f"https://e.org/{n}" for n in names]})
    pyarrow.parquet.write_table(table, root / "metadata/metadata_0.parquet")
    return root


@pytest.fixture
def folders(tmp_path):
    """333 images in one folder, and the same ones in three of several uneven shards."""
    every = numbers(0, 333)
    every[200] = every[7]  # equal scores: the lower row comes first
    write(tmp_path / "one", [every])
    bounds = (0, 10, 75, 140, 141, 300, 333)
    pieces = [every[a:b] for a, b in itertools.pairwise(bounds)]
    write(tmp_path / "a", pieces[:2])
    write(tmp_path / "b", pieces[2:3], first=75)
    write(tmp_path / "c", pieces[3:], first=140)
    return tmp_path


def merge(root):
    return pool_merge(root / "all", root / "a", root / "b", root / "c")


def test_the_merged_pool_gives_what_one_folder_gives(folders) -> None:
    result = merge(folders)
    assert (result.folders, result.shards, result.images, result.repeated) == (3, 6, 333, 0)
    assert not list((folders / "all").rglob("*.npy"))
    one, merged = open_pool(folders / "one"), open_pool(folders / "all")
    queries = normalized(numbers(1, 40).astype(np.float32))
    expected = one.search(queries, 50, workers=1)
    for workers, chunk in ((1, 1024), (3, 64), (5, 16)):
        found = merged.search(queries, 50, workers=workers, chunk_rows=chunk)
        assert np.array_equal(found.rows, expected.rows)
        assert found.scores.tobytes() == expected.scores.tobytes()
    assert merged.metadata([0, 150, 332]) == one.metadata([0, 150, 332])
    mine, theirs = load_embeddings(folders / "all"), load_embeddings(folders / "one")
    assert mine.rows == theirs.rows
    assert mine.vectors.tobytes() == theirs.vectors.tobytes()
    assert mine.mapped[[332, 0, 80]].tobytes() == theirs.vectors[[332, 0, 80]].tobytes()


def test_a_merged_pool_is_merged_again_and_moved(folders) -> None:
    pool_merge(folders / "ab", folders / "a", folders / "b", prefix=["x/", ""])
    pool_merge(folders / "sub/all", folders / "ab", folders / "c", prefix=["y", ""])
    shutil.move(folders, folders.with_name("elsewhere"))
    pool = open_pool(folders.with_name("elsewhere") / "sub/all")
    assert pool.find(["y/x/3.jpg", "y/80.jpg", "140.jpg", "3.jpg"]).tolist() == [3, 80, 140, -1]
    assert [row.image_path for row in pool.metadata([3, 140])] == ["y/x/3.jpg", "140.jpg"]
    rows = load_embeddings(pool.root).rows
    assert (rows[3].image_path, rows[80].image_path) == ("y/x/3.jpg", "y/80.jpg")


def test_an_image_of_two_folders_counts_once(folders) -> None:
    write(folders / "d", [numbers(5, 20)], first=323)
    result = pool_merge(folders / "all", folders / "c", folders / "d")
    assert (result.images, result.repeated) == (193 + 10, 10)
    assert len(open_pool(folders / "all")) == len(load_embeddings(folders / "all").rows) == 203


def test_different_images_of_one_name_need_a_prefix(folders) -> None:
    write(folders / "d", [numbers(5, 4)], content="{:031x}f")
    with pytest.raises(MismatchError, match=r"different images of the name '\d\.jpg'.*--prefix"):
        pool_merge(folders / "all", folders / "a", folders / "d")
    assert not (folders / "all").exists()
    pool_merge(folders / "all", folders / "a", folders / "d", prefix=["", "d"])
    assert len(open_pool(folders / "all")) == 75 + 4


def test_an_image_that_was_embedded_again_is_no_conflict(folders) -> None:
    write(folders / "d", [numbers(5, 4)], content="{:031x}f")
    write(folders / "d", [numbers(6, 4)])
    assert pool_merge(folders / "all", folders / "a", folders / "d").repeated == 4


def test_pools_of_others_can_be_merged(tmp_path) -> None:
    write_foreign(tmp_path / "a", numbers(0, 5), [f"/x/{n}.jpg" for n in range(5)])
    write_foreign(tmp_path / "b", numbers(1, 3), [f"/x/{n}.jpg" for n in range(3)])
    result = pool_merge(tmp_path / "all", tmp_path / "a", tmp_path / "b")
    assert (result.images, result.teacher) == (8, "unknown")
    pool = open_pool(tmp_path / "all")
    assert len(pool) == 8
    assert pool.metadata([6])[0].url == "https://e.org//x/1.jpg"
    assert load_embeddings(tmp_path / "all").header.teacher.dim == 24
    write(tmp_path / "ours", [numbers(2, 5)])
    with pytest.raises(MismatchError, match="does not name its teacher"):
        pool_merge(tmp_path / "all", tmp_path / "a", tmp_path / "ours")


def test_a_folder_that_changed_is_refused_until_it_is_merged_again(folders) -> None:
    merge(folders)
    write(folders / "b", [numbers(9, 2)], first=900)
    for reading in (open_pool, load_embeddings):
        with pytest.raises(MismatchError, match="b has changed since: it had the shards 0, and"):
            reading(folders / "all")
    merge(folders)
    assert len(open_pool(folders / "all")) == 335
    shutil.rmtree(folders / "b")
    with pytest.raises(InputError, match=r"b is not there\. Move it back"):
        open_pool(folders / "all")
    write(folders / "b", [numbers(3, 65)], first=400)
    write(folders / "b", [numbers(9, 2)], first=900)
    with pytest.raises(MismatchError, match="shard 0 was written again"):
        open_pool(folders / "all")


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (lambda a: (a / "meta.json").unlink(), InputError, "is unfinished"),
        (lambda a: shutil.rmtree(a), InputError, "no such folder"),
        (lambda a: (a / "img_emb/img_emb_1.npy").unlink(), FormatError, "img_emb_1.npy"),
        (
            lambda a: (a / "metadata/metadata_1.parquet").write_bytes(b"PAR1"),
            FormatError,
            "metadata_1.parquet: not a readable parquet",
        ),
        (
            lambda a: (a / "img_emb/img_emb_1.npy").write_bytes(
                (a / "img_emb/img_emb_1.npy").read_bytes()[:-5]
            ),
            FormatError,
            "truncated",
        ),
    ],
)
def test_half_written_folders_are_refused(folders, spoil, kind, words) -> None:
    spoil(folders / "a")
    with pytest.raises(kind, match=words):
        merge(folders)
    assert not (folders / "all").exists()


def test_other_teachers_and_options_are_refused(folders) -> None:
    other = replace(TEACHER, model_name="ViT-Y", fingerprint="e" * 32)
    write(folders / "d", [numbers(0, 3)], teacher=other)
    with pytest.raises(MismatchError, match="ViT-Y"):
        pool_merge(folders / "all", folders / "a", folders / "d")
    for name, header in {
        "e": Header(TEACHER, "clip-retrieval", "float32", False),
        "f": Header(TEACHER, "npy", "float32", False),
    }.items():
        store = EmbeddingStore(folders / name, header)
        store.append([Row("1.jpg", "", 1, 1)], numbers(0, 1))
        store.finish([])
        with pytest.raises(MismatchError, match=r"dtype|layout npy"):
            pool_merge(folders / "all", folders / "a", folders / name)


def test_shards_of_two_teachers_in_one_folder_are_refused(folders) -> None:
    other = replace(TEACHER, model_name="ViT-Y", fingerprint="e" * 32)
    write(folders / "d", [numbers(0, 3)], teacher=other)
    for folder, name in (("img_emb", "img_emb_{}.npy"), ("metadata", "metadata_{}.parquet")):
        shutil.copy(
            folders / "d" / folder / name.format(0), folders / "a" / folder / name.format(2)
        )
    for reading in (open_pool, load_embeddings):
        with pytest.raises(MismatchError, match=r"metadata_2.parquet was made with .*ViT-Y.*mixed"):
            reading(folders / "a")


def test_a_half_written_shard_of_others_is_refused(tmp_path) -> None:
    write_foreign(tmp_path / "a", numbers(0, 5), [f"/x/{n}.jpg" for n in range(5)])
    np.save(tmp_path / "a/img_emb/img_emb_1.npy", numbers(1, 5))
    for reading in (open_pool, load_embeddings):
        with pytest.raises(FormatError, match=r"img_emb_1.npy: its rows are missing.*half-written"):
            reading(tmp_path / "a")


def test_wrong_arguments(folders) -> None:
    with pytest.raises(OptionError, match="Expected folders"):
        pool_merge(folders / "all")
    with pytest.raises(OptionError, match="one for each of 2 folders, found 1"):
        pool_merge(folders / "all", folders / "a", folders / "b", prefix=["x"])
    with pytest.raises(OptionError, match="named twice"):
        pool_merge(folders / "all", folders / "a", folders / "a")
    with pytest.raises(OptionError, match="is the output and one of"):
        pool_merge(folders / "a", folders / "a", folders / "b")
    with pytest.raises(OutputError, match="embeddings of its own"):
        pool_merge(folders / "c", folders / "a")
    merge(folders)
    with pytest.raises(MismatchError, match="merged of other folders"):
        EmbeddingStore(folders / "all", Header(TEACHER, "clip-retrieval", "float16", False))
    card = json.loads((folders / "all/meta.json").read_bytes())
    (folders / "all/meta.json").write_text(json.dumps(card | {"merged": [{"folder": "a"}]}))
    with pytest.raises(FormatError, match="list of merged folders is damaged"):
        open_pool(folders / "all")

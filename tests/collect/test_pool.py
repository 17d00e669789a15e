"""Pools: exact search against brute force, whoever wrote them, in bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdistill.collect.pool import open_pool, teacher_names
from clipdistill.core.errors import FormatError, InputError, MismatchError
from clipdistill.core.zeroshot import LogitScale, normalized
from clipdistill.formats.cards import TeacherCard
from clipdistill.formats.embeddings import EmbeddingStore, Header, Row
from clipdistill.images.preprocess import Preprocess


def card(dim: int, fingerprint: str | None = "f" * 32) -> TeacherCard:
    return TeacherCard("ViT-X", "tag", fingerprint, dim, LogitScale(), Preprocess(32))


def write_store(root, shards, *, dtype="float16", unit=True, layout="clip-retrieval", names=None):
    """Write arrays as `embed` does; `names` are the images', by shard."""
    header = Header(card(shards[0].shape[1]), layout, dtype, unit)
    store = EmbeddingStore(root, header)
    for number, vectors in enumerate(shards):
        mine = names[number] if names else [f"{number}/{i}.jpg" for i in range(len(vectors))]
        store.append([Row(name, "c", 1, 2) for name in mine], vectors)
    store.finish([])
    return root


def write_foreign(root, shards, *, columns=None, padded="{:04d}"):
    """Write arrays and metadata as clip-retrieval does."""
    for folder in ("img_emb", "metadata"):
        (root / folder).mkdir(parents=True)
    start = 0
    for number, vectors in enumerate(shards):
        name = padded.format(number)
        np.save(root / f"img_emb/img_emb_{name}.npy", vectors)
        table = {
            "image_path": [f"/data/set/{start + i:06d}.jpg" for i in range(len(vectors))],
            "caption": [f"caption {start + i}" for i in range(len(vectors))],
            "url": [f"https://example.org/{start + i}.jpg" for i in range(len(vectors))],
            "similarity": [float(i) for i in range(len(vectors))],
        }
        table = table if columns is None else {name: table[name] for name in columns}
        pyarrow.parquet.write_table(
            pyarrow.table(table), root / f"metadata/metadata_{name}.parquet", row_group_size=7
        )
        start += len(vectors)
    return root


def brute_force(stored: np.ndarray, queries: np.ndarray, k: int):
    """All scores in float64; NaN rows last, ties to the lower row."""
    with np.errstate(all="ignore"):
        rows = stored.astype(np.float64)
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    scores = queries.astype(np.float64) @ rows.T
    scores[:, ~np.isfinite(stored).all(axis=1)] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order, scores


def random_vectors(seed: int, n: int, dim: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def check_same(found, expected, every):
    """Scores as by brute force; rows too, wherever scores are not a rounding apart."""
    scores, rows, _ = expected
    assert found.scores.shape == found.rows.shape == rows.shape
    assert found.scores.dtype == np.float32
    assert found.rows.dtype == np.int64
    assert np.allclose(found.scores, scores, atol=2e-6)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert np.allclose(np.take_along_axis(every, found.rows, 1), scores, atol=2e-6)
    for line in found.rows:
        assert len(set(line.tolist())) == len(line)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 80),
    st.sampled_from(["float16", "float32", "float64", "fortran"]),
    st.integers(1, 64),
    st.integers(1, 3),
    st.integers(0, 1000),
)
def test_equals_brute_force(tmp_path_factory, sizes, dim, nq, k, dtype, chunk, workers, seed):
    root = tmp_path_factory.mktemp("pool")
    every = random_vectors(seed, sum(sizes), dim) * 3
    stored = every.astype("float32" if dtype == "fortran" else dtype)
    shards = np.split(stored, np.cumsum(sizes)[:-1])
    if dtype == "fortran":
        shards = [np.asfortranarray(shard) for shard in shards]
    pool = open_pool(write_foreign(root, shards))
    queries = normalized(random_vectors(seed + 1, nq, dim))
    expected = brute_force(stored, queries, k)
    for _ in range(2):  # the second time the lengths are known
        found = pool.search(queries, k, workers=workers, chunk_rows=chunk)
        check_same(found, expected, expected[2])
    assert (len(pool), pool.dim, pool.stored, pool.broken) == (sum(sizes), dim, sum(sizes), 0)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 120),
    st.integers(1, 6),
    st.integers(1, 130),
    st.integers(1, 50),
    st.integers(1, 3),
    st.integers(0, 1000),
)
def test_ties_go_to_the_lower_row(tmp_path_factory, n, different, k, chunk, workers, seed):
    """Vectors of one entry have exact scores, so rows are compared one by one."""
    random = np.random.default_rng(seed)
    stored = np.eye(8, dtype=np.float16)[random.integers(0, different, n)]
    cut = int(random.integers(1, n))
    pool = open_pool(write_foreign(tmp_path_factory.mktemp("pool"), [stored[:cut], stored[cut:]]))
    queries = np.eye(8, dtype=np.float32)[:3]
    found = pool.search(queries, k, workers=workers, chunk_rows=chunk)
    scores, rows, _ = brute_force(stored, queries, k)
    assert np.array_equal(found.rows, rows)
    assert np.array_equal(found.scores, scores.astype(np.float32))


def test_the_same_vector_has_the_same_score_wherever_it_stands(tmp_path):
    one = random_vectors(1, 1, 512)
    stored = np.repeat(one, 3000, axis=0).astype(np.float16)
    pool = open_pool(write_foreign(tmp_path / "p", [stored[:1234], stored[1234:]]))
    queries = normalized(random_vectors(2, 5, 512))
    found = pool.search(queries, 50, workers=2)
    assert np.array_equal(found.rows, np.tile(np.arange(50), (5, 1)))


def test_more_queries_than_fit_one_pass(tmp_path, monkeypatch):
    monkeypatch.setattr("clipdistill.collect.pool.QUERIES_AT_ONCE", 3)
    stored = random_vectors(3, 50, 8)
    pool = open_pool(write_foreign(tmp_path / "p", [stored]))
    queries = normalized(random_vectors(4, 10, 8))
    expected = brute_force(stored, queries, 5)
    check_same(pool.search(queries, 5), expected, expected[2])
    monkeypatch.setattr("clipdistill.collect.pool.FOUND_AT_ONCE", 1)
    check_same(pool.search(queries, 5), expected, expected[2])


def test_the_larger_k_the_smaller_one_is_its_beginning(tmp_path):
    pool = open_pool(write_foreign(tmp_path / "p", [random_vectors(5, 5000, 16)]))
    queries = normalized(random_vectors(6, 2, 16))
    whole = pool.search(queries, 5000)
    assert whole.rows.shape == (2, 5000)
    assert np.array_equal(pool.search(queries, 100).rows, whole.rows[:, :100])


def test_rows_of_images_that_changed_are_never_found(tmp_path):
    old, new = random_vectors(1, 6, 8), random_vectors(2, 3, 8)
    names = [["a", "b", "c", "d", "e", "f"], ["c", "x", "a"]]
    root = write_store(tmp_path / "p", [normalized(old), normalized(new)], names=names)
    pool = open_pool(root)
    assert (len(pool), pool.stored, pool.broken) == (7, 9, 0)
    found = pool.search(normalized(old), 9)
    assert found.rows.shape == (6, 7)
    assert not {0, 2} & set(found.rows.ravel().tolist())
    streamed = np.concatenate([rows for rows, _ in pool.blocks()])
    assert streamed.tolist() == [1, 3, 4, 5, 6, 7, 8]
    assert dict(pool.names()) == dict(zip([1, 3, 4, 5, 6, 7, 8], "bdefcxa", strict=True))
    assert pool.rows_of(["a", "b", "nothing"]) == {"a": 8, "b": 1}


def test_an_image_that_changed_three_times(tmp_path):
    shards = [normalized(random_vectors(seed, 2, 4)) for seed in range(3)]
    root = write_store(tmp_path / "p", shards, names=[["a", "b"], ["a", "c"], ["b", "a"]])
    assert dict(open_pool(root).names()) == {3: "c", 4: "b", 5: "a"}


def test_an_image_that_stands_twice_in_one_shard(tmp_path):
    stored = normalized(random_vectors(1, 3, 4))
    root = write_store(tmp_path / "p", [stored], names=[["a", "b", "a"]])
    assert dict(open_pool(root).names()) == {1: "b", 2: "a"}


def test_names_in_foreign_pools_may_repeat(tmp_path):
    """Two tars may both have a 000.jpg: those are two images."""
    root = write_foreign(tmp_path / "p", [random_vectors(1, 3, 4), random_vectors(2, 3, 4)])
    for number in ("0000", "0001"):
        pyarrow.parquet.write_table(
            pyarrow.table({"image_path": ["000", "001", "002"]}),
            root / f"metadata/metadata_{number}.parquet",
        )
    pool = open_pool(root)
    assert len(pool) == 6
    assert pool.search(normalized(random_vectors(3, 1, 4)), 10).rows.shape == (1, 6)
    assert pool.teacher.fingerprint is None


def test_the_store_of_embed_and_its_teacher(tmp_path):
    stored = normalized(random_vectors(1, 20, 12))
    root = write_store(tmp_path / "p", [stored[:15], stored[15:]])
    pool = open_pool(root)
    assert pool.teacher == card(12)
    assert teacher_names(pool, None, None) == ("ViT-X", "tag")
    assert teacher_names(pool, "other", None) == ("other", "")
    (root / "meta.json").unlink()  # a run that is not at its end
    assert open_pool(root).teacher == card(12)
    found = pool.search(stored[17:18], 3)
    assert found.rows[0, 0] == 17
    assert np.isclose(found.scores[0, 0], 1, atol=1e-3)


def test_layout_npy_and_folders_without_a_card(tmp_path):
    stored = normalized(random_vectors(1, 5, 6))
    root = write_store(tmp_path / "p", [stored], dtype="float32", layout="npy")
    pool = open_pool(root)
    assert pool.search(stored[3:4], 2).rows[0, 0] == 3
    assert pool.metadata([4])[0].image_path == "0/4.jpg"
    assert pool.rows_of(["0/2.jpg"]) == {"0/2.jpg": 2}
    bare = tmp_path / "bare"
    bare.mkdir()
    for number, vector in enumerate(stored):
        np.save(bare / f"{number}.npy", vector)
    assert open_pool(bare).search(stored[2:3], 1).rows.tolist() == [[2]]
    assert open_pool(bare).rows_of(["2.jpg"]) == {"2.jpg": 2}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_that_are_not_finite_never_win(tmp_path, bad, dtype):
    stored = random_vectors(1, 40, 8).astype(dtype)
    stored[7, 3] = bad
    stored[39] = bad
    pool = open_pool(write_foreign(tmp_path / "p", [stored]))
    queries = np.concatenate([normalized(random_vectors(2, 4, 8)), np.eye(8, dtype=np.float32)])
    found = pool.search(queries, 40, chunk_rows=16)
    assert found.rows.shape == (12, 38)
    assert not {7, 39} & set(found.rows.ravel().tolist())
    assert np.isfinite(found.scores).all()
    assert pool.broken == 2
    assert 7 not in np.concatenate([rows for rows, _ in pool.blocks()])


def test_nothing_but_broken_rows(tmp_path):
    pool = open_pool(write_foreign(tmp_path / "p", [np.full((5, 4), np.nan, np.float32)]))
    assert pool.search(normalized(random_vectors(1, 3, 4)), 2).rows.shape == (3, 0)


def test_zero_rows_and_extreme_lengths(tmp_path):
    stored = np.zeros((4, 3), np.float32)
    stored[1] = [1e18, 0, 0]
    stored[2] = [0, 1e-9, 0]
    stored[3] = [1e30, 1e30, 0]  # its squares are beyond float32
    pool = open_pool(write_foreign(tmp_path / "p", [stored]))
    found = pool.search(np.eye(3, dtype=np.float32)[:2], 4)
    assert found.rows.tolist() == [[1, 0, 2], [2, 0, 1]]
    assert np.allclose(found.scores, [[1, 0, 0], [1, 0, 0]])
    assert pool.broken == 1


def test_large_but_finite_halves(tmp_path):
    stored = np.full((2, 600), 60000, np.float16)
    stored[1, ::2] *= -1
    pool = open_pool(write_foreign(tmp_path / "p", [stored]))
    query = normalized(np.ones((1, 600), np.float32))
    assert np.allclose(pool.search(query, 2).scores, [[1, 0]], atol=1e-5)


def test_every_half_is_read_as_it_is(tmp_path):
    """All 63,488 finite float16 values, subnormal ones too."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    stored = np.stack([every, np.ones_like(every)], axis=1)
    pool = open_pool(write_foreign(tmp_path / "p", [stored]))
    found = pool.search(np.array([[1, 0]], np.float32), len(every))
    expected = normalized(stored)[found.rows[0], 0]
    assert np.allclose(found.scores[0], expected, atol=3e-7, rtol=1e-5)
    assert np.array_equal(pool.vectors(np.arange(len(every))), normalized(stored))


def test_vectors_and_blocks_are_of_unit_length(tmp_path):
    stored = (random_vectors(1, 50, 8) * 7).astype(np.float16)
    pool = open_pool(write_foreign(tmp_path / "p", [stored[:20], stored[20:]]))
    wanted = [49, 0, 20, 19, 0]
    assert np.allclose(pool.vectors(wanted), normalized(stored)[wanted], atol=1e-6)
    assert pool.vectors([]).shape == (0, 8)
    rows, vectors = zip(*pool.blocks(chunk_rows=7), strict=True)
    assert np.array_equal(np.concatenate(rows), np.arange(50))
    assert np.allclose(np.concatenate(vectors), normalized(stored), atol=1e-6)


def test_metadata_in_the_order_asked_for(tmp_path):
    shards = [random_vectors(1, 20, 4), random_vectors(2, 9, 4)]
    pool = open_pool(write_foreign(tmp_path / "p", shards))
    rows = [28, 3, 3, 20, 19, 0]
    found = pool.metadata(rows)
    assert [one.image_path for one in found] == [f"/data/set/{row:06d}.jpg" for row in rows]
    assert [one.caption for one in found] == [f"caption {row}" for row in rows]
    assert found[0].url == "https://example.org/28.jpg"
    assert found[0].extra == {"similarity": 8.0}
    assert pool.metadata([]) == []
    assert pool.rows_of(["set/000004.jpg", "000028.jpg", "4.jpg"]) == {
        "set/000004.jpg": 4,
        "000028.jpg": 28,
    }


def test_metadata_in_other_letters(tmp_path):
    root = write_foreign(tmp_path / "p", [random_vectors(1, 2, 4)], columns=["url"])
    path = root / "metadata/metadata_0000.parquet"
    table = {"URL": ["u", None], "TEXT": ["t", None], "n": [b"\xff", float("nan")]}
    table["n"] = [b"\xff", None]
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    first, second = open_pool(root).metadata([0, 1])
    assert (first.url, first.caption, first.image_path) == ("u", "t", "")
    assert (second.url, second.caption) == ("", "")


def test_few_tables_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("clipdistill.collect.pool.TABLE_CACHE", 1)
    monkeypatch.setattr("clipdistill.core.vectors.OPEN_SHARDS", 1)
    shards = [random_vectors(seed, 10, 4) for seed in range(5)]
    pool = open_pool(write_foreign(tmp_path / "p", shards))
    assert [one.caption for one in pool.metadata(range(50))] == [f"caption {n}" for n in range(50)]
    assert np.allclose(pool.vectors(range(50)), normalized(np.concatenate(shards)))
    assert len(pool._tables._kept) == len(pool._mapped._kept) == 1


def test_many_threads_may_ask_at_once(tmp_path):
    stored = random_vectors(1, 3000, 16)
    pool = open_pool(write_foreign(tmp_path / "p", np.split(stored, 6)))
    queries = normalized(random_vectors(2, 8, 16))
    expected = open_pool(tmp_path / "p").search(queries, 20, workers=1)
    wrong = []

    def ask():
        found = pool.search(queries, 20, workers=2, chunk_rows=100)
        if not np.array_equal(found.rows, expected.rows):
            wrong.append(found)
        pool.metadata(found.rows[0])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_questions_that_make_no_sense(tmp_path):
    pool = open_pool(write_foreign(tmp_path / "p", [random_vectors(1, 4, 6)]))
    one = normalized(random_vectors(2, 1, 6))
    with pytest.raises(InputError, match="1 or more"):
        pool.search(one, 0)
    with pytest.raises(MismatchError, match=r"6 dimensions.*\(1, 5\)"):
        pool.search(one[:, :5], 1)
    with pytest.raises(MismatchError):
        pool.search(one[0], 1)
    with pytest.raises(InputError, match="unit length"):
        pool.search(one * 2, 1)
    with pytest.raises(InputError, match="unit length"):
        pool.search(one * np.nan, 1)
    with pytest.raises(InputError, match="No queries"):
        pool.search(one[:0], 1)
    for ask in (pool.vectors, pool.metadata):
        for row in (-1, 4):
            with pytest.raises(InputError, match="rows 0 to 3"):
                ask([0, row])
    with pytest.raises(InputError, match="--model-name"):
        teacher_names(pool, None, None)


def test_folders_that_are_no_pools(tmp_path):
    with pytest.raises(InputError, match="no such pool"):
        open_pool(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="clipdistill embed"):
        open_pool(tmp_path / "empty")
    root = write_foreign(tmp_path / "p", [random_vectors(1, 4, 6)])
    (root / "metadata/metadata_0000.parquet").unlink()
    with pytest.raises(FormatError, match="none of their rows in metadata/"):
        open_pool(root)
    (root / "metadata/metadata_0000.parquet").write_bytes(b"PAR1")
    with pytest.raises(FormatError, match="not a readable parquet"):
        open_pool(root)
    hollow = write_foreign(tmp_path / "hollow", [random_vectors(1, 0, 6)])
    with pytest.raises(InputError, match="no embeddings in it"):
        open_pool(hollow)


def test_shards_that_are_cut_short_or_of_another_kind(tmp_path):
    shards = [random_vectors(1, 40, 6), random_vectors(2, 30, 6)]
    root = write_foreign(tmp_path / "p", shards)
    path = root / "img_emb/img_emb_0001.npy"
    whole = path.read_bytes()
    for wrong, match in [
        (whole[:-4], "truncated"),
        (whole[:20], "truncated"),
        (b"", "truncated"),
        (b"x" * 500, "truncated"),
    ]:
        path.write_bytes(wrong)
        with pytest.raises(FormatError, match=match):
            open_pool(root)
    for array in (shards[1][:29], shards[1][:, :5], shards[1].astype(int), shards[1][0]):
        np.save(path, array)
        with pytest.raises(FormatError, match=r"expected floats \(30, 6\)"):
            open_pool(root)
    path.unlink()
    with pytest.raises(FormatError, match="img_emb_1"):
        open_pool(root)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_shard_that_is_cut_short_later(tmp_path, workers):
    shards = [random_vectors(1, 40, 6), random_vectors(2, 30, 6)]
    root = write_foreign(tmp_path / "p", shards)
    pool = open_pool(root)
    path = root / "img_emb/img_emb_0001.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(FormatError, match="truncated"):
        pool.search(normalized(random_vectors(3, 1, 6)), 3, workers=workers)


PRUDENT = """
import json, resource, sys
import numpy as np
import clipdistill.collect.pool
from clipdistill.collect.pool import open_pool
import pyarrow.parquet

def anonymous():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines["RssAnon"].split()[0]) * 1024

before = anonymous()
# The limit counts what is private and writable: everything but mapped files.
used = int(dict(l.split(":") for l in open("/proc/self/status"))["VmData"].split()[0]) * 1024
room = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (used + room, used + room))
pool = open_pool(sys.argv[1])
queries = np.eye(pool.dim, dtype=np.float32)[:4]
found = pool.search(queries, 10, workers=2)
print(json.dumps([found.rows[:, 0].tolist(), anonymous() - before]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_memory_is_the_chunks_not_the_pools(tmp_path):
    """A pool of 256 MB under a limit of 96 MB of new memory (threads' stacks included)."""
    root = tmp_path / "p"
    n, dim, room = 250_000, 512, 96 << 20
    (root / "img_emb").mkdir(parents=True)
    (root / "metadata").mkdir()
    path = root / "img_emb/img_emb_0.npy"
    array = np.lib.format.open_memmap(path, "w+", np.float16, (n, dim))  # a file of holes
    for query in range(4):
        array[60_000 * query + 7, query] = 1
    array.flush()
    table = pyarrow.table({"image_path": pyarrow.nulls(n, pyarrow.string())})
    pyarrow.parquet.write_table(table, root / "metadata/metadata_0.parquet")
    assert path.stat().st_size > 2.5 * room
    done = subprocess.run(
        [sys.executable, "-c", PRUDENT, str(root), str(room)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows, grown = json.loads(done.stdout)
    assert rows == [7, 60_007, 120_007, 180_007]
    assert grown < room / 2

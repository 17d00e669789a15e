"""Tables of URLs and captions: every naming scheme, many files, bounded memory, both rankings."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from clipdistill.collect.sources import tables
from clipdistill.collect.sources.table_files import list_tables
from clipdistill.collect.sources.tables import TableSettings, make_tables
from clipdistill.core.errors import FormatError, InputError, MismatchError, ServiceError

DIM = 8
DISC, SQUARE = "a photo of a red disc", "a photo of a green square"
SCHEMES = {
    "LAION": ("URL", "TEXT", "LICENSE"),
    "Re-LAION": ("url", "caption", None),
    "DataComp": ("url", "text", None),
    "PD12M": ("url", "caption", "license"),
    "Open Images": ("OriginalURL", "Title", "License"),
}


def embed(texts):
    """Texts that share words are near each other."""
    vectors = np.zeros((len(texts), DIM), np.float32)
    for row, text in zip(vectors, texts, strict=True):
        for word in text.lower().split():
            row[sum(word.encode()) % DIM] += 1
        row[0] += 0.01
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(path: Path, captions, *, names=("url", "caption", None), start: int = 0) -> Path:
    url, caption, license_ = names
    columns = {
        "uid": list(range(len(captions))),
        url: [f"http://x/{start + index}" for index in range(len(captions))],
        caption: captions,
        "similarity": [0.3] * len(captions),
    }
    if license_:
        columns[license_] = ["https://creativecommons.org/publicdomain/zero/1.0/"] * len(captions)
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


CAPTIONS = [
    "a red disc",
    "red DISCS!",
    "a red car",
    "the green square",
    None,
    "something else",
    "a rather large red disc on a long blue table",
]


def source(settings: TableSettings, prompts=(DISC, SQUARE)):
    return make_tables(settings, embed, prompts)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_naming_scheme(tmp_path, scheme):
    path = write(tmp_path / "t.parquet", CAPTIONS, names=SCHEMES[scheme])
    search = source(TableSettings((str(path),)))
    rows = list(search(DISC, 10))
    assert {row.url for row in rows} == {"http://x/0", "http://x/1", "http://x/6"}
    assert [row.url for row in search(SQUARE, 10)] == ["http://x/3"]
    assert [row.rank for row in rows] == [1, 2, 3]
    scores = embed([row.caption for row in rows]) @ embed([DISC])[0]
    assert np.allclose([row.score for row in rows], scores, atol=1e-6)
    assert list(scores) == sorted(scores, reverse=True)
    assert rows[0].source == "parquet"
    assert rows[0].license == ("CC0 1.0" if SCHEMES[scheme][2] else "")


def test_csv_as_open_images_has_it(tmp_path):
    path = tmp_path / "images.csv"
    path.write_text(
        "ImageID,Subset,OriginalURL,License,Author,Title\n"
        '1,train,https://x/1,https://creativecommons.org/licenses/by/2.0/,Ann,"A red, flat disc"\n'
        "2,train,,https://creativecommons.org/licenses/by/2.0/,Bo,A red disc\n"
    )
    [row] = source(TableSettings((str(path),)))(DISC, 10)
    assert (row.url, row.license, row.attribution) == ("https://x/1", "CC BY 2.0", "Ann")
    assert row.caption == "A red, flat disc"


def test_files_globs_folders_and_urls(tmp_path):
    import fsspec

    for index in (10, 9, 1):
        write(tmp_path / f"part_{index}.parquet", [f"red disc {index}"], start=index)
    names = [str(tmp_path / f"part_{index}.parquet") for index in (1, 9, 10)]
    assert list_tables([str(tmp_path / "part_*.parquet")]) == names
    assert list_tables([str(tmp_path)]) == names
    assert list_tables([names[1], str(tmp_path)]) == [names[1], names[0], names[2]]
    memory = fsspec.filesystem("memory")
    for name in names:
        memory.pipe(f"/tables/{Path(name).name}", Path(name).read_bytes())
    search = source(TableSettings(("memory://tables/*.parquet",)))
    assert {row.url for row in search(DISC, 10)} == {"http://x/1", "http://x/9", "http://x/10"}
    search = source(TableSettings(("memory://tables/part_9.parquet",)))
    assert [row.url for row in search(DISC, 10)] == ["http://x/9"]


def test_one_pass_for_all_prompts(tmp_path, monkeypatch):
    write(tmp_path / "t.parquet", CAPTIONS)
    opened = []
    original = tables.open_table
    monkeypatch.setattr(tables, "open_table", lambda name: opened.append(name) or original(name))
    search = source(TableSettings((str(tmp_path / "t.parquet"),)))
    assert list(search(DISC, 10))
    assert list(search(SQUARE, 10))
    assert len(opened) == 1


def test_candidates_are_those_with_most_words_and_the_teacher_ranks_them(tmp_path):
    prompt = "red disc near blue sea"
    captions = ["red disc near", "red disc near blue", "red disc near blue sea"]
    path = write(tmp_path / "t.parquet", [*captions, *captions])
    search = source(TableSettings((str(path),), candidates=2), [prompt])
    assert [row.url for row in search(prompt, 10)] == ["http://x/2", "http://x/5"]
    search = source(TableSettings((str(path),), candidates=3), [prompt])
    assert [row.url for row in search(prompt, 10)] == ["http://x/2", "http://x/5", "http://x/1"]


def test_a_regular_expression_instead_of_words(tmp_path):
    path = write(tmp_path / "t.parquet", CAPTIONS)
    search = source(TableSettings((str(path),), caption_filter=r"\bcar\b|else$"))
    assert {row.url for row in search(DISC, 10)} == {"http://x/2", "http://x/5"}
    assert len(list(search(SQUARE, 10))) == 2
    everything = source(TableSettings((str(path),), caption_filter=".*"))
    assert len(list(everything(DISC, 10))) == 6  # those with a caption
    with pytest.raises(InputError, match="not a regular expression"):
        source(TableSettings((str(path),), caption_filter="("))


def test_scripts_without_blanks(tmp_path):
    path = write(tmp_path / "t.parquet", ["可爱的猫在睡觉", "狗", "KATZE и Кошки"])
    search = source(TableSettings((str(path),)), ["猫", "кошки"])
    assert [row.url for row in search("猫", 5)] == ["http://x/0"]
    assert [row.url for row in search("кошки", 5)] == ["http://x/2"]


def image_vectors(folder: Path, number: int, vectors: np.ndarray) -> None:
    (folder / "img_emb").mkdir(parents=True, exist_ok=True)
    np.save(folder / f"img_emb/img_emb_{number}.npy", vectors)


def test_by_the_embeddings_of_the_images(tmp_path):
    random = np.random.default_rng(0)
    text = embed([DISC, SQUARE])
    vectors = random.normal(size=(2, 300, DIM)).astype(np.float16)
    vectors[0, 3] = np.nan
    for number in range(2):
        captions = [f"red disc {index}" if index % 2 else "x" for index in range(300)]
        write(tmp_path / f"metadata/metadata_{number}.parquet", captions, start=300 * number)
        image_vectors(tmp_path, number, vectors[number])
    names = (str(tmp_path / "metadata/*.parquet"),)
    flat = vectors.reshape(600, DIM).astype(np.float32)
    cosines = (flat / np.linalg.norm(flat, axis=1, keepdims=True)) @ text.T
    cosines = np.nan_to_num(cosines, nan=-1)
    search = source(TableSettings(names, tmp_path, ".*", 50))
    for number, prompt in enumerate((DISC, SQUARE)):
        best = np.argsort(-cosines[:, number], kind="stable")[:20]
        rows = list(search(prompt, 20))
        assert [row.url for row in rows] == [f"http://x/{index}" for index in best]
        assert np.allclose([row.score for row in rows], cosines[best, number], atol=1e-5)
    search = source(TableSettings(names, tmp_path, "words", 50))
    odd = [index for index in np.argsort(-cosines[:, 0], kind="stable") if index % 2][:20]
    assert [row.url for row in search(DISC, 20)] == [f"http://x/{index}" for index in odd]
    assert list(search(SQUARE, 20)) == []


def test_embeddings_that_do_not_belong_to_the_tables(tmp_path):
    write(tmp_path / "metadata/metadata_0.parquet", CAPTIONS)
    settings = TableSettings((str(tmp_path / "metadata/*.parquet"),), tmp_path)
    (tmp_path / "img_emb").mkdir()
    with pytest.raises(FormatError, match=r"an \.npy for each of 1 table,.*found 0"):
        source(settings)
    for count in (len(CAPTIONS) - 1, len(CAPTIONS) + 1):
        image_vectors(tmp_path, 0, np.ones((count, DIM), np.float32))
        with pytest.raises(FormatError, match="do not belong together"):
            list(source(settings)(DISC, 5))
    image_vectors(tmp_path, 0, np.ones((len(CAPTIONS), DIM + 1), np.float32))
    with pytest.raises(MismatchError, match=r"9-d vectors.*8 dimensions.*--model-name"):
        list(source(settings)(DISC, 5))


def test_what_is_no_table_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        list_tables([str(tmp_path / "*.parquet")])
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(FormatError, match=r"t\.parquet: the file is damaged, or not a table"):
        list(source(TableSettings((str(tmp_path / "t.parquet"),)))(DISC, 5))
    write(tmp_path / "t.parquet", CAPTIONS, names=("link", "caption", None))
    with pytest.raises(FormatError, match=r"expected a column url .*found uid, link, caption"):
        list(source(TableSettings((str(tmp_path / "t.parquet"),)))(DISC, 5))
    with pytest.raises(InputError, match="no such table"):
        list(source(TableSettings(("memory://nothing.parquet",)))(DISC, 5))
    with pytest.raises((InputError, ServiceError), match="nosuch://"):
        list(source(TableSettings(("nosuch://x.parquet",)))(DISC, 5))


def test_a_truncated_table_is_an_error(tmp_path):
    path = write(tmp_path / "t.parquet", CAPTIONS * 1000)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FormatError, match="damaged"):
        list(source(TableSettings((str(path),)))(DISC, 5))


def test_memory_does_not_grow_with_the_tables(tmp_path):
    def peak(files: int) -> int:
        for index in range(files):
            write(tmp_path / f"{files}/{index}.parquet", ["red disc " + "x" * 200] * 3000)
        search = source(TableSettings((str(tmp_path / str(files)),), candidates=100))
        allocated = pyarrow.total_allocated_bytes()
        tracemalloc.start()
        assert len(list(search(DISC, 50))) == 50
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert pyarrow.total_allocated_bytes() - allocated < 4 << 20
        return most

    peak(1)  # imports
    assert peak(6) < 1.3 * peak(2)


def test_candidates_over_all_prompts_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_CANDIDATES", 4)
    path = write(tmp_path / "t.parquet", ["red disc green square"] * 20)
    search = source(TableSettings((str(path),)))
    assert [len(list(search(prompt, 20))) for prompt in (DISC, SQUARE)] == [2, 2]

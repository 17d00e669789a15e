"""Strangers' tables: columns are read by their types, and texts are made valid."""

from __future__ import annotations

import datetime
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from clipdistill.collect.pool import open_pool
from clipdistill.collect.sources.table_files import open_table
from clipdistill.core.errors import FormatError
from clipdistill.formats.embeddings import load_embeddings
from clipdistill.formats.ledger import INDEX, read_ledger
from clipdistill.formats.parquet import numbers, texts
from clipdistill.formats.urls import read_urls

NESTED = {
    "list": pyarrow.array([["a"], ["b"]]),
    "struct": pyarrow.array([{"a": 1}, {"a": 2}]),
    "map": pyarrow.array([[("a", 1)], []], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
}
BROKEN = pyarrow.StringArray.from_buffers(
    2, pyarrow.array([0, 1, 3], pyarrow.int32()).buffers()[1], pyarrow.py_buffer(b"a\xffb")
)


@pytest.mark.parametrize(
    ("values", "read"),
    [
        (pyarrow.array(["a", None]), ["a", None]),
        (pyarrow.array(["a", "\u0000b"], pyarrow.large_string()), ["a", "\u0000b"]),
        (pyarrow.array([b"a", b"\xff"]), ["a", "\\xff"]),
        (pyarrow.array(["a", "a"]).dictionary_encode(), ["a", "a"]),
        (pyarrow.array([1, 2]), ["1", "2"]),
        (pyarrow.array([datetime.date(2026, 1, 2)]), ["2026-01-02"]),
        (pyarrow.nulls(2), [None, None]),
        (BROKEN, ["a", "\\xffb"]),
    ],
)
def test_columns_of_texts(values, read):
    assert texts(values, "c") == read
    assert texts(pyarrow.chunked_array([values]), "c") == read


@pytest.mark.parametrize("kind", NESTED)
def test_nested_columns_are_no_texts_and_no_numbers(kind):
    for read in (texts, numbers):
        with pytest.raises(FormatError, match=r"in the column c, found"):
            read(NESTED[kind], "c")


def store(root: Path, values, card: bytes | None) -> None:
    """Write a pool of two images whose `image_path` has any type."""
    import numpy as np

    (root / "img_emb").mkdir(parents=True)
    (root / "metadata").mkdir()
    np.save(root / "img_emb" / "img_emb_0.npy", np.eye(2, dtype=np.float32))
    columns = {"image_path": values, "content": ["x", "y"], "size": [1, 2], "mtime_ns": [1, 2]}
    table = pyarrow.table(columns)
    if card is not None:
        table = table.replace_schema_metadata({b"clipdistill": card})
    pyarrow.parquet.write_table(table, root / "metadata" / "metadata_0.parquet")


@pytest.mark.parametrize("kind", NESTED)
def test_every_reader_refuses_nested_columns_in_a_sentence(tmp_path, kind):
    nested = NESTED[kind]
    store(tmp_path / "pool", nested, None)
    with pytest.raises(FormatError, match=r"metadata_0.parquet: expected texts .* image_path"):
        load_embeddings(tmp_path / "pool")
    pool = open_pool(tmp_path / "pool")
    with pytest.raises(FormatError, match=r"metadata_0.parquet: expected texts .* image_path"):
        list(pool.names())
    with pytest.raises(FormatError, match=r"metadata_0.parquet: expected texts .* image_path"):
        pool.metadata([0])
    pyarrow.parquet.write_table(pyarrow.table({"url": nested}), tmp_path / "list.parquet")
    with pytest.raises(FormatError, match=r"list.parquet: expected texts .* url"):
        list(read_urls(tmp_path / "list.parquet"))
    pyarrow.parquet.write_table(
        pyarrow.table({"URL": nested, "TEXT": ["a", "b"]}), tmp_path / "laion.parquet"
    )
    with pytest.raises(FormatError, match=r"laion.parquet: expected texts .* URL"):
        list(open_table(str(tmp_path / "laion.parquet")))
    pyarrow.parquet.write_table(
        pyarrow.table({"url": nested, "status": ["ok", "ok"]}), tmp_path / INDEX
    )
    with pytest.raises(FormatError, match=r"index.parquet: expected texts .* url"):
        read_ledger(tmp_path)


def test_our_own_pools_are_checked_too(tmp_path, tiny_teacher):
    import json

    from clipdistill.formats.embeddings import Header

    card = Header(tiny_teacher.card, "clip-retrieval", "float32", True).to_json()
    store(tmp_path / "pool", NESTED["struct"], json.dumps(card).encode())
    with pytest.raises(FormatError, match="expected texts in the column image_path, found struct"):
        load_embeddings(tmp_path / "pool")


def test_bytes_that_are_not_utf8_are_escaped_and_end_nothing(tmp_path):
    pyarrow.parquet.write_table(
        pyarrow.table({"url": ["http://a/1", "http://a/2"], "caption": BROKEN}),
        tmp_path / "t.parquet",
    )
    assert [row.caption for row in read_urls(tmp_path / "t.parquet")] == ["a", "\\xffb"]
    (batch,) = open_table(str(tmp_path / "t.parquet"))
    assert batch.column("caption").to_pylist() == ["a", "\\xffb"]
    (tmp_path / "t.csv").write_bytes(b"url,caption\nhttp://a/1,caf\xe9\nhttp://a/2,b\n")
    (batch,) = open_table(str(tmp_path / "t.csv"))
    assert batch.column("caption").to_pylist() == ["caf\\xe9", "b"]
    store(tmp_path / "pool", BROKEN, None)
    assert [row.image_path for row in open_pool(tmp_path / "pool").metadata([0, 1])] == [
        "a",
        "\\xffb",
    ]


def test_other_columns_of_a_pool_become_json_values(tmp_path):
    import json

    store(tmp_path / "pool", ["a", "b"], None)
    path = tmp_path / "pool" / "metadata" / "metadata_0.parquet"
    extra = {
        "when": [datetime.datetime(2026, 1, 2)] * 2,
        "raw": [b"\xff"] * 2,
        "many": NESTED["struct"],
        "odd": [float("nan")] * 2,
    }
    pyarrow.parquet.write_table(pyarrow.table({"image_path": ["a", "b"], **extra}), path)
    found = open_pool(tmp_path / "pool").metadata([1])[0].extra
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == {"when": "2026-01-02 00:00:00", "raw": "\\xff", "many": {"a": 2}, "odd": None}

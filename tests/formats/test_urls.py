"""Lists of URLs: text and parquet."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipdistill import FormatError, InputError
from clipdistill.formats.urls import UrlRow, count_urls, read_urls, save_urls

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
URLS = st.builds(
    lambda path: f"http://example.com/{path}".strip(),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=20),
)
ROWS = st.builds(
    UrlRow,
    url=URLS,
    prompt=TEXT,
    rank=st.integers(0, 2**40),
    score=st.none() | st.floats(-1, 1),
    source=TEXT,
    caption=TEXT,
    license=TEXT,
    license_url=TEXT,
    attribution=TEXT,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ROWS, min_size=1, max_size=8, unique_by=lambda row: row.url))
def test_what_is_saved_is_read_from_either_file(tmp_path: Path, rows: list[UrlRow]) -> None:
    path = tmp_path / "image_urls.txt"
    save_urls(path, rows)
    assert list(read_urls(path)) == rows
    assert list(read_urls(path.with_suffix(".parquet"))) == rows
    assert count_urls(path) == count_urls(path.with_suffix(".parquet")) == len(rows)


def test_the_text_decides_and_the_parquet_tells_more(tmp_path: Path) -> None:
    path = tmp_path / "image_urls.txt"
    save_urls(path, [UrlRow("http://a/1", prompt="one"), UrlRow("http://a/2", prompt="two")])
    path.write_text("http://a/2\n\nhttp://b/new,with comma\n", encoding="utf-8-sig")
    assert list(read_urls(path)) == [
        UrlRow("http://a/2", prompt="two"),
        UrlRow("http://b/new,with comma"),
    ]


def test_an_edited_list_is_found_in_the_parquet_from_the_edit_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("clipdistill.formats.urls.BATCH_ROWS", 2)
    monkeypatch.setattr("clipdistill.formats.parquet.WRITTEN_ROWS", 3)
    path = tmp_path / "image_urls.txt"
    rows = [UrlRow(f"http://a/{number}", prompt=str(number)) for number in range(9)]
    save_urls(path, rows)
    new = UrlRow("http://a/new")
    edited = [*rows[:3], new, *rows[5:], rows[3], rows[0]]
    path.write_text("".join(f"{row.url}\n" for row in edited))
    assert list(read_urls(path)) == edited


@pytest.mark.parametrize("column", ["url", "URL", "Url"])
def test_foreign_tables_need_only_a_column_of_urls(tmp_path: Path, column: str) -> None:
    table = pyarrow.table({column: ["http://a/1", None, "", "http://a/2"], "WIDTH": [1, 2, 3, 4]})
    pyarrow.parquet.write_table(table, tmp_path / "part.parquet")
    assert [row.url for row in read_urls(tmp_path / "part.parquet")] == ["http://a/1", "http://a/2"]


def test_tables_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    with pytest.raises(InputError, match="no such list"):
        list(read_urls(path))
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(FormatError, match="not a readable parquet"):
        list(read_urls(path))
    pyarrow.parquet.write_table(pyarrow.table({"link": ["http://a"]}), path)
    with pytest.raises(FormatError, match="expected a column url, found link"):
        list(read_urls(path))
    table = pyarrow.table({"url": ["http://a"], "rank": ["first"]})
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(FormatError, match="expected numbers"):
        list(read_urls(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError):
        list(read_urls(path))


TABLES = {
    "a.csv": b'id,URL,caption\n1,http://a/1,"a cat, sitting"\n2,,none\n3,"http://a/2?x=1,2",dog\n',
    "a.txt": b"URL\tTEXT\nhttp://a/1\ta cat, sitting\nhttp://a/2?x=1,2\tdog\n",
    "cc.tsv": b"a cat, sitting\thttp://a/1\ndog\thttp://a/2?x=1,2\n",
    "b.csv": b'http://a/1,"a cat, sitting"\n"http://a/2?x=1,2",dog\n',
    "quoted.tsv": b'"url"\t"text"\n"http://a/1"\t"a cat, sitting"\n"http://a/2?x=1,2"\t"dog"\n',
    "list.jsonl": b'{"url": "http://a/1", "text": "a cat, sitting", "n": [1]}\n\n'
    b'{"URL": "http://a/2?x=1,2", "caption": "dog"}\n{"url": null}\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_as_text_are_read_as_tables(tmp_path: Path, name: str) -> None:
    data = TABLES[name]
    for text in (data, data.replace(b"\n", b"\r\n"), data.decode().encode("utf-16")):
        (tmp_path / name).write_bytes(text)
        rows = list(read_urls(tmp_path / name))
        assert [(row.url, row.caption) for row in rows] == [
            ("http://a/1", "a cat, sitting"),
            ("http://a/2?x=1,2", "dog"),
        ]
        assert count_urls(tmp_path / name) == 2


def test_a_table_of_one_column_and_captions_in_latin_1(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"url\nhttp://a/1,2\nhttp://a/3\n")
    assert [row.url for row in read_urls(tmp_path / "a.txt")] == ["http://a/1,2", "http://a/3"]
    (tmp_path / "a.csv").write_bytes(b"url,caption\nhttp://a/1,caf\xe9\n")
    assert [row.caption for row in read_urls(tmp_path / "a.csv")] == ["caf\\xe9"]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.csv", b"id,link\n1,http://a\n", "expected a column url .*found id, link"),
        ("a.tsv", b"id\tname\n1\tx\n", "expected a column url"),
        ("a.txt", b"id,link\n1,http://a\n", "one URL per line.*found 'id,link'"),
        ("a.json", b'[{"url": "http://a"}]\n', "one URL per line"),
        ("a.jsonl", b'{"url": "http://a"}\nno json\n', "line 2: expected a JSON object with a url"),
        ("a.jsonl", b'{"link": "http://a"}\n', "line 1: expected a JSON object with a url"),
        ("a.jsonl", b'["http://a"]\n', "line 1: expected a JSON object with a url"),
        ("a.txt", "http://a\n".encode("utf-16-le"), "one URL per line"),
        ("a.csv", b'url,caption\nhttp://a,"' + b"x" * 200_000 + b'"\n', "not a readable table"),
    ],
)
def test_what_is_no_list_is_refused_before_anything_is_asked(tmp_path, name, data, said) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FormatError, match=said):
        count_urls(tmp_path / name)

"""Tables of labels: what users and their tools write."""

from __future__ import annotations

import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdistill.core.errors import FormatError, InputError
from clipdistill.formats.label_table import load_label_table

FOUND = {"dogs/1.jpg": ("dog", "ball"), "sky.jpg": ()}
TABLES = {
    "a.csv": "image_path,labels\ndogs/1.jpg,dog;ball\nsky.jpg,\n",
    "crlf.csv": "\ufeffimage_path,labels\r\ndogs/1.jpg,dog; ball\r\nsky.jpg,\r\n",
    "more.csv": 'id,Labels,image_path\n1,"dog;ball",./dogs\\1.jpg\n\n2,,sky.jpg\n',
    "rows.csv": "image_path,labels\ndogs/1.jpg,dog\nsky.jpg,\ndogs/1.jpg,ball\ndogs/1.jpg,dog\n",
    "a.tsv": "image_path\tlabels\ndogs/1.jpg\tdog;ball\nsky.jpg\t\n",
    "a.jsonl": '{"image_path": "dogs/1.jpg", "labels": ["dog", "ball"]}\n\n'
    '{"image_path": "sky.jpg", "labels": []}',
}


@pytest.mark.parametrize("name", TABLES)
def test_the_same_labels_in_every_form(tmp_path, name):
    path = tmp_path / name
    path.write_text(TABLES[name], encoding="utf-8", newline="")
    assert load_label_table(path) == FOUND


names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=";\\"), min_size=1
)
plain = names.map(str.strip).filter(bool).filter(lambda name: not name.startswith("./"))


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(plain, st.lists(plain, unique=True, max_size=4), min_size=1, max_size=6))
def test_whatever_is_written_is_read(tmp_path_factory, table):
    folder = tmp_path_factory.mktemp("labels")
    with open(folder / "a.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_path", "labels"])
        writer.writerows((image, ";".join(labels)) for image, labels in table.items())
    lines = [json.dumps({"image_path": image, "labels": of}) for image, of in table.items()]
    (folder / "a.jsonl").write_text("\n".join(lines))
    expected = {image: tuple(labels) for image, labels in table.items()}
    assert load_label_table(folder / "a.csv") == load_label_table(folder / "a.jsonl") == expected


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "", "image_path and labels, found ''"),
        ("a.csv", "file,label\n", "image_path and labels, found 'file,label'"),
        ("a.csv", "image_path,labels\n", "names no image"),
        ("a.csv", "image_path,labels\na.jpg,dog,ball\n", "line 2: expected 2 cells .* found 3"),
        ("a.csv", "image_path,labels\n,dog\n", "line 2"),
        ("a.csv", 'image_path,labels\n"a\0.jpg",dog;' + "x" * 200_000, "not a readable table"),
        ("a.jsonl", "[]", "line 1: expected an object"),
        ("a.jsonl", '{"image_path": "a.jpg", "labels": "dog"}', "a list of texts"),
        ("a.jsonl", '{"image_path": 3, "labels": []}', "line 1"),
        ("a.jsonl", "{" * 100_000, "line 1: not JSON"),
        ("a.jsonl", "", "names no image"),
    ],
)
def test_what_is_no_such_table(tmp_path, name, text, words):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(FormatError, match=rf"a\..*{words}"):
        load_label_table(path)


def test_missing_and_not_text(tmp_path):
    with pytest.raises(InputError, match=r"a\.csv: the table of labels cannot be read"):
        load_label_table(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"image_path,labels\n\xff\xfe")
    with pytest.raises(FormatError, match="UTF-8"):
        load_label_table(tmp_path / "a.csv")

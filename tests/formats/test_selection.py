"""Selections on disk: lists that survive any name, sheets' names that any file system takes."""

from __future__ import annotations

import json

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipdistill.core.errors import FormatError, InputError, OutputError
from clipdistill.formats.selection import (
    SelectionRow,
    begin_selection,
    finish_selection,
    listable,
    load_selection,
    sheet_path,
)


def write(out, keys):
    begin_selection(out)
    rows = [SelectionRow(key, "a", 0.5, n + 1, "taken", "") for n, key in enumerate(keys)]
    finish_selection(out, keys, rows, {"selected": len(keys)})
    return out


KEYS = ["b/2.jpg", "a.jpg", " blank .png", "#no comment.jpg", "猫/ä\u2028.webp", "x.tar/1.jpg"]


def test_keys_come_back_in_their_order(tmp_path):
    out = write(tmp_path / "s", KEYS)
    assert load_selection(out) == tuple(KEYS)
    assert load_selection(out / "selected.txt") == tuple(KEYS)
    table = pyarrow.parquet.read_table(out / "selection.parquet").to_pylist()
    assert [row["image_path"] for row in table] == KEYS
    assert table[1] == {
        "image_path": "a.jpg",
        "label": "a",
        "score": 0.5,
        "rank": 2,
        "status": "taken",
        "duplicate_of": "",
    }


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_any_listable_key(tmp_path_factory, keys):
    keys = [key for key in dict.fromkeys(keys) if listable(key) and key.strip()] or ["x"]
    path = tmp_path_factory.mktemp("s") / "list.txt"
    path.write_bytes("".join(f"{key}\n" for key in ["first", *keys]).encode())
    assert load_selection(path) == tuple(dict.fromkeys(["first", *keys]))


def test_lists_edited_by_hand(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeffa.jpg\r\n\r\n  \nb.jpg\na.jpg".encode())
    assert load_selection(path) == ("a.jpg", "b.jpg")


def test_what_is_no_selection(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_selection(tmp_path / "missing")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(InputError, match="no images"):
        load_selection(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(FormatError, match="byte 3"):
        load_selection(tmp_path / "latin.txt")
    with pytest.raises(InputError, match=r"no selection\.json"):
        load_selection(tmp_path)
    out = write(tmp_path / "s", KEYS)
    card = json.loads((out / "selection.json").read_text())
    for wrong in ({**card, "format": "other"}, {**card, "version": 99}):
        (out / "selection.json").write_text(json.dumps(wrong))
        with pytest.raises(FormatError, match=r"selection\.json"):
            load_selection(out)


def test_one_that_was_begun_anew_is_not_complete(tmp_path):
    out = write(tmp_path / "s", KEYS)
    (out / "sheets/001-cat.png").write_bytes(b"x")
    (out / "sheets/mine.png").write_bytes(b"x")
    begin_selection(out)
    with pytest.raises(InputError, match="finished"):
        load_selection(out)
    assert [path.name for path in (out / "sheets").iterdir()] == ["mine.png"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        begin_selection(tmp_path / "file")


@given(st.integers(1, 5000), st.text())
def test_sheets_have_safe_names(tmp_path_factory, number, label):
    out = tmp_path_factory.getbasetemp()
    path = sheet_path(out, number, label)
    assert path.parent == out / "sheets"
    assert path.name.startswith(f"{number:03d}")
    assert path.name.endswith(".png")
    assert len(path.name.encode(errors="surrogateescape")) < 120
    assert not set(path.name[:-4]) & set('/\\:*?"<>|\0\n. ')


def test_sheets_are_named_after_their_label(tmp_path):
    names = [
        sheet_path(tmp_path, 7, label).name
        for label in ("a red fish", "猫 と 犬", "../../etc/passwd", "", "a" * 500, "…")
    ]
    assert names[:4] == ["007-a-red-fish.png", "007-猫-と-犬.png", "007-etc-passwd.png", "007.png"]
    assert names[4:] == [f"007-{'a' * 80}.png", "007.png"]

"""Texts in columns: every text comes back, and an index finds the last of each."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clipdistill.core.texts as owner
from clipdistill.core.errors import OutputError
from clipdistill.core.texts import Index, Texts

ODD = ["b.jpg", "", "a/ü.png", "\udcff raw", "日本/1.jpg", "b.jpg", "", "x" * 300]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(owner, "BLOCK", 3)


def test_texts_are_a_list_of_texts():
    found = Texts.of(iter(ODD))
    assert found == ODD
    assert [found[index] for index in range(-8, 8)] == ODD + ODD
    assert found[2:5] == ODD[2:5]
    assert found[5:2] == []
    assert found[::-2] == ODD[::-2]
    assert found[2:7].take(np.array([4, 0, 0, 1])) == [ODD[6], ODD[2], ODD[2], ODD[3]]
    assert Texts.joined([found[3:], Texts.of([]), found[1:2]]) == [*ODD[3:], ODD[1]]
    assert Texts.joined([]) == []
    with pytest.raises(IndexError):
        found[8]
    assert Texts.of(["a", "b"]) != Texts.of(["ab", ""])


def test_an_index_finds_the_last_of_each():
    index = Index(Texts.of(ODD))
    wanted = ["b.jpg", "nothing", "", "a/ü.png", "x" * 300, "\udcff raw"]
    assert index.find(wanted).tolist() == [5, -1, 6, 2, 7, 3]
    assert index.latest().tolist() == [2, 3, 4, 5, 6, 7]
    assert Index(Texts.of([])).find(["a"]).tolist() == [-1]
    assert Index(Texts.of([])).latest() is None
    assert Index(Texts.of(ODD[1:6])).latest() is None


def test_many_texts_lie_in_a_file_without_a_name(monkeypatch, tmp_path):
    monkeypatch.setattr(owner, "IN_MEMORY", 10)
    monkeypatch.setattr(owner.tempfile, "tempdir", str(tmp_path))
    found = Texts.of(ODD)
    assert found == ODD
    assert found.take(np.array([4, 0, 0, 7])) == [ODD[4], ODD[0], ODD[0], ODD[7]]
    assert Texts.joined([found[3:], Texts.of([]), found[1:2]]) == [*ODD[3:], ODD[1]]
    assert Index(found).find(["b.jpg", "日本/1.jpg"]).tolist() == [5, 4]
    assert not list(tmp_path.iterdir())


def test_no_room_for_the_names_is_said(monkeypatch):
    monkeypatch.setattr(owner, "IN_MEMORY", 10)
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(owner.tempfile, "TemporaryFile", lambda **_: full)
        with pytest.raises(OutputError, match="TMPDIR"):
            Texts.of(ODD)


@given(st.lists(st.text(max_size=3)), st.integers(1, 40))
def test_an_index_is_a_dictionary_of_last_places(texts, parts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, "SORTED_PARTS", parts)
        index = Index(Texts.of(texts))
    last = {text: place for place, text in enumerate(texts)}
    wanted = [*last, "nothing"]
    assert index.find(wanted).tolist() == [last.get(text, -1) for text in wanted]
    latest = index.latest()
    assert sorted(last.values()) == (list(range(len(texts))) if latest is None else latest.tolist())


def test_texts_with_the_same_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr(owner, "_hashes", lambda texts: np.zeros(len(texts), np.int64))
    index = Index(Texts.of(ODD))
    assert index.find(["b.jpg", "nothing", "", "日本/1.jpg"]).tolist() == [5, -1, 6, 4]
    assert index.latest().tolist() == [2, 3, 4, 5, 6, 7]


def test_many_equal_texts_take_no_longer_than_others():
    found = Index(Texts.of([""] * 50_000)).latest()
    assert found.tolist() == [49_999]


def test_a_text_takes_four_bytes_beside_its_own(monkeypatch):
    monkeypatch.undo()
    tracemalloc.start()
    try:
        kept = Texts.of(f"folder/{index:08d}.jpg" for index in range(50_000))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held / len(kept) < 19 + 4 + 4  # the block of bytes grows ahead of what it holds

"""Texts in columns: every text comes back, and an index finds the last of each."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import clipdistill.core.texts as owner
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
    assert Index(Texts.of([])).latest().tolist() == []


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

"""Vectors in many files are mapped when they are used, and found again when they were evicted."""

from __future__ import annotations

import os

import numpy as np
import pytest

from clipdistill.core import vectors as owner
from clipdistill.core.vectors import Mapped, Vectors


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """Five shards of which one stays open, and the numbers of those that were opened anew."""
    monkeypatch.setattr(owner, "OPEN_SHARDS", 1)
    for number in range(5):
        np.save(tmp_path / f"{number}.npy", np.full((3, 2), number, np.float16))
    opened: list[int] = []

    def open_shard(place: int) -> np.ndarray:
        opened.append(place)
        return np.load(tmp_path / f"{place}.npy", mmap_mode="r")

    return Vectors(Mapped(open_shard), [3] * 5, (2,), np.dtype(np.float16)), opened


def test_what_was_evicted_is_mapped_again_without_opening_it_anew(shards):
    found, opened = shards
    for _ in range(3):
        assert found[np.arange(15)].tolist() == [[n // 3] * 2 for n in range(15)]
    assert opened == [0, 1, 2, 3, 4]
    assert len(os.listdir("/proc/self/fd")) < 200


@pytest.mark.parametrize("change", ["replaced", "cut", "gone"])
def test_a_file_that_changed_is_opened_anew_and_so_checked(shards, tmp_path, change):
    found, opened = shards
    found[np.arange(15)]
    path = tmp_path / "0.npy"
    if change == "replaced":
        np.save(path, np.full((3, 2), 9, np.float32))
        assert found[[1, 4]].tolist() == [[9, 9], [1, 1]]
    else:
        path.write_bytes(path.read_bytes()[:-4]) if change == "cut" else path.unlink()
        with pytest.raises((ValueError, OSError)):
            found[[1, 4]]
    assert opened == [0, 1, 2, 3, 4, 0]


def test_the_first_value_that_is_not_finite_is_found(shards, tmp_path):
    found, _ = shards
    assert found.first_not_finite(4) is None
    np.save(tmp_path / "3.npy", np.array([[1, 1], [1, np.inf], [np.nan, 1]], np.float16))
    assert found.first_not_finite(4) == 10

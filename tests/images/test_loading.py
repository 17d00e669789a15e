"""Loading many images: order, bad ones in their place, bounded memory."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import clipdistill.images.loading as loading
from clipdistill.images.loading import batched, default_workers, load_one, load_pixels, stack
from clipdistill.images.preprocess import Preprocess
from clipdistill.images.sources import ImageItem, content_id, list_images

SMALL = Preprocess(16)


@pytest.fixture
def folder(tmp_path, pictures):
    pictures(tmp_path, 30)
    (tmp_path / "picture_13.png").write_bytes(b"not a picture")
    (tmp_path / "picture_7.png").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("ahead", [1, 5, 256])
def test_order_is_kept_and_bad_ones_stay_in_place(folder, workers, ahead):
    items = list_images(folder)
    loaded = list(load_pixels(items, SMALL, workers=workers, ahead=ahead))
    assert [one.item for one in loaded] == items
    bad = {one.item.key: one.reason for one in loaded if one.pixels is None}
    assert set(bad) == {"picture_13.png", "picture_7.png"}
    assert bad["picture_7.png"] == "the file is empty"
    assert "not a" in bad["picture_13.png"]
    for one, item in zip(loaded, items, strict=True):
        assert one.content == content_id(item.read())
        if one.pixels is not None:
            assert np.array_equal(one.pixels, load_one(item, SMALL).pixels)
            assert one.reason == ""


def test_a_file_that_vanished_is_a_row(tmp_path, pictures):
    pictures(tmp_path, 3)
    items = list_images(tmp_path)
    items[1].path.unlink()
    loaded = list(load_pixels(items, SMALL, workers=2))
    assert [one.pixels is None for one in loaded] == [False, True, False]
    assert "No such file" in loaded[1].reason
    assert loaded[1].content == ""


def test_decodes_no_further_ahead_than_the_limit(monkeypatch, folder):
    started = []
    real = load_one

    def counting(item: ImageItem, *args: object) -> loading.Loaded:
        started.append(item)
        return real(item, *args)

    monkeypatch.setattr(loading, "load_one", counting)
    stream = load_pixels(list_images(folder), SMALL, workers=2, ahead=4)
    next(stream)
    time.sleep(0.2)
    assert len(started) <= 5
    assert len(list(stream)) == 29


def test_threads_end_when_the_caller_stops_early(folder):
    before = threading.active_count()
    stream = load_pixels(list_images(folder), SMALL, workers=3, ahead=8)
    next(stream)
    stream.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_batches_have_a_full_count_of_good_ones(folder):
    batches = list(batched(load_pixels(list_images(folder), SMALL, workers=2), 8))
    assert [len(good) for good, _ in batches] == [8, 8, 8, 4]
    assert sum(len(failed) for _, failed in batches) == 2
    assert stack(batches[0][0]).shape == (8, 16, 16, 3)


def test_batches_of_bad_ones_only_are_not_lost(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    [(good, failed)] = batched(load_pixels(list_images(tmp_path), SMALL, workers=1), 4)
    assert not good
    assert len(failed) == 1


def test_default_workers():
    assert 1 <= default_workers() <= 16

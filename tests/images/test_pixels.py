"""The pixel cache: decoded once, resumed after a kill, never wrong."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

import clipdistill.images.pixels as pixels_module
import killing
from clipdistill.core.errors import OutputError
from clipdistill.images.loading import load_one
from clipdistill.images.pixels import PixelCache
from clipdistill.images.preprocess import Preprocess
from clipdistill.images.sources import content_id, list_images

SMALL = Preprocess(16)
ROW = 16 * 16 * 3
PLENTY = 10**9


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of four images."""
    monkeypatch.setattr(pixels_module, "CHUNK_BYTES", 4 * ROW)


@pytest.fixture
def images(tmp_path, pictures, small_chunks):
    pictures(tmp_path / "images", 10)
    return tmp_path / "images"


@pytest.fixture
def decoded(monkeypatch):
    """Counts the images that are decoded."""
    counts = []
    lock = threading.Lock()
    real = pixels_module.load_pixels

    def counting(items, *args, **kwargs):
        with lock:
            counts.extend(item.key for item in items)
        return real(items, *args, **kwargs)

    monkeypatch.setattr(pixels_module, "load_pixels", counting)
    return counts


def make(folder: Path, images: Path, *, limit: int = PLENTY, contents=None, preprocess=SMALL):
    items = list_images(images)
    contents = [content_id(item.read()) for item in items] if contents is None else contents
    cache = PixelCache(folder, items, contents, preprocess, workers=2, limit_bytes=limit)
    cache.build()
    return cache


def expected(images: Path, rows, preprocess=SMALL):
    items = list_images(images)
    return np.stack([load_one(items[row], preprocess).pixels for row in rows])


def chunk_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.npy"))


def test_gives_the_pixels_of_any_rows_in_any_order(tmp_path, images):
    cache = make(tmp_path / "cache", images)
    rows = np.array([9, 0, 4, 4, 7, 3])
    pixels, fine = cache.gather(rows)
    assert pixels.dtype == np.uint8
    assert fine.all()
    assert np.array_equal(pixels, expected(images, rows))
    assert not cache.failures


def test_a_second_build_decodes_nothing(tmp_path, images, decoded):
    make(tmp_path / "cache", images)
    assert len(decoded) == 10
    cache = make(tmp_path / "cache", images)
    cache.gather(np.arange(10))
    assert len(decoded) == 10


def test_appended_images_make_new_chunks_only(tmp_path, images, decoded, pictures):
    make(tmp_path / "cache", images)
    before = set(chunk_files(tmp_path / "cache"))
    decoded.clear()
    for path in pictures(tmp_path / "more", 3, seed=5):
        path.rename(images / f"z_{path.name}")
    cache = make(tmp_path / "cache", images)
    # Chunks of 4: the first two are full and stay, the third had 2 images and is made anew.
    assert len(decoded) == 5
    assert len(before & set(chunk_files(tmp_path / "cache"))) == 2
    pixels, _ = cache.gather(np.arange(13))
    assert np.array_equal(pixels, expected(images, range(13)))


def test_chunks_that_nobody_uses_make_room(tmp_path, images, pictures):
    make(tmp_path / "cache", images)
    pictures(images, 10, seed=3)  # the same names, other images
    make(tmp_path / "cache", images)
    assert len(chunk_files(tmp_path / "cache")) == 3


def test_another_size_has_a_cache_of_its_own(tmp_path, images, decoded):
    make(tmp_path / "cache", images)
    other = make(tmp_path / "cache", images, preprocess=Preprocess(24))
    assert other.gather(np.arange(2))[0].shape == (2, 24, 24, 3)
    decoded.clear()
    make(tmp_path / "cache", images)
    assert not decoded


def test_a_build_that_lost_its_description_is_done_again(tmp_path, images, decoded):
    make(tmp_path / "cache", images)
    chunk_files(tmp_path / "cache")[1].with_suffix(".json").unlink()
    decoded.clear()
    cache = make(tmp_path / "cache", images)
    assert 0 < len(decoded) <= 4
    assert np.array_equal(cache.gather(np.arange(10))[0], expected(images, range(10)))


def damage_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 20)


def damage_shape(path: Path) -> None:
    np.save(path, np.zeros((1, 16, 16, 3), dtype=np.uint8))


def damage_card(path: Path) -> None:
    path.with_suffix(".json").write_text("{")


def damage_failures(path: Path) -> None:
    value = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**value, "failed": {"x": 1}}))


@pytest.mark.parametrize(
    "damage",
    [damage_half, damage_empty, damage_noise, damage_shape, damage_card, damage_failures],
)
def test_a_damaged_chunk_is_made_again(tmp_path, images, decoded, damage):
    make(tmp_path / "cache", images)
    damage(chunk_files(tmp_path / "cache")[0])
    decoded.clear()
    cache = make(tmp_path / "cache", images)
    assert len(decoded) in (2, 4)
    assert np.array_equal(cache.gather(np.arange(10))[0], expected(images, range(10)))


@pytest.mark.parametrize(("limit", "cached"), [(0, 0), (ROW * 5, 4), (ROW * 9, 8), (ROW * 10, 10)])
def test_what_does_not_fit_is_decoded_each_time_to_the_same_pixels(
    tmp_path, images, decoded, limit, cached
):
    cache = make(tmp_path / "cache", images, limit=limit)
    assert len(decoded) == cached
    assert sum(len(np.load(path)) for path in chunk_files(tmp_path / "cache")) == cached
    rows = np.array([9, 1, 8, 0, 5, 9])
    for _ in range(2):
        pixels, fine = cache.gather(rows)
        assert np.array_equal(pixels, expected(images, rows))
        assert fine.all()


@pytest.mark.parametrize("limit", [0, PLENTY])
def test_bad_and_changed_images_are_failures_with_a_reason(tmp_path, images, limit):
    items = list_images(images)
    contents = [content_id(item.read()) for item in items]
    items[2].path.write_bytes(b"<html>")
    contents[2] = ""
    items[5].path.write_bytes(items[0].path.read_bytes())
    cache = make(tmp_path / "cache", images, limit=limit, contents=contents)
    pixels, fine = cache.gather(np.arange(10))
    assert fine.tolist() == [row not in (2, 5) for row in range(10)]
    assert not pixels[[2, 5]].any()
    assert "not a" in cache.failures[2]
    assert "changed since it was embedded" in cache.failures[5]
    again = make(tmp_path / "cache", images, limit=limit, contents=contents)
    again.gather(np.arange(10))
    assert again.failures == cache.failures


def test_unknown_contents_are_not_compared(tmp_path, images):
    cache = make(tmp_path / "cache", images, contents=[""] * 10)
    assert cache.gather(np.arange(10))[1].all()


def build_in_small_chunks(folder: Path, images: Path) -> None:
    """For the process that is killed."""
    pixels_module.CHUNK_BYTES = 4 * ROW
    make(folder, images)


def finished_chunks(folder: Path) -> int:
    return sum(not path.name.startswith(".") for path in folder.rglob("*.json"))


def test_a_build_killed_at_any_moment_resumes(tmp_path, pictures, decoded, small_chunks):
    pictures(tmp_path / "images", 60)
    folder = tmp_path / "cache"
    for least in (1, 4, 8):
        assert killing.killed_when(
            lambda least=least: finished_chunks(folder) >= least,
            build_in_small_chunks,
            folder,
            tmp_path / "images",
        )
    done = finished_chunks(folder)
    assert 8 <= done < 15
    cache = make(folder, tmp_path / "images")
    assert len(decoded) == 60 - 4 * done
    assert np.array_equal(cache.gather(np.arange(60))[0], expected(tmp_path / "images", range(60)))


def test_a_file_in_the_way_is_named(tmp_path, images):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(OutputError, match="cache"):
        make(tmp_path / "cache", images)

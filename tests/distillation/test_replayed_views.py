"""Views from `embed` to `distill`: stored, resumed, renamed, replayed, refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import clipdistill
from clipdistill import FormatError, InputError, MismatchError
from clipdistill.formats.embeddings import load_embeddings

TEACHER = {"device": "cpu", "batch_size": 4, "shard_size": 4}


@pytest.fixture(scope="module")
def photos(tmp_path_factory, pictures) -> Path:
    folder = tmp_path_factory.mktemp("views") / "photos"
    pictures(folder, 11)
    return folder


@pytest.fixture(scope="module")
def stored(photos, tiny_teacher_name) -> Path:
    out = photos.parent / "emb"
    clipdistill.embed(photos, out, model_name=tiny_teacher_name, views=3, **TEACHER)
    return out


def test_the_teacher_saw_exactly_the_stored_views(photos, stored, tiny_teacher):
    from PIL import Image

    from clipdistill.images.views import view_pixels

    found = load_embeddings(stored)
    views = found.views()
    assert views is not None
    rows = np.arange(len(found.rows))
    assert views.embeddings(rows).shape == (11, 3, found.teacher.dim)
    with Image.open(photos / found.rows[5].image_path) as image:
        shown = [
            view_pixels(image.convert("RGB"), one, found.teacher.preprocess)
            for one in views.parameters(rows)[5]
        ]
    expected = tiny_teacher.images.embed_pixels(np.stack(shown))
    assert np.allclose(views.embeddings(rows)[5], expected, atol=2e-3)


def test_killed_and_resumed_in_another_order_it_is_the_same(
    photos, stored, tiny_teacher_name, tmp_path
):
    some = tmp_path / "photos"
    some.mkdir()
    for path in sorted(photos.iterdir())[4:8]:
        shutil.copy2(path, some)
    out = tmp_path / "emb"
    clipdistill.embed(some, out, model_name=tiny_teacher_name, views=3, **TEACHER)
    for path in sorted(photos.iterdir()):
        shutil.copy2(path, some)
    clipdistill.embed(some, out, model_name=tiny_teacher_name, views=3, **TEACHER)
    one, other = load_embeddings(stored), load_embeddings(out)
    mine, theirs = one.by_image(), other.by_image()
    names = sorted(mine)
    a = one.views().parameters(np.array([mine[name] for name in names]))
    b = other.views().parameters(np.array([theirs[name] for name in names]))
    assert np.array_equal(a, b)


def test_a_renamed_image_keeps_its_views(photos, tiny_teacher_name, tmp_path):
    some = tmp_path / "photos"
    shutil.copytree(photos, some)
    out = tmp_path / "emb"
    clipdistill.embed(some, out, model_name=tiny_teacher_name, views=2, **TEACHER)
    first = sorted(some.iterdir())[0]
    before = load_embeddings(out)
    row = before.by_image()[first.name]
    expected = before.views().embeddings(np.array([row]))
    first.rename(some / "renamed.png")
    result = clipdistill.embed(some, out, model_name=tiny_teacher_name, views=2, **TEACHER)
    assert result.moved == 1
    after = load_embeddings(out)
    place = after.by_image()["renamed.png"]
    assert np.array_equal(after.views().embeddings(np.array([place])), expected)


def train(photos: Path, stored: Path, out: Path, **options: object):
    return clipdistill.distill(
        "test_resnet",
        photos,
        stored,
        out,
        **{"image_size": 32, "num_epochs": 2, "device": "cpu", "batch_size": 4, **options},
    )


def test_views_are_replayed_the_same_with_and_without_a_cache(photos, stored, tmp_path):
    options = {"cache_dir": tmp_path / "cache"}
    train(photos, stored, tmp_path / "a", **options)
    train(photos, stored, tmp_path / "b", cache_gb=0.0, **options)
    train(photos, stored, tmp_path / "c", views=0, **options)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_wrong_views_are_refused_with_a_sentence(photos, stored, tiny_teacher_name, tmp_path):
    with pytest.raises(InputError, match=r"--views 5: .* holds 3 views per image.*embed --views 5"):
        train(photos, stored, tmp_path / "s", views=5)
    for options, message in (
        ({"views": 2}, r"3 views per image \(seed 0\), but this command would write 2 views"),
        ({"views": 3, "view_seed": 1}, r"seed 1"),
        ({}, "would write no views"),
    ):
        with pytest.raises(MismatchError, match=message):
            clipdistill.embed(photos, stored, model_name=tiny_teacher_name, **TEACHER, **options)
    for options, message in (
        ({"views": 65}, "--views 65: expected 0 to 64"),
        ({"views": -1}, "--views -1"),
        ({"views": 2, "view_seed": -1}, "--view-seed -1"),
        ({"views": 2, "layout": "npy"}, "layout clip-retrieval"),
    ):
        with pytest.raises(InputError, match=message):
            clipdistill.embed(photos, tmp_path / "e", model_name=tiny_teacher_name, **options)


def test_a_damaged_file_of_views_is_named(photos, stored, tmp_path):
    copied = tmp_path / "emb"
    shutil.copytree(stored, copied)
    file = copied / "views" / "params_1.npy"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(FormatError, match=r"params_1\.npy"):
        train(photos, copied, tmp_path / "s")
    file.unlink()
    with pytest.raises(FormatError, match=r"params_1\.npy: no such file.*embed --views"):
        train(photos, copied, tmp_path / "s")

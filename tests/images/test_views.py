"""Views of images: drawn from a seed, shown, and kept with decoded pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipdistill import FormatError
from clipdistill.images.pixels import PixelCache
from clipdistill.images.preprocess import Preprocess
from clipdistill.images.sources import list_images
from clipdistill.images.views import (
    AREA,
    COLOUR,
    ViewSpec,
    check_parameters,
    draw_views,
    view_pixels,
)

PLAIN = [0, 0, 1, 1, 0, 1, 1, 1]


@given(st.text(max_size=8), st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 9))
def test_a_view_lies_in_the_image_and_depends_on_nothing_else(content, width, height, seed):
    views = draw_views(content, (width, height), 3, seed)
    check_parameters(views[None], "drawn")
    assert np.array_equal(views[:2], draw_views(content, (width, height), 2, seed))
    area = views[:, 2] * views[:, 3]
    strip = max(width, height) > 1.7 * min(width, height)
    assert strip or (area >= AREA[0] - 1e-3).all()
    assert (np.abs(views[:, 5:] - 1) <= COLOUR + 1e-6).all()


def test_other_seeds_and_images_give_other_views():
    one = draw_views("a", (100, 80), 4, 0)
    assert not np.array_equal(one, draw_views("a", (100, 80), 4, 1))
    assert not np.array_equal(one, draw_views("b", (100, 80), 4, 0))
    assert len({tuple(row) for row in one.tolist()}) == 4


def test_a_view_of_everything_is_the_image():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert np.array_equal(view_pixels(image, PLAIN, Preprocess(32)), pixels)
    mirrored = view_pixels(image, [0, 0, 1, 1, 1, 1, 1, 1], Preprocess(32))
    assert np.array_equal(mirrored, pixels[:, ::-1])
    half = view_pixels(image, [0.5, 0, 0.5, 1, 0, 1, 1, 1], Preprocess(16, interpolation="nearest"))
    assert np.array_equal(half[0], pixels[1, 16:32]) or np.array_equal(half[0], pixels[0, 16:32])


def test_colours_are_torchvisions():
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchvision.transforms.functional")
    pixels = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    expected = functional.adjust_saturation(
        functional.adjust_contrast(functional.adjust_brightness(tensor, 1.15), 0.85), 1.2
    )
    view = [0, 0, 1, 1, 0, 1.15, 0.85, 1.2]
    shown = view_pixels(Image.fromarray(pixels), view, Preprocess(24))
    assert np.abs(shown / 255 - expected.permute(1, 2, 0).numpy()).max() < 0.01


def test_parameters_of_a_stranger_are_checked():
    good = draw_views("a", (9, 9), 2, 0)[None]
    for change in ({"shape": True}, {"at": 0, "value": np.nan}, {"at": 2, "value": 0.0}):
        bad = good.copy()
        if change.get("shape"):
            bad = bad[..., :5]
        else:
            bad[..., change["at"]] = change["value"]
        with pytest.raises(FormatError, match="expected parameters of views"):
            check_parameters(bad, "file")
    outside = good.copy()
    outside[..., 0] = 0.9
    outside[..., 2] = 0.5
    with pytest.raises(FormatError):
        check_parameters(outside, "file")
    with pytest.raises(FormatError, match="1 to 64"):
        ViewSpec(0)


def test_the_cache_gives_what_decoding_gives(tmp_path, pictures):
    pictures(tmp_path / "photos", 5)
    items = list_images(tmp_path / "photos")
    views = np.stack([draw_views(item.key, (40, 40), 2, 0) for item in items])
    rows, numbers = np.array([3, 0, 3, 4]), np.array([0, 2, 1, 2])

    def gathered(limit: int, folder: str) -> np.ndarray:
        cache = PixelCache(
            tmp_path / folder,
            items,
            [""] * 5,
            Preprocess(16),
            workers=0,
            limit_bytes=limit,
            views=views,
        )
        cache.build()
        pixels, fine = cache.gather(rows, numbers)
        assert fine.all()
        return pixels

    cached, decoded = gathered(1 << 30, "a"), gathered(0, "b")
    assert np.array_equal(cached, decoded)
    assert not np.array_equal(cached[0], cached[2])

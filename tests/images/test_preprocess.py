"""Preprocess: the pixels of open_clip's own transform, and a card that survives its round trip."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image

from clipdistill.core.errors import FormatError
from clipdistill.images.preprocess import FILTERS, LONGEST_RATIO, RESIZE_MODES, Preprocess
from clipdistill.models.torch_embedder import to_input

SHAPES = [
    (32, 32),
    (33, 32),
    (32, 47),
    (100, 37),
    (37, 101),
    (31, 31),
    (7, 300),
    (300, 7),
    (1, 1),
    (2, 63),
    (224, 223),
    (1000, 333),
    (65, 64),
    (96, 32),
]
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * 10_000 + height).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


def theirs(image: Image.Image, size: int, interpolation: str, mode: str, fill: int) -> np.ndarray:
    transform = image_transform(
        size,
        is_train=False,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        interpolation=interpolation,
        resize_mode=mode,
        fill_color=fill,
    )
    values = transform(image).permute(1, 2, 0).numpy() * 255
    return np.round(values).astype(np.uint8)


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [32, 33])
def test_pixels_are_those_of_open_clip(mode, interpolation, size):
    ours = Preprocess(size, interpolation=interpolation, resize_mode=mode, fill_color=77)
    for shape in SHAPES:
        image = noise(*shape)
        expected = theirs(image, size, interpolation, mode, 77)
        assert np.array_equal(ours.to_pixels(image), expected), f"{shape} differs"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 48), st.sampled_from(RESIZE_MODES))
def test_any_shape_gives_the_pixels_of_open_clip(width, height, size, mode):
    longest, shortest = max(width, height), min(width, height)
    # There open_clip makes gigabytes of a strip, and fails on one that would shrink to nothing.
    assume(longest <= LONGEST_RATIO * shortest)
    assume(mode != "longest" or round(shortest * size / longest) >= 1)
    image = noise(width, height)
    ours = Preprocess(size, resize_mode=mode).to_pixels(image)
    assert ours.shape == (size, size, 3)
    assert ours.dtype == np.uint8
    assert np.array_equal(ours, theirs(image, size, "bicubic", mode, 0))


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_every_filter_gives_the_right_shape(interpolation, mode):
    ours = Preprocess(24, interpolation=interpolation, resize_mode=mode)
    assert ours.to_pixels(noise(50, 31)).shape == (24, 24, 3)


@pytest.mark.parametrize("shape", [(65_000, 1), (1, 65_000), (100_000, 2)])
def test_a_strip_does_not_grow_to_gigabytes(shape):
    image = Image.new("RGB", shape, (10, 20, 30))
    pixels = Preprocess(224).to_pixels(image)
    assert pixels.shape == (224, 224, 3)
    assert (pixels == (10, 20, 30)).all()


def test_a_strip_keeps_its_middle():
    image = Image.new("RGB", (3001, 3), (255, 0, 0))
    image.paste((0, 0, 255), (1490, 0, 1511, 3))
    pixels = Preprocess(16).to_pixels(image)
    assert (pixels[:, 4:12] == (0, 0, 255)).all()


@pytest.mark.parametrize(("mean", "std"), [(CLIP_MEAN, CLIP_STD), ((0.5,) * 3, (0.5,) * 3)])
def test_normalize_is_what_torchvision_does(mean, std):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 9, 3)).astype(np.uint8)
    ours = Preprocess(8, mean, std).normalize(pixels)
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255
    shape = (1, 3, 1, 1)
    expected = (values - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    assert ours.dtype == np.float32
    assert ours.flags["C_CONTIGUOUS"]
    assert np.allclose(ours, expected.numpy(), atol=1e-6)


def test_to_input_gives_the_numbers_of_normalize():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    for mean, std in ((CLIP_MEAN, CLIP_STD), ((0.5,) * 3, (0.5,) * 3)):
        preprocess = Preprocess(16, mean, std)
        there = to_input(torch.from_numpy(every), preprocess)
        assert there.dtype == torch.float32
        assert there.shape == (1, 3, 16, 16)
        assert np.abs(there.numpy() - preprocess.normalize(every)).max() <= 1e-6


channel = st.floats(0, 1, allow_nan=False)
preprocesses = st.builds(
    Preprocess,
    size=st.integers(1, 8192),
    mean=st.tuples(channel, channel, channel),
    std=st.tuples(*[st.floats(1e-3, 10)] * 3),
    interpolation=st.sampled_from(sorted(FILTERS)),
    resize_mode=st.sampled_from(RESIZE_MODES),
    fill_color=st.integers(0, 255),
)


@given(preprocesses)
def test_json_round_trip(preprocess):
    assert Preprocess.from_json(json.loads(json.dumps(preprocess.to_json()))) == preprocess


GOOD = Preprocess(64).to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": -3},
        {"size": "big"},
        {"size": None},
        {"size": float("inf")},
        {"size": float("nan")},
        {"mean": [0.5]},
        {"mean": None},
        {"mean": [float("nan")] * 3},
        {"std": [0, 1, 1]},
        {"std": [float("inf")] * 3},
        {"std": "abc"},
        {"interpolation": "magic"},
        {"interpolation": 3},
        {"resize_mode": "stretch"},
        {"fill_color": 256},
        {"fill_color": None},
    ],
)
def test_bad_cards_are_refused(change):
    with pytest.raises(FormatError, match="preprocessing"):
        Preprocess.from_json({**GOOD, **change})


@pytest.mark.parametrize("field", ["size", "mean", "std", "interpolation", "resize_mode"])
def test_missing_fields_are_refused(field):
    value = {name: kept for name, kept in GOOD.items() if name != field}
    with pytest.raises(FormatError, match=field):
        Preprocess.from_json(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(json_values)
def test_any_json_is_a_card_or_a_format_error(value):
    with pytest.raises(FormatError):
        Preprocess.from_json(value)


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys(GOOD, json_values)))
def test_any_values_under_the_right_names(value):
    with contextlib.suppress(FormatError):
        Preprocess.from_json(value)

"""Random crops of the images to learn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdistill.distillation.augmentation import WHOLE, cropped, draw_crops


@settings(deadline=None)
@given(
    least=st.floats(0.01, 1),
    seed=st.integers(0, 1 << 40),
    epoch=st.integers(0, 1000),
    rows=st.lists(st.integers(0, 1 << 40), min_size=1, max_size=20),
)
def test_crops_lie_within_the_image_and_keep_the_area(least, seed, epoch, rows):
    crops = draw_crops(np.array(rows), least, seed, epoch)
    middles, sides = crops[:, :2], crops[:, 2:]
    assert crops.dtype == np.float32
    assert ((sides > 0) & (sides <= 1)).all()
    assert (np.abs(middles) + sides <= 1 + 1e-6).all()
    # Where a side would be longer than the image it is cut, by exp(0.1) at most.
    area = sides.prod(axis=1)
    assert ((area >= least * np.exp(-0.1) - 1e-6) & (area <= 1)).all()


def test_a_crop_depends_on_seed_epoch_and_row_alone():
    rows = np.arange(100)
    crops = draw_crops(rows, 0.4, 7, 3)
    order = np.random.default_rng(0).permutation(rows)
    assert np.array_equal(draw_crops(order, 0.4, 7, 3), crops[order])
    assert np.array_equal(draw_crops(rows[40:50], 0.4, 7, 3), crops[40:50])
    for other in (draw_crops(rows, 0.4, 8, 3), draw_crops(rows, 0.4, 7, 4)):
        assert not np.isclose(other, crops).all(axis=1).any()


def test_crops_are_spread_evenly():
    crops = draw_crops(np.arange(100_000), 0.5, 0, 0).astype(np.float64)
    assert np.abs(crops[:, :2].mean(axis=0)).max() < 0.005
    assert crops[:, 2:].prod(axis=1).mean() == pytest.approx(0.75, abs=0.01)
    assert np.abs(np.corrcoef(crops[:, 0], crops[:, 1])[0, 1]) < 0.02


def test_the_numbers_are_those_of_splitmix64():
    # Reference: the sequential generator, from the same first state.
    first = int(np.random.SeedSequence((5, 2, 2)).generate_state(1, np.uint64)[0])
    numbers = []
    state, size = first, 1 << 64
    for _ in range(12):
        state = (state + 0x9E3779B97F4A7C15) % size
        bits = state
        bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % size
        bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % size
        numbers.append(((bits ^ (bits >> 31)) >> 11) / (1 << 53))
    x, y, area, ratio = np.array(numbers).reshape(3, 4).T
    crops = draw_crops(np.arange(3), 1e-6, 5, 2)
    sides = np.sqrt(np.clip(area * np.exp(0.2 * (2 * ratio - 1)), 0, 1))
    assert crops[:, 2] == pytest.approx(np.minimum(sides, 1), rel=1e-3)
    assert crops[:, 0] == pytest.approx((2 * x - 1) * (1 - crops[:, 2]), abs=1e-5)
    assert crops[:, 1] == pytest.approx((2 * y - 1) * (1 - crops[:, 3]), abs=1e-5)


def test_cropping_shows_the_part_that_was_drawn():
    picture = torch.zeros(1, 3, 8, 8)
    picture[:, :, :4, 4:] = 1  # the upper right quarter
    middle, half = (0.5, -0.5), (0.5, 0.5)
    shown = cropped(picture, torch.tensor([[*middle, *half]]))
    assert torch.allclose(shown[..., 1:-1, 1:-1], torch.ones(1, 3, 6, 6))  # its edges are blended
    whole = torch.rand(2, 3, 8, 8)
    kept = cropped(whole, torch.tensor([WHOLE, WHOLE]))
    assert torch.allclose(kept, whole, atol=1e-5)


def test_a_crop_reaches_the_edge_without_a_border():
    picture = torch.full((1, 3, 16, 16), 2.5)
    corner = torch.tensor([[-0.6, -0.6, 0.4, 0.4]])
    assert torch.allclose(cropped(picture, corner), picture)


def test_crops_are_those_of_torch_with_its_padding_border():
    pixels = torch.rand(64, 3, 12, 20)
    crops = torch.from_numpy(draw_crops(np.arange(64), 0.2, 0, 0))
    crops[:4] = torch.tensor([[x, y, 0.3, 0.5] for x in (-0.7, 0.7) for y in (-0.5, 0.5)])
    boxes = torch.cat([torch.diag_embed(crops[:, 2:]), crops[:, :2, None]], dim=2)
    grid = torch.nn.functional.affine_grid(boxes, [64, 3, 12, 20], align_corners=False)
    expected = torch.nn.functional.grid_sample(
        pixels, grid, padding_mode="border", align_corners=False
    )
    assert torch.allclose(cropped(pixels, crops), expected, atol=1e-5)

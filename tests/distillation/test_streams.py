"""The order of images in tars: each once, tar by tar, the same for any number of processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdistill.core.errors import InputError
from clipdistill.distillation.streams import StreamedOrder, stream_count


def tars(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, tars and offsets of images whose names are not in the order of the tars."""
    random = np.random.default_rng(seed)
    files = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    offsets = np.concatenate([random.permutation(size) * 512 for size in sizes]).astype(np.int64)
    return np.arange(len(files)) * 2, files, offsets


def make(sizes: list[int], batch_size: int = 32, buffer: int = 64, seed: int = 0) -> StreamedOrder:
    return StreamedOrder(
        *tars(sizes), None, batch_size=batch_size, buffer=buffer, seed=seed, views=2
    )


def steps(order: StreamedOrder, epoch: int, processes: int, start: int = 0):
    """(row, mirrored, view) of every image of each step, sorted, with the sizes of the shares."""
    every = [list(order.shares(epoch, rank, processes, start)) for rank in range(processes)]
    assert {len(shares) for shares in every} == {order.steps(processes) - start}
    found, sizes = [], []
    for number, shares in enumerate(zip(*every, strict=True), start):
        assert {share.step for share in shares} == {number}
        images = [
            image
            for share in shares
            for image in zip(share.rows, share.mirrored, share.shown, strict=True)
        ]
        assert {share.size for share in shares} == {len(images)}
        found.append(sorted(images))
        sizes.append([len(share.rows) for share in shares])
    return found, sizes


@given(
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=9),
    batch_size=st.integers(2, 40),
    buffer=st.integers(1, 100),
    processes=st.integers(1, 7),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_every_image_once_and_the_same_steps_for_any_number_of_processes(
    sizes, batch_size, buffer, processes, seed
):
    order = make(sizes, batch_size, buffer, seed)
    one, whole = steps(order, 1, 1)
    assert sorted(row for step in one for row, *_ in step) == list(range(0, 2 * sum(sizes), 2))
    assert max(whole)[0] - min(whole)[0] <= 1
    if processes > order.streams:
        with pytest.raises(InputError, match=f"at most {order.streams} processes"):
            order.steps(processes)
        return
    several, shares = steps(order, 1, processes)
    assert several == one
    assert sum(sizes) < 2 or min(map(min, shares)) >= 2  # what batch normalisation needs
    middle = len(one) // 2
    assert steps(order, 1, processes, middle)[0] == one[middle:]


def test_epochs_and_seeds_differ():
    first, again, later, other = (
        steps(make([50] * 8, seed=seed), epoch, 1)[0]
        for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert first == again
    assert first != later
    assert first != other


def test_half_are_mirrored_and_views_are_shown_equally_often():
    images = [image for step in steps(make([500] * 8), 0, 1)[0] for image in step]
    assert 0.45 < np.mean([mirrored for _, mirrored, _ in images]) < 0.55
    assert np.bincount([shown for *_, shown in images], minlength=3).min() > 1200


def test_processes_read_tars_of_their_own():
    order = make([100] * 24, batch_size=48)  # 24 streams
    assert order.streams == 24
    read = [
        {row // 200 for share in order.shares(0, rank, 3) for row in share.rows.tolist()}
        for rank in range(3)
    ]
    assert [len(one) for one in read] == [8, 8, 8]
    assert set.union(*read) == set(range(24))


def test_a_batch_has_images_of_all_tars_and_neighbours_are_shuffled():
    order = make([96] * 12, batch_size=24, buffer=12 * 32)
    batches = [sorted(row // 192 for row, *_ in step) for step in steps(order, 0, 1)[0]]
    assert all(batch == sorted([*range(12)] * 2) for batch in batches)
    rows = np.concatenate([share.rows for share in order.shares(0, 0, 1)])
    _, _, offsets = tars([96] * 12)
    here = offsets[rows[rows // 192 == 3] // 2] // 512
    assert not (np.sort(here) == here).all()
    assert abs(here - np.arange(96)).max() < 2 * 32  # but not further than the buffer


@pytest.mark.parametrize(
    ("rows", "batch_size", "streams"),
    [(10**6, 64, 24), (10**6, 1024, 240), (10**6, 2, 1), (65, 64, 12), (10**6, 20, 10), (1, 2, 1)],
)
def test_the_number_of_streams(rows, batch_size, streams):
    assert stream_count(rows, batch_size) == streams

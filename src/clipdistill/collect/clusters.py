"""Near-duplicates of many images, by clusters (numpy).

Comparing all pairs takes too long for millions of images.  As in SemDeDup (Abbas et al. 2023,
arXiv:2303.09540), k-means divides them, and only images of one cluster are compared, all pairs of
it.  Each image is in the two clusters nearest to it, because near-duplicates lie at times on two
sides of a border.  A pair is missed when it shares none of them.

Nothing depends on the number of threads or shards: the sample is a function of the number of
images, and the clusters are processed in their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..core.progress import track
from ..core.zeroshot import normalized

Floats = NDArray[np.float32]
Numbers = NDArray[np.integer]
Read = Callable[[NDArray[np.int64]], Floats]

MOST_CLUSTERS = 16384
"""Beyond the square root of the number of images, more clusters cost more than they save."""
SAMPLED = 128
"""Images of the sample per cluster, as long as `MOST_SAMPLED` allows."""
MOST_SAMPLED = 1 << 17
"""Images of the sample, 268 MB of 512 dimensions."""
ROUNDS = 10
"""Rounds of k-means; the clusters hardly move afterwards."""
AT_ONCE = 1 << 14
"""Images whose vectors are in memory while they are assigned: 33 MB of 512 dimensions."""
LARGEST = 1 << 15
"""Images of a cluster that are compared with one another: 67 MB of 512 dimensions."""
COMPARED = 1024


def repeats_in_clusters(count: int, read: Read, threshold: float) -> Numbers:
    """Find the near-duplicates among images, the better ones first.

    Going through a cluster in the order of the images, an image that is near one that was kept is
    left out.

    Args:
        count: number of images N; of two near-duplicates the lower number stays.
        read: returns the unit vectors float32 (n, D) of some images.
        threshold: cosine from which two images are near-duplicates.

    Returns:
        int32 (int64 from 2^31 images on) (N,): the image of which each one is a near-duplicate,
        which itself is none; -1 for those that stay.
    """
    found: Numbers = np.full(count, -1, np.int32 if count < 1 << 31 else np.int64)
    centres = _centres(count, read)
    members_of, bounds = _by_cluster(_nearest(count, read, centres), len(centres))
    with track("near-duplicates", len(centres), "clusters") as step:
        for number in range(len(centres)):
            members = members_of[bounds[number] : bounds[number + 1]].astype(np.int64)
            members = members[found[members] < 0]
            for part in _pieces(members, read, centres[number]):
                same = repeats(read(part), threshold)
                left_out = same >= 0
                found[part[left_out]] = part[same[left_out]]
            step()
    return _resolved(found)


def _by_cluster(
    near: NDArray[np.uint16], clusters: int
) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Sort images by their clusters, block by block: numpy's sort takes 16 bytes more of each.

    Args:
        near: uint16 (N, W), the clusters of each image.
        clusters: their number K.

    Returns:
        uint32 (int64 from 2^32 images on) (N * W,), the images of cluster 0 in their order, then
        those of cluster 1 ...; and int64 (K + 1,), where each cluster begins.
    """
    kind = np.dtype(np.uint32 if len(near) < 1 << 32 else np.int64)
    members: NDArray[np.integer] = np.empty(near.size, kind)
    bounds = np.zeros(clusters + 1, np.int64)
    blocks = range(0, len(near), AT_ONCE)
    for start in blocks:
        bounds[1:] += np.bincount(near[start : start + AT_ONCE].reshape(-1), minlength=clusters)
    bounds = np.cumsum(bounds)
    ends = bounds[:-1].copy()
    for start in blocks:
        block = near[start : start + AT_ONCE].reshape(-1)
        order = np.argsort(block, kind="stable")
        counts = np.bincount(block, minlength=clusters)
        within = np.arange(len(block)) - np.repeat(np.cumsum(counts) - counts, counts)
        members[np.repeat(ends, counts) + within] = start + order // near.shape[1]
        ends += counts
    return members, bounds


def _pieces(members: NDArray[np.int64], read: Read, centre: Floats) -> list[NDArray[np.int64]]:
    """Divide a cluster that is too large by the cosine with its centre: copies stay together."""
    if len(members) <= LARGEST:
        return [members]
    starts = range(0, len(members), AT_ONCE)
    cosines = np.concatenate([read(members[at : at + AT_ONCE]) @ centre for at in starts])
    sorted_ones = members[np.argsort(cosines, kind="stable")]
    parts = np.array_split(sorted_ones, -(-len(members) // LARGEST))
    return [np.sort(part) for part in parts]


def _resolved(found: Numbers) -> Numbers:
    """Follow each near-duplicate to an image that stays; it may have been left out later itself."""
    while True:
        left_out = np.flatnonzero(found >= 0)
        further = found[found[left_out]]
        if not (further >= 0).any():
            return found
        found[left_out] = np.where(further >= 0, further, found[left_out])


def repeats(vectors: Floats, threshold: float) -> NDArray[np.int64]:
    """Compare all pairs of (n, D) unit vectors, in their order.

    Returns:
        int64 (n,): the first earlier vector that stays and is near each one; -1 for those that
        stay.
    """
    found = np.full(len(vectors), -1, np.int64)
    kept = np.empty(0, np.int64)
    for start in range(0, len(vectors), COMPARED):
        block = vectors[start : start + COMPARED]
        for first in range(0, len(kept), 8 * COMPARED):
            some = kept[first : first + 8 * COMPARED]
            open_ones = np.flatnonzero(found[start : start + COMPARED] < 0)
            alike = block[open_ones] @ vectors[some].T >= threshold
            hit = alike.any(axis=1)
            found[start + open_ones[hit]] = some[alike[hit].argmax(axis=1)]
        fresh = np.flatnonzero(found[start : start + COMPARED] < 0)
        alike = np.tril(block[fresh] @ block[fresh].T >= threshold, -1)
        stays = np.ones(len(fresh), bool)
        for place in np.flatnonzero(alike.any(axis=1)).tolist():
            earlier = np.flatnonzero(alike[place] & stays)
            if len(earlier):
                stays[place] = False
                found[start + fresh[place]] = start + fresh[earlier[0]]
        kept = np.concatenate([kept, start + fresh[stays]])
    return found


def _centres(count: int, read: Read) -> Floats:
    """Find centres float32 (K, D) of unit length by k-means on a sample."""
    clusters = max(1, min(MOST_CLUSTERS, math.isqrt(count)))
    size = min(count, MOST_SAMPLED, SAMPLED * clusters)
    random = np.random.default_rng(0)
    sample = read(np.sort(random.choice(count, size, replace=False, shuffle=False)))
    centres = sample[np.sort(random.choice(size, min(clusters, size), replace=False))]
    for _ in range(ROUNDS):
        mine = np.concatenate(
            [_best(sample[at : at + AT_ONCE], centres, 1)[:, 0] for at in range(0, size, AT_ONCE)]
        )
        order = np.argsort(mine, kind="stable")
        there, starts = np.unique(mine[order], return_index=True)
        sums = np.add.reduceat(sample[order], starts, axis=0)
        centres = centres.copy()
        centres[there] = normalized(sums)  # an empty cluster stays where it was
    return centres


def _nearest(count: int, read: Read, centres: Floats) -> NDArray[np.uint16]:
    """The two nearest clusters of each image, uint16 (N, 2); (N, 1) where there is one."""
    wanted = min(2, len(centres))
    found = np.empty((count, wanted), np.uint16)
    with track("clusters", count, "images") as step:
        for start in range(0, count, AT_ONCE):
            stop = min(start + AT_ONCE, count)
            found[start:stop] = _best(read(np.arange(start, stop)), centres, wanted)
            step(stop - start)
    return found


def _best(vectors: Floats, centres: Floats, wanted: int) -> NDArray[np.intp]:
    """The `wanted` (1 or 2) nearest centres of each of (n, D) vectors, the nearest first."""
    result = np.empty((len(vectors), wanted), np.intp)
    for start in range(0, len(vectors), COMPARED):
        cosines = vectors[start : start + COMPARED] @ centres.T
        for place in range(wanted):
            best = cosines.argmax(axis=1)
            result[start : start + COMPARED, place] = best
            cosines[np.arange(len(cosines)), best] = -np.inf
    return result

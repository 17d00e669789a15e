"""Memory by the row: what a process keeps of each image, as slopes between two sizes."""

from __future__ import annotations

import numpy as np
import pytest

import growing
from clipdistill.core.zeroshot import LogitScale
from clipdistill.formats.cards import TeacherCard
from clipdistill.formats.embeddings import EmbeddingStore, Header, Row
from clipdistill.images.preprocess import Preprocess

SIZES = (20_000, 60_000)
KEY = 20
"""Bytes of a key in `stores`."""
DIM = 256
"""Half a kilobyte per vector: far more than the bounds, so that loading them would be seen."""


def key(number: int) -> str:
    return f"folder/{number:09d}.jpg"


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Stores of two sizes, in many shards."""
    card = TeacherCard("ViT-X", "tag", "f" * 32, DIM, LogitScale(), Preprocess(32))
    made = {}
    for count in SIZES:
        root = tmp_path_factory.mktemp(f"store-{count}")
        store = EmbeddingStore(root, Header(card, "clip-retrieval", "float16", False))
        for start in range(0, count, 4096):
            numbers = range(start, min(start + 4096, count))
            rows = [Row(key(n), f"{n + 1:032x}", 1000 + n, (1 << 60) + n) for n in numbers]
            store.append(rows, np.ones((len(rows), DIM), np.float16))
        store.finish([])
        made[count] = root
    return made


LISTED = """
from clipdistill.images.sources import ImageItem, Listing
from clipdistill.core.texts import Texts
keys = [f"folder/{n:09d}.jpg" for n in range(count)]
items = Listing.of(root, [ImageItem(one, root / one, 1000, 1) for one in keys])
del keys
"""


def test_pairing_keeps_no_vectors(stores) -> None:
    found = growing.slope(
        LISTED
        + "from clipdistill.distillation.distill import _pair\n"
        + "from clipdistill.formats.embeddings import load_embeddings\n",
        "pairs = _pair(items, load_embeddings(root))\nbatch = pairs.targets[[0, count - 1]]",
        stores,
    )
    assert found.held - KEY < 50, found
    assert found.most < 200, found

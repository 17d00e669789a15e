"""Pools as a source: exact, with what their metadata say, and refused when there are no URLs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from clipdistill.collect.pool import open_pool
from clipdistill.collect.sources.pooled import make_pooled
from clipdistill.core.errors import InputError

DIM = 8
PROMPTS = ["one", "two"]


def embed(texts):
    vectors = np.random.default_rng(1).normal(size=(len(texts), DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_pool(root: Path, **columns) -> np.ndarray:
    """A pool in clip-retrieval's layout, of two shards."""
    vectors = np.random.default_rng(0).normal(size=(40, DIM)).astype(np.float16)
    for name in ("img_emb", "metadata"):
        (root / name).mkdir(parents=True)
    for shard in range(2):
        part = slice(20 * shard, 20 * shard + 20)
        np.save(root / f"img_emb/img_emb_{shard}.npy", vectors[part])
        table = pyarrow.table({name: values[part] for name, values in columns.items()})
        pyarrow.parquet.write_table(table, root / f"metadata/metadata_{shard}.parquet")
    return vectors.astype(np.float32)


def test_the_best_by_cosine_with_their_metadata(tmp_path):
    urls = [f"https://x/{index}" for index in range(40)]
    vectors = write_pool(
        tmp_path,
        url=urls,
        caption=[f"c{i}" for i in range(40)],
        license=["https://creativecommons.org/licenses/by/4.0/"] * 40,
        author=["Ann"] * 40,
    )
    search = make_pooled(open_pool(tmp_path), embed, PROMPTS, 10)
    cosines = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) @ embed(PROMPTS).T
    for number, prompt in enumerate(PROMPTS):
        best = np.argsort(-cosines[:, number])[:10]
        rows = list(search(prompt, 10))
        assert [row.url for row in rows] == [urls[index] for index in best]
        assert np.allclose([row.score for row in rows], cosines[best, number], atol=1e-3)
    row = rows[0]
    assert (row.caption, row.license, row.attribution) == (f"c{best[0]}", "CC BY 4.0", "Ann")
    assert (row.source, row.rank, row.prompt) == ("pool", 1, "two")


def test_a_pool_without_urls_says_what_to_use(tmp_path):
    write_pool(tmp_path, image_path=[f"{index}.jpg" for index in range(40)])
    search = make_pooled(open_pool(tmp_path), embed, PROMPTS, 10)
    with pytest.raises(InputError, match=r"none of the 10 .* has a URL.*select.*serve --images"):
        list(search("one", 10))


def test_rows_without_a_url_are_distinguished(tmp_path):
    urls = [f"https://x/{index}" if index % 2 else None for index in range(40)]
    write_pool(tmp_path, url=urls)
    rows = list(make_pooled(open_pool(tmp_path), embed, PROMPTS, 40)("one", 40))
    assert len(rows) == 40
    assert sum(not row.url for row in rows) == 20

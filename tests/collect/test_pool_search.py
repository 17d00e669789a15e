"""pool search: the pool's own teacher finds what it embedded."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow.parquet
import pytest

from clipdistill.collect.pool_search import pool_search
from clipdistill.core.errors import InputError, MismatchError
from clipdistill.core.results import to_json
from clipdistill.distillation.embed import embed
from clipdistill.formats.embeddings import load_embeddings
from clipdistill.formats.text import load_text


@pytest.fixture(scope="module")
def images(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("pool") / "images"
    pictures(folder, 12)
    return folder


@pytest.fixture(scope="module")
def pool(images, tiny_teacher_name):
    out = images.parent / "emb"
    embed(images, out, model_name=tiny_teacher_name, device="cpu", num_workers=0)
    return out


def test_texts_and_prompts(pool, tiny_teacher, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("fish\ta red fish\nfish\ta blue fish\na cat\n")
    result = pool_search(pool, "a dog", "a dog", "owl", prompts=prompts, top_k=5, device="cpu")
    assert [answer.query for answer in result.answers] == ["a dog", "owl", "fish", "a cat"]
    stored = load_embeddings(pool)
    for answer in result.answers[:2]:
        cosines = stored.vectors.astype(np.float32) @ tiny_teacher.embed_texts([answer.query])[0]
        order = np.argsort(-cosines)[:5]
        assert [hit.image_path for hit in answer.hits] == [stored.rows[n].image_path for n in order]
        assert np.allclose([hit.score for hit in answer.hits], cosines[order], atol=2e-3)
    fish = tiny_teacher.embed_texts(["a red fish", "a blue fish"]).mean(0)
    cosines = stored.vectors.astype(np.float32) @ (fish / np.linalg.norm(fish))
    assert np.isclose(result.answers[2].hits[0].score, cosines.max(), atol=2e-3)
    assert (result.images, result.broken) == (12, 0)


def test_an_image_finds_itself(pool, images):
    names = [str(images / "picture_3.png"), str(images / "picture_7.png")]
    result = pool_search(pool, image=names, top_k=2, device="cpu")
    assert [answer.hits[0].image_path for answer in result.answers] == [
        "picture_3.png",
        "picture_7.png",
    ]
    assert result.answers[0].hits[0].score > 0.999
    (images / "bad.txt").write_text("x")
    with pytest.raises(InputError, match=r"bad\.txt"):
        pool_search(pool, image=[str(images / "bad.txt")], device="cpu")


def test_text_embeddings_need_no_teacher(pool, tiny_text, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "clipdistill.models.teacher", None)
    result = pool_search(pool, text=tiny_text, top_k=100)
    assert [answer.query for answer in result.answers] == list(load_text(tiny_text).labels)
    assert all(len(answer.hits) == 12 for answer in result.answers)


def test_what_is_shown(pool, tiny_text):
    result = pool_search(pool, text=tiny_text, top_k=3)
    table = result.summary()[0]
    assert table.columns == (">score", "image")
    assert len(table.rows) == 3
    hit = to_json(result)["answers"][0]["hits"][0]
    assert set(hit) == {"score", "row", "image_path", "url", "caption", "extra"}
    assert hit["extra"]["size"] > 0


def test_foreign_pools_need_a_name(pool, tiny_teacher_name, other_teacher, tmp_path):
    foreign = tmp_path / "foreign"
    (foreign / "metadata").mkdir(parents=True)
    shutil.copytree(pool / "img_emb", foreign / "img_emb")
    table = pyarrow.table({"url": [f"u{n}" for n in range(12)], "caption": ["words"] * 12})
    pyarrow.parquet.write_table(table, foreign / "metadata/metadata_0.parquet")
    with pytest.raises(InputError, match="--model-name"):
        pool_search(foreign, "a", device="cpu")
    result = pool_search(foreign, "a", model_name=tiny_teacher_name, device="cpu", top_k=1)
    [hit] = result.answers[0].hits
    assert hit.url.startswith("u")
    assert result.summary()[0].columns == (">score", "image", "caption")
    assert result.summary()[0].rows[0][1:] == (hit.url, "words")
    with pytest.raises(MismatchError):
        pool_search(pool, "a", model_name=other_teacher.card.model_name, device="cpu")


def test_nothing_to_look_for(pool, tmp_path, other_teacher, make_text):
    with pytest.raises(InputError, match="Nothing to search for"):
        pool_search(pool)
    with pytest.raises(InputError, match="Nothing to search for"):
        pool_search(pool, "  ")
    with pytest.raises(InputError, match="no such pool"):
        pool_search(tmp_path / "missing", "a")
    with pytest.raises(MismatchError):
        pool_search(pool, text=make_text(tmp_path / "o.npy", teacher=other_teacher))

"""distill, pool search and select over images and embeddings in object storage."""

from __future__ import annotations

import tarfile
from dataclasses import replace

import pytest

from clipdistill.cli import main
from clipdistill.collect.pool_merge import pool_merge
from clipdistill.collect.pool_search import pool_search
from clipdistill.collect.select import select
from clipdistill.core.errors import FormatError, InputError
from clipdistill.core.storage import location
from clipdistill.distillation.distill import distill
from clipdistill.distillation.embed import embed
from clipdistill.distillation.options import DistillOptions
from s3_server import s3, s3_process  # noqa: F401  (fixtures)
from tars import draw_tars

FAST = DistillOptions(
    image_size=32, batch_size=8, num_epochs=1, device="cpu", val_fraction=0.2, check_export=False
)


@pytest.fixture
def data(tmp_path, pictures, tiny_teacher_name, s3):  # noqa: F811
    """Images and embeddings, in folders and in a bucket."""
    pictures(tmp_path / "images/more", 24)
    options = {"model_name": tiny_teacher_name, "device": "cpu", "shard_size": 10}
    embed(tmp_path / "images", tmp_path / "emb", **options)
    images = location(s3.put(tmp_path / "images"))
    embed(images, f"{s3.url}/emb", **options)
    return images, location(f"{s3.url}/emb")


def test_a_student_learns_the_same_from_a_store_and_reads_it_once(data, tmp_path, s3):  # noqa: F811
    images, embeddings = data
    distill("test_resnet", tmp_path / "images", tmp_path / "emb", tmp_path / "local", FAST)
    s3.seen.clear()
    distill("test_resnet", images, embeddings, tmp_path / "remote", FAST)
    one, other = (tmp_path / name / "model.safetensors" for name in ("local", "remote"))
    assert one.read_bytes() == other.read_bytes()
    reads = [seen for seen in s3.seen if seen.startswith("GET") and ".p" in seen]
    assert len(reads) == 24 + 3  # the images, and the rows of three shards
    s3.seen.clear()
    distill("test_resnet", images, embeddings, tmp_path / "again", FAST)
    assert not [seen for seen in s3.seen if seen.startswith("GET") and "." in seen]


def test_tars_in_a_store_are_streamed_as_local_ones_are(tmp_path, tiny_teacher_name, s3):  # noqa: F811
    draw_tars(tmp_path / "shards", [38, 6, 30])
    with (
        tarfile.open(tmp_path / "shards/00002.tar") as plain,
        tarfile.open(tmp_path / "shards/00003.tar.gz", "w:gz") as packed,
    ):
        for member in plain:
            packed.addfile(member, plain.extractfile(member))
    embed(tmp_path / "shards", tmp_path / "emb", model_name=tiny_teacher_name, device="cpu")
    options = replace(FAST, batch_size=12, cache_gb=0.0, shuffle_buffer=24)
    url = location(s3.put(tmp_path / "shards"))
    distill("test_vit", tmp_path / "shards", tmp_path / "emb", tmp_path / "local", options)
    distill("test_vit", url, tmp_path / "emb", tmp_path / "remote", options)
    one, other = (tmp_path / name / "model.safetensors" for name in ("local", "remote"))
    assert one.read_bytes() == other.read_bytes()


def test_pool_search_and_select_give_what_they_give_locally(data, tmp_path, tiny_text, s3):  # noqa: F811
    images, embeddings = data
    found = [
        [(hit.image_path, hit.score) for answer in searched.answers for hit in answer.hits]
        for searched in (
            pool_search(embeddings, text=tiny_text, top_k=5),
            pool_search(tmp_path / "emb", text=tiny_text, top_k=5),
        )
    ]
    assert found[0] == found[1]
    select(images, embeddings, tiny_text, location(f"{s3.url}/selection"), num_images=3)
    select(tmp_path / "images", tmp_path / "emb", tiny_text, tmp_path / "selection", num_images=3)
    names = [path for path in (tmp_path / "selection").rglob("*") if path.is_file()]
    assert s3.get("selection") == {
        path.relative_to(tmp_path / "selection").as_posix(): path.read_bytes() for path in names
    }
    with pytest.raises(InputError, match=r"s3://.*/none: there is no such folder of embeddings"):
        pool_search(location(f"{s3.url}/none"), text=tiny_text)


def test_the_command_line_takes_urls(data, tmp_path, tiny_text, capsys, s3):  # noqa: F811
    _, embeddings = data
    assert main(["status", str(embeddings), "--json"]) == 0
    assert '"complete": true' in capsys.readouterr().out
    command = ["pool", "search", str(embeddings), "--text", str(tiny_text), "--json"]
    assert main(command) == 0
    assert '"image_path": "more/picture_' in capsys.readouterr().out
    student = [*["distill", "test_resnet", "photos"], str(embeddings), f"{s3.url}/student"]
    assert main(student) == 2
    assert f"OUT {s3.url}/student: expected a file or folder" in capsys.readouterr().err


def test_a_merged_pool_in_a_store_is_refused(data, s3, tmp_path, tiny_text):  # noqa: F811
    pool_merge(tmp_path / "pool", tmp_path / "emb", tmp_path / "emb", prefix=["a", "b"])
    with pytest.raises(FormatError, match="merged of several folders cannot be read from object"):
        pool_search(location(s3.put(tmp_path / "pool")), text=tiny_text)

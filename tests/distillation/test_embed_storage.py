"""embed from and to object storage: a real S3 server on loopback, and the same bytes as locally."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from clipdistill.distillation.embed import embed
from clipdistill.distillation.status import status
from clipdistill.formats.embeddings import load_embeddings
from s3_server import s3, s3_process  # noqa: F401  (fixtures)

SHARED = {"batch_size": 4, "shard_size": 6, "device": "cpu", "num_workers": 2}


def pack(tar: Path, folder: Path, names: list[str], mode: str = "w") -> Path:
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, mode) as file:
        for name in names:
            file.add(folder / name, name)
    return tar


@pytest.fixture
def images(tmp_path, pictures):
    """A folder with images, a broken one, and two tars."""
    pictures(tmp_path / "images/cats", 7)
    (tmp_path / "images/broken.png").write_bytes(b"no image")
    pictures(tmp_path / "loose", 6, seed=2)
    for number in range(2):
        names = [f"picture_{3 * number + n}.png" for n in range(3)]
        pack(tmp_path / f"images/shards/shard-{number:03d}.tar", tmp_path / "loose", names)
    return tmp_path / "images"


@pytest.fixture
def run(tiny_teacher_name):
    def call(images, out, **options):
        return embed(images, out, **{"model_name": tiny_teacher_name, **SHARED, **options})

    return call


def parts_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name in ("img_emb", "views")
    }


def check_same(store, name: str, local: Path) -> None:
    """The same vectors byte by byte, the same names, contents, sizes, failures and card."""
    stored = store.get(name)
    assert {key: data for key, data in stored.items() if key.startswith(("img_emb", "views"))} == (
        parts_of(local)
    )
    mine, theirs = load_embeddings(local), load_embeddings(_location(f"{store.url}/{name}"))
    assert list(mine.rows.keys) == list(theirs.rows.keys)
    assert list(mine.rows.contents) == list(theirs.rows.contents)
    assert list(mine.rows.sizes) == list(theirs.rows.sizes)
    assert stored["failures.jsonl"] == (local / "failures.jsonl").read_bytes()
    assert json.loads(stored["meta.json"]) == json.loads((local / "meta.json").read_bytes())


def _location(url: str) -> Path:
    from clipdistill.core.storage import location

    return location(url)


def test_images_and_embeddings_in_a_store_are_those_of_folders(run, s3, images, tmp_path):  # noqa: F811
    url = s3.put(images)
    local = run(images, tmp_path / "local", views=2)
    remote = run(url, f"{s3.url}/out", views=2)
    assert (remote.images, remote.embedded, len(remote.failures)) == (14, 13, 1)
    assert remote.failures == local.failures
    check_same(s3, "out", tmp_path / "local")
    puts = [one for one in s3.seen if one.startswith("PUT") and "clipdistill" not in one]
    assert puts[-1].endswith("/out/meta.json")
    assert not any(".clipdistill" in key for key in s3.get("out"))
    again = run(url, f"{s3.url}/out", views=2)
    assert (again.embedded, again.kept) == (0, 13)
    assert status(f"{s3.url}/out").complete

"""embed from and to object storage: a real S3 server on loopback, and the same bytes as locally."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import tarfile
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

import killing
from clipdistill.core import storage, storage_locks
from clipdistill.core.errors import (
    ClipDistillError,
    ImageError,
    OptionError,
    OutputError,
    ServiceError,
)
from clipdistill.core.locks import locked
from clipdistill.core.storage import location
from clipdistill.distillation.embed import embed
from clipdistill.distillation.status import status
from clipdistill.formats.embeddings import load_embeddings, read_failures
from clipdistill.formats.parts import part_path
from clipdistill.images.sources import MAX_BYTES, ImageItem, list_images
from s3_server import SLOW, elsewhere, forget_clients, s3, s3_process  # noqa: F401  (fixtures)

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
    mine, theirs = load_embeddings(local), load_embeddings(location(f"{store.url}/{name}"))
    assert list(mine.rows.keys) == list(theirs.rows.keys)
    assert list(mine.rows.contents) == list(theirs.rows.contents)
    assert list(mine.rows.sizes) == list(theirs.rows.sizes)
    assert stored["failures.jsonl"] == (local / "failures.jsonl").read_bytes()
    assert json.loads(stored["meta.json"]) == json.loads((local / "meta.json").read_bytes())


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
    assert len([one for one in s3.seen if one.startswith("GET") and ".tar" in one]) == 2
    again = run(url, f"{s3.url}/out", views=2)
    assert (again.embedded, again.kept) == (0, 13)
    assert status(f"{s3.url}/out").complete


def test_jobs_on_one_remote_output_share_it_and_a_killed_one_is_replaced(
    run,
    s3,  # noqa: F811
    images,
    tmp_path,
    tiny_teacher_name,
):
    url, out = s3.put(images), f"{s3.url}/out"
    run(images, tmp_path / "local")
    options = {"model_name": tiny_teacher_name, **SHARED, "shard_index": 1, "shard_count": 2}
    with killing.running(elsewhere, s3.settings, embed, url, out, **options) as process:
        wait_for(lambda: any("part_1.running" in one for one in s3.seen))
        killing.kill(process)
    assert not status(out).complete
    first = run(url, out, shard_index=0, shard_count=2)
    assert first.waiting in (1, 0)
    last = run(url, out, shard_index=1, shard_count=2)
    assert last.waiting == 0
    check_same(s3, "out", tmp_path / "local")
    assert not any(key.startswith("parts") for key in s3.get("out"))


def wait_for(ready, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_second_plain_command_on_a_remote_output_is_refused_until_the_first_is_dead(
    run,
    s3,  # noqa: F811
    images,
    tmp_path,
    tiny_teacher_name,
):
    url, out = s3.put(images), f"{s3.url}/out"
    options = {"model_name": tiny_teacher_name, **SHARED}
    with killing.running(elsewhere, s3.settings, embed, url, out, **options) as process:
        wait_for(lambda: any("PUT" in one and ".clipdistill-lock" in one for one in s3.seen))
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(OutputError, match=r"`clipdistill embed` \(process \d+\) is writing it"):
            run(url, out)
        killing.kill(process)
    run(url, out)
    run(images, tmp_path / "local")
    check_same(s3, "out", tmp_path / "local")


def test_a_lock_of_another_machine_holds_while_it_changes(s3, monkeypatch):  # noqa: F811
    monkeypatch.setattr(storage_locks, "BEAT", 0.2)
    out = location(f"{s3.url}/out")
    monkeypatch.setattr(storage_locks.platform, "node", lambda: "other")
    with locked(out, "embed"):
        monkeypatch.setattr(storage_locks.platform, "node", lambda: "here")
        with pytest.raises(OutputError, match="on other\\) is writing"), locked(out, "embed"):
            pass
    lock = {"verb": "embed", "process": 1, "host": "other", "token": "t", "beats": 1}
    (out / ".clipdistill-lock").write_bytes(json.dumps(lock).encode())
    with locked(out, "embed"):  # nobody writes it again: its machine is gone
        assert ".clipdistill-lock" in s3.get("out")
    assert s3.get("out") == {}


@pytest.mark.scale
def test_a_store_that_fails_now_and_then_costs_nothing(run, s3, images, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(storage, "PAUSE", 0.01)
    url = s3.put(images)
    run(images, tmp_path / "local")
    s3.every = (4, 503)
    s3.faults = [("GET .*picture", 500)] * 2 + [("PUT .*img_emb", 500), ("PUT .*meta", 503)]
    result = run(url, f"{s3.url}/out")
    s3.every = (0, 0)
    assert (result.embedded, len(result.failures)) == (13, 1)
    check_same(s3, "out", tmp_path / "local")


def test_a_store_that_does_not_answer_is_asked_again(run, s3, images, tmp_path, monkeypatch):  # noqa: F811
    import s3fs

    monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 0.7)
    forget_clients()
    url = s3.put(images / "cats")
    s3.faults = [("GET .*picture", SLOW), ("PUT .*img_emb", SLOW), ("HEAD|GET", SLOW)]
    assert run(url, f"{s3.url}/out").embedded == 7
    assert s3.faults == []


def test_a_store_that_fails_for_good_ends_the_command_and_loses_nothing(
    run,
    s3,  # noqa: F811
    images,
    tmp_path,
    monkeypatch,
):
    monkeypatch.setattr(storage, "PAUSE", 0.0)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    forget_clients()
    url, out = s3.put(images), f"{s3.url}/out"
    s3.faults = [("PUT .*img_emb_1", 503)] * 100
    with pytest.raises(
        ServiceError, match=r"img_emb_1\.npy: the store failed 4 times .*run the same"
    ):
        run(url, out)
    s3.faults = []
    assert "meta.json" not in s3.get("out")
    again = run(url, out)
    assert (again.kept, again.embedded) == (5, 8)  # a shard of six, one of them broken
    run(images, tmp_path / "local")
    assert sorted(load_embeddings(location(out)).rows.keys) == sorted(
        load_embeddings(tmp_path / "local").rows.keys
    )


def test_what_cannot_be_written_to_a_store_is_refused(run, s3, images):  # noqa: F811
    with pytest.raises(OptionError, match="--layout npy writes to folders of this machine only"):
        run(images, f"{s3.url}/out", layout="npy")
    with pytest.raises(OutputError, match="hf:// can only be read"):
        run(images, "hf://datasets/me/out")
    huge = ImageItem("a.jpg", location(f"{s3.url}/a.jpg"), MAX_BYTES + 1, 0)
    with pytest.raises(ImageError, match="is over the limit"):
        huge.read()


def test_patterns_name_the_same_images_locally_and_in_a_store(s3, images):  # noqa: F811
    url = s3.put(images)
    folder = [key for key in list_images(images).keys if "shards/" in key]
    shards = [key.removeprefix("shards/") for key in folder]
    for pattern, keys in {
        "shards/*.tar": shards,
        "shards/shard-{000..001}.tar": shards,
        "{shards,cats}/shard-*.tar": folder,
        "**/shard-00[0-9].tar": folder,
        "shards/shard-{000,001}.tar": shards,
    }.items():
        assert list(list_images(images / pattern).keys) == keys, pattern
        assert list(list_images(location(f"{url}/{pattern}")).keys) == keys, pattern
    missing = list_images(location(f"{url}/shards/shard-{{001..002}}.tar"))
    assert [(one.key, one.problem) for one in missing][-1] == (
        "shard-002.tar",
        "there is no such file",
    )


@pytest.mark.parametrize("place", ["local", "store"])
def test_compressed_tars_and_damaged_ones(run, s3, tmp_path, pictures, place):  # noqa: F811
    pictures(tmp_path / "loose", 6)
    names = sorted(path.name for path in (tmp_path / "loose").iterdir())
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    pack(plain / "a.tar", tmp_path / "loose", names)
    pack(packed / "a.tar.gz", tmp_path / "loose", names, "w:gz")
    whole = (packed / "a.tar.gz").read_bytes()
    (packed / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    (packed / "half.tar").write_bytes((plain / "a.tar").read_bytes()[:3000])
    (packed / "no.tgz").write_bytes(b"no gzip file")
    with gzip.open(packed / "zeros.tar.gz", "wb") as file:
        file.write(bytes(30 << 20))
    source = packed if place == "local" else s3.put(packed)
    result = run(source, tmp_path / "out")
    assert 6 < result.embedded < 12  # what the damaged ones have before the damage is used
    reasons = {failure.image_path.split("/")[0]: failure.reason for failure in result.failures}
    assert reasons.keys() == {"cut.tar.gz", "half.tar", "no.tgz", "zeros.tar.gz"}
    assert "cut short, or not a gzip file" in reasons["no.tgz"]
    assert "unpacked, it has more than" in reasons["zeros.tar.gz"]
    run(plain, tmp_path / "local")
    mine, theirs = load_embeddings(tmp_path / "out"), load_embeddings(tmp_path / "local")
    rows = [place for place, key in enumerate(mine.rows.keys) if key.startswith("a.tar.gz/")]
    assert mine.vectors[rows].tobytes() == theirs.vectors.tobytes()


@pytest.mark.parametrize("place", ["local", "store"])
def test_what_img2dataset_could_not_download_is_reported(run, s3, tmp_path, pictures, place):  # noqa: F811
    pictures(tmp_path / "loose", 2)
    folder = tmp_path / "laion"
    for name in ("picture_0", "picture_1"):
        for ending in ("txt", "json"):
            (tmp_path / f"loose/{name}.{ending}").write_text("{}")
    names = sorted(path.name for path in (tmp_path / "loose").iterdir())
    pack(folder / "00000.tar", tmp_path / "loose", names)
    rows = [
        {"key": "000000000", "url": "http://a/1", "status": "success", "error_message": None},
        {
            "key": "000000001",
            "url": "http://a/2",
            "status": "failed_to_download",
            "error_message": "HTTP Error 404",
        },
        {
            "key": "000000002",
            "url": "http://a/3",
            "status": "failed_to_resize",
            "error_message": "",
        },
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "00000.parquet")
    (folder / "00000_stats.json").write_text('{"count": 3, "successes": 1}')
    source = folder if place == "local" else s3.put(folder)
    result = run(source, tmp_path / "out")
    assert (result.images, result.embedded) == (2, 2)
    told = {failure.image_path: failure.reason for failure in result.failures}
    assert told == {
        "00000/000000001": "img2dataset: failed_to_download: HTTP Error 404: http://a/2",
        "00000/000000002": "img2dataset: failed_to_resize: http://a/3",
    }
    assert read_failures(tmp_path / "out") == result.failures
    jobs = run(source, tmp_path / "jobs", shard_index=0, shard_count=1)
    assert jobs.embedded == 2
    assert read_failures(tmp_path / "jobs") == result.failures


def test_a_part_in_a_store_cannot_name_files_of_this_machine(run, s3, images, tmp_path):  # noqa: F811
    url, out = s3.put(images), f"{s3.url}/out"
    secret = tmp_path / "secret.png"
    secret.write_bytes((images / "cats/picture_0.png").read_bytes())
    run(url, out, shard_index=1, shard_count=3)
    part = part_path(location(out), 0)
    table = pyarrow.parquet.read_table(io.BytesIO(part.read_bytes()))
    for name in (str(secret), f"file://{secret}", f"{url}/../../secret.png", "s3://other/a.png"):
        changed = table.set_column(1, "path", pyarrow.array([name] * len(table)))
        sink = io.BytesIO()
        pyarrow.parquet.write_table(changed, sink)
        part.write_bytes(sink.getvalue())
        with pytest.raises(ClipDistillError, match=r"does not lie in|without '\.\.'"):
            run(url, out, shard_index=0, shard_count=3)
    assert "img_emb/img_emb_0.npy" not in s3.get("out")

"""embed and what follows it over gs:// and hf://: real clients, servers on loopback.

The S3 server's tests (test_embed_storage.py) hold what is the same for every store.
"""

from __future__ import annotations

import json
import os
import signal
import tarfile
import time
from pathlib import Path

import pytest

import killing
from clipdistill.collect.pool_search import pool_search
from clipdistill.collect.select import select
from clipdistill.core import storage, storage_locks
from clipdistill.core.errors import InputError, OutputError, ServiceError
from clipdistill.core.locks import locked
from clipdistill.core.storage import location
from clipdistill.distillation.distill import distill
from clipdistill.distillation.embed import embed
from clipdistill.distillation.options import DistillOptions
from clipdistill.distillation.status import status
from clipdistill.formats.embeddings import load_embeddings
from gcs_server import forget_clients, gs, service_account  # noqa: F401  (gs: a fixture)
from hub_server import hub_store  # noqa: F401  (fixture)
from s3_server import elsewhere

DATASET = "datasets/lab/images"
SHARED = {"batch_size": 4, "shard_size": 6, "device": "cpu", "num_workers": 2}
FAST = DistillOptions(
    image_size=32, batch_size=8, num_epochs=1, device="cpu", val_fraction=0.2, check_export=False
)


@pytest.fixture
def images(tmp_path, pictures) -> Path:
    """A folder with images, a broken one, and a tar."""
    pictures(tmp_path / "images/cats", 9)
    (tmp_path / "images/broken.png").write_bytes(b"no image")
    with tarfile.open(tmp_path / "images/shard.tar", "w") as tar:
        for path in pictures(tmp_path / "loose", 5, seed=2):
            tar.add(path, path.name)
    return tmp_path / "images"


@pytest.fixture
def run(tiny_teacher_name, monkeypatch):
    monkeypatch.setattr(storage, "PAUSE", 0.0)

    def call(images, out, **options):
        return embed(images, out, **{"model_name": tiny_teacher_name, **SHARED, **options})

    return call


def vectors(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "img_emb").iterdir()}


def test_images_of_the_hub_are_embedded_and_learned_from(
    run,
    hub_store,  # noqa: F811
    images,
    tmp_path,
    tiny_text,
):
    url = hub_store.put(DATASET, images, "train")
    local, remote = tmp_path / "local", tmp_path / "remote"
    run(images, local)
    result = run(f"hf://{DATASET}@main/train", remote)
    assert (result.images, result.embedded, len(result.failures)) == (15, 14, 1)
    assert vectors(remote) == vectors(local)
    assert not [line for line in hub_store.seen if "paths-info" in line and "cats" in line]
    assert run(url, remote).kept == 14
    assert run(f"{url}/*/*_[0-3].png", tmp_path / "glob").embedded == 4
    (images / "cats/picture_0.png").write_bytes((images / "cats/picture_1.png").read_bytes())
    hub_store.put(DATASET, images, "train")
    assert run(url, remote).kept == 13
    run(images, local)
    embeddings = location(hub_store.put(DATASET, local, "emb"))
    assert status(embeddings).complete
    assert load_embeddings(embeddings).vectors.tobytes() == load_embeddings(local).vectors.tobytes()
    searched = [pool_search(one, text=tiny_text, top_k=3).answers[0] for one in (embeddings, local)]
    in_hub, in_files = [[hit.image_path for hit in answer.hits] for answer in searched]
    assert in_hub == in_files
    select(location(url), embeddings, tiny_text, tmp_path / "selection", num_images=3)
    distill("test_resnet", images, local, tmp_path / "of-files", FAST)
    distill("test_resnet", location(url), embeddings, tmp_path / "of-hub", FAST)
    of_files, of_hub = (tmp_path / one / "model.safetensors" for one in ("of-files", "of-hub"))
    assert of_files.read_bytes() == of_hub.read_bytes()


def test_a_hub_that_fails_now_and_then(run, hub_store, images, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    url = hub_store.put(DATASET, images)
    faults = ["503", "hang up", "cut", "whole"]
    hub_store.faults = {name: list(faults) for name in ("shard.tar", "cats/picture_3.png")}
    assert run(url, tmp_path / "out").embedded == 14
    assert not any(hub_store.faults.values())
    run(images, tmp_path / "local")
    assert vectors(tmp_path / "out") == vectors(tmp_path / "local")
    hub_store.faults = {"cats/picture_3.png": ["503"] * 1000}
    with pytest.raises(ServiceError, match=r"picture_3\.png: the store failed 4 times \(.*503"):
        run(url, tmp_path / "other")


def test_a_token_goes_to_the_hub_alone_and_opens_what_is_gated(
    run,
    hub_store,  # noqa: F811
    images,
    tmp_path,
    monkeypatch,
):
    url = hub_store.put(DATASET, images)
    hub_store.gated.add(DATASET)
    with pytest.raises(InputError, match=r"the repository is gated.*run: hf auth login"):
        run(url, tmp_path / "out")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert run(url, tmp_path / "out").embedded == 14
    assert hub_store.tokens == {"127.0.0.1"}


def test_images_and_embeddings_in_google_cloud_storage_are_those_of_folders(
    run,
    gs,  # noqa: F811
    images,
    tmp_path,
    tiny_text,
    monkeypatch,
):
    gs.private = True
    key = service_account(gs, tmp_path / "key.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    url, out = gs.put(images), f"{gs.url}/out"
    run(images, tmp_path / "local")
    assert run(url, out).embedded == 14
    assert vectors(tmp_path / "local") == {
        name.removeprefix("img_emb/"): data
        for name, data in gs.get("out").items()
        if name.startswith("img_emb/")
    }
    assert not any(".clipdistill" in name for name in gs.get("out"))
    assert (run(url, out).kept, status(out).complete) == (14, True)
    gs.put(images / "cats/picture_1.png", "images/cats/picture_0.png")
    assert run(url, out).kept == 13
    pool_search(location(out), text=tiny_text, top_k=3)
    select(location(url), location(out), tiny_text, location(f"{gs.url}/selection"), num_images=3)
    assert gs.get("selection")


def test_jobs_and_locks_in_google_cloud_storage(run, gs, images, monkeypatch):  # noqa: F811
    url, out = gs.put(images), f"{gs.url}/out"
    for index in (0, 1):
        last = run(url, out, shard_index=index, shard_count=2)
    assert (last.waiting, status(out).complete) == (0, True)
    monkeypatch.setattr(storage_locks, "BEAT", 0.2)
    monkeypatch.setattr(storage_locks.platform, "node", lambda: "other")
    with locked(location(out), "embed"):
        monkeypatch.setattr(storage_locks.platform, "node", lambda: "here")
        with pytest.raises(OutputError, match="on other\\) is writing"):
            run(url, out)
    lock = {"verb": "embed", "process": 1, "host": "other", "token": "t", "beats": 1}
    (location(out) / ".clipdistill-lock").write_bytes(json.dumps(lock).encode())
    assert run(url, out).kept == 14
    assert not any(".clipdistill" in name for name in gs.get("out"))


@pytest.mark.scale
def test_a_killed_command_in_google_cloud_storage_is_replaced(
    run,
    gs,  # noqa: F811
    images,
    tmp_path,
    tiny_teacher_name,
):
    url, out = gs.put(images), f"{gs.url}/out"
    options = {"model_name": tiny_teacher_name, **SHARED}
    with killing.running(elsewhere, gs.settings, embed, url, out, **options) as process:
        end = time.monotonic() + 120
        while ".clipdistill-lock" not in gs.get("out") and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(OutputError, match=r"`clipdistill embed` \(process \d+\) is writing it"):
            run(url, out)
        killing.kill(process)
    run(url, out, workers=2)
    run(images, tmp_path / "local")
    stored = {name.removeprefix("img_emb/"): data for name, data in gs.get("out").items()}
    assert vectors(tmp_path / "local").items() <= stored.items()


def test_google_cloud_storage_that_fails_now_and_then(run, gs, images, tmp_path, monkeypatch):  # noqa: F811
    url, out = gs.put(images), f"{gs.url}/out"
    gs.every = (4, 503)
    gs.faults = [("GET .*picture", 500), ("POST .*upload", 503), ("GET .*prefix=images", 429)]
    assert run(url, out).embedded == 14
    gs.every = (0, 0)
    run(images, tmp_path / "local")
    stored = {name.removeprefix("img_emb/"): data for name, data in gs.get("out").items()}
    assert vectors(tmp_path / "local").items() <= stored.items()
    gs.faults = [("GET .*download.*picture", 403)]
    gone = run(url, f"{gs.url}/other")
    assert [one for one in gone.failures if "access is denied" in one.reason]
    gs.faults = [("POST .*upload", 503)] * 1000
    with pytest.raises(ServiceError, match=r"gs://.*: the store failed 4 times .*run the same"):
        run(url, f"{gs.url}/third")


def test_credentials_that_google_refuses(gs, run, images, tmp_path, monkeypatch):  # noqa: F811
    gs.private = True
    url = gs.put(images)
    log_in = "credentials, or they are not accepted.*run: gcloud auth application-default login"
    with pytest.raises(InputError, match=log_in):
        run(url, tmp_path / "out")
    with pytest.raises(OutputError, match=log_in):
        run(images, f"{gs.url}/out")
    gs.refuses = True
    key = service_account(gs, tmp_path / "key.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    forget_clients()
    with pytest.raises(InputError, match=log_in):
        run(url, tmp_path / "out")

"""What clipdistill needs of every store: s3, gs, hf and memory, by their real clients."""

from __future__ import annotations

import itertools

import pytest

from clipdistill.core import storage
from clipdistill.core.files import write_bytes, write_json
from clipdistill.core.node_cache import at_hand, folder_at_hand
from clipdistill.core.storage import RemotePath, entry_of, location
from gcs_server import gs  # noqa: F401  (fixture)
from hub_server import hub_store  # noqa: F401  (fixture)
from s3_server import s3, s3_process  # noqa: F401  (fixtures)

STORES = ("s3", "gs", "hf", "memory")
DATASET = "datasets/lab/images"


@pytest.fixture(params=STORES)
def store(request, monkeypatch):
    """A store, and a function that puts a folder there and returns its path."""
    monkeypatch.setattr(storage, "PAUSE", 0.0)
    if request.param == "hf":
        hub = request.getfixturevalue("hub_store")
        return lambda folder: location(hub.put(DATASET, folder, "some"))
    if request.param == "memory":
        import fsspec

        memory = fsspec.filesystem("memory")
        monkeypatch.setenv("CLIPDISTILL_CACHE", str(request.getfixturevalue("tmp_path") / "cache"))

        def put(folder):
            memory.put(f"{folder}/", "/stores/some/", recursive=True)
            return location("memory://stores/some")

        memory.rm("/stores", recursive=True) if memory.exists("/stores") else None
        return put
    found = request.getfixturevalue(request.param)
    return lambda folder: location(found.put(folder, "some"))


@pytest.fixture
def folder(tmp_path):
    """A folder with more files than a page of a listing, an empty one, and odd names."""
    data = {f"{n:02d}.bin": bytes([n]) * (n + 1) for n in range(12)}
    data |= {"more/a b#?%[x]é.txt": b"odd", "more/deeper/c.txt": b"c", "none.bin": b""}
    for name, content in data.items():
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "files"


def test_files_are_listed_and_read(store, folder, tmp_path):
    root = store(folder)
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
    assert {name: path.read_bytes() for name, path in found.items()} == {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    big = found["11.bin"]
    assert big.read_range(2, 5) == bytes([11]) * 5
    assert big.read_range(10, 5) == bytes([11]) * 2
    assert big.read_range(12, 5) == big.read_range(500, 5) == b""
    assert found["none.bin"].read_range(0, 5) == b""
    assert root.is_dir()
    assert (root / "more").is_dir()
    assert not (root / "mor").exists()
    assert not big.is_dir()
    assert not root.is_file()
    with pytest.raises(FileNotFoundError):
        (root / "12.bin").read_bytes()
    entries = {entry.path.name: entry for entry in storage.scan(root)}
    assert entries["11.bin"].size == 12
    assert entries["more"].is_folder
    assert entry_of(big) == entries["11.bin"]
    assert at_hand(big).read_bytes() == big.read_bytes()
    with big.reader() as file:
        file.seek(-3, 2)
        assert file.read() == bytes([11]) * 3


def test_a_changed_file_has_another_version_and_is_copied_anew(store, folder):
    root = store(folder)
    before = {entry.path.name: entry.version for entry in storage.scan(root)}
    assert min(version for name, version in before.items() if name != "more") > 0
    (folder / "03.bin").write_bytes(b"abcd")
    (folder / "03.json").write_text("{}")
    copy = folder_at_hand(root)
    store(folder)
    after = {entry.path.name: entry.version for entry in storage.scan(root)}
    assert after["03.bin"] != before["03.bin"]
    assert at_hand(root / "03.bin").read_bytes() == b"abcd"
    assert folder_at_hand(root) == copy
    assert (copy / "03.json").read_text() == "{}"


@pytest.mark.parametrize("store", [name for name in STORES if name != "hf"], indirect=True)
def test_objects_are_written_whole_and_created_once(store, folder, tmp_path):
    root = store(folder)
    path = root / "new" / "a b.bin"
    assert isinstance(path, RemotePath)
    data = bytes(range(256)) * 40_000  # in several requests, where the client has them
    write_bytes(path, data)
    assert path.read_bytes() == data
    write_json(path, {"a": 1})
    assert path.read_bytes() == b'{\n  "a": 1\n}\n'
    assert (root / "lock").create(b"1")
    assert not (root / "lock").create(b"2")
    assert (root / "lock").read_bytes() == b"1"
    path.unlink()
    path.unlink(missing_ok=True)
    root.remove_tree()
    assert list(root.rglob("*")) == []


def test_an_upload_that_fails_midway_or_is_not_confirmed(gs, monkeypatch):  # noqa: F811
    monkeypatch.setattr(storage, "PAUSE", 0.0)
    path = location(f"{gs.url}/a.bin")
    data = bytes(range(256)) * 40_000
    gs.faults = [("POST .*upload_id", 503), ("POST .*upload_id", -503), ("POST .*resumable", 500)]
    write_bytes(path, data)
    assert gs.buckets[gs.bucket]["a.bin"][0] == data
    assert gs.faults == []
    gs.faults = [("POST .*multipart", -503)]
    lock = location(f"{gs.url}/lock")
    assert lock.create(b"mine")
    assert not lock.create(b"another")


def test_generations_of_servers_that_count_nanoseconds(gs, folder):  # noqa: F811
    gs.generations = itertools.count(1_795_893_371_689_599_800)
    root = location(gs.put(folder))
    versions = [entry.version for entry in storage.scan(root) if not entry.is_folder]
    assert len(set(versions)) == len(versions) == 13
    assert max(versions) < 2**63
    assert at_hand(root / "03.bin").read_bytes() == (folder / "03.bin").read_bytes()
    (folder / "03.json").write_text("{}")
    gs.put(folder)
    assert (folder_at_hand(root) / "03.json").read_text() == "{}"

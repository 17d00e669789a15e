"""Paths in object storage: which names are opened, and one clear sentence for each bad one."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import clipdistill
from clipdistill.cli import main
from clipdistill.core import node_cache, storage
from clipdistill.core.errors import (
    ClipDistillError,
    InputError,
    OptionError,
    OutputError,
)
from clipdistill.core.files import atomic_path, read_array, read_json, write_json
from clipdistill.core.node_cache import folder_at_hand
from clipdistill.core.storage import RemotePath, location
from clipdistill.images.patterns import MOST_NAMES, expand_braces
from clipdistill.images.sources import list_images
from s3_server import forget_clients, s3, s3_process  # noqa: F401  (fixtures)


def test_a_path_keeps_its_url_through_what_is_done_with_paths():
    path = location("s3://bucket/a/b.tar")
    assert isinstance(path, RemotePath)
    assert str(location(Path("s3://bucket/a/b.tar"))) == "s3://bucket/a/b.tar"
    assert str(path.parent / "c" / "d.npy") == "s3://bucket/a/c/d.npy"
    assert (path.name, path.suffix, path.with_suffix(".json").name) == ("b.tar", ".tar", "b.json")
    assert path.relative_to(location("s3://bucket")).as_posix() == "a/b.tar"
    assert pickle.loads(pickle.dumps(path)) == path
    assert path.absolute() == path
    assert location("file:///etc/hosts") == Path("/etc/hosts")
    assert type(location("photos/a")) is type(Path())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pipe:cat /etc/passwd", "never opened"),
        ("simplecache::s3://bucket/a", "expected|never opened"),
        ("s3://bucket/a.tar::file:///etc/passwd", "never opened"),
        ("zip://a.zip/b", "begins with s3://"),
        ("http://host/a.tar", "begins with s3://"),
        ("s3://bucket/../other/a", r"without '\.\.'"),
        ("s3://", "the name of a bucket"),
    ],
)
def test_names_that_are_never_opened(name, message, tmp_path):
    with pytest.raises(OptionError, match=message):
        clipdistill.embed(name, tmp_path / "out")


def test_what_needs_a_file_of_this_machine_refuses_a_url(tmp_path, capsys):
    with pytest.raises(InputError, match="s3://bucket/a: expected a file or folder"):
        open(location("s3://bucket/a"))  # noqa: SIM115
    assert main(["predict", "model.onnx", "--text", "s3://bucket/text.npy", "a.jpg"]) == 2
    assert "--text s3://bucket/text.npy: expected a file or folder" in capsys.readouterr().err
    with pytest.raises(InputError, match="expected the URL of a store"):
        (location("s3://bucket") / "/etc/passwd").read_bytes()
    with pytest.raises(OutputError, match="hf:// can only be read"):
        write_json(location("hf://datasets/me/data/meta.json"), {})


def test_importing_and_local_paths_import_no_client():
    code = (
        "import sys, clipdistill.cli, clipdistill.distillation.embed as e;"
        "from clipdistill.images.sources import list_images;"
        "from clipdistill.core.storage import location;"
        "location('s3://bucket/a');"
        "print([m for m in ('fsspec', 's3fs', 'botocore') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_bucket_no_folder_no_credentials(s3, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(storage, "PAUSE", 0.0)
    with pytest.raises(InputError, match=r"s3://no-such-bucket/a: there is no bucket"):
        list_images(location("s3://no-such-bucket/a"))
    with pytest.raises(InputError, match="no such folder"):
        list_images(location(f"{s3.url}/nothing"))
    with pytest.raises(OutputError, match="there is no bucket 'no-such-bucket'"):
        write_json(location("s3://no-such-bucket/a.json"), {})
    s3.faults = [("HEAD|GET", 403)] * 100
    with pytest.raises(InputError, match="access is denied"):
        list_images(location(f"{s3.url}/nothing"))
    s3.faults = []
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    forget_clients()
    with pytest.raises(InputError, match=r"there are no credentials.*AWS_ACCESS_KEY_ID"):
        list_images(location(f"{s3.url}/nothing"))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("shard-{000..010.tar", "its braces do not match"),
        ("shard-{a{b,c}}.tar", "its braces do not match|no range"),
        ("shard-{010..000}.tar", "ends before it begins"),
        ("shard-{0..x}.tar", "no range and no list"),
        ("shard-{}.tar", "no range and no list"),
        ("shard-{0000000..9999999}.tar", "10,000,000 names, the limit is"),
        ("{0..999}/{0..999}.tar", f"1,000,000 names, the limit is {MOST_NAMES:,}"),
        ("shard-*.tar", "fits no image and no tar"),
    ],
)
def test_bad_patterns(tmp_path, pattern, message):
    with pytest.raises(InputError, match=message):
        list_images(tmp_path / pattern)


def test_braces():
    assert expand_braces("a/{08..11}-{x,y}.tar")[:3] == ["a/08-x.tar", "a/08-y.tar", "a/09-x.tar"]
    assert expand_braces("{8..11}") == ["8", "9", "10", "11"]


def test_files_are_whole_or_not_there(s3, tmp_path):  # noqa: F811
    import numpy as np

    path = location(f"{s3.url}/out/a.npy")
    with pytest.raises(TypeError), atomic_path(path) as temporary:
        temporary.write_bytes("half")
    assert s3.get("out") == {}
    with atomic_path(path) as temporary:
        np.save(temporary, np.arange(5))
    assert read_array(path, mapped=True).tolist() == [0, 1, 2, 3, 4]
    write_json(path.with_suffix(".json"), {"a": 1})
    assert read_json(path.with_suffix(".json"), "it") == {"a": 1}
    copy = folder_at_hand(location(f"{s3.url}/out"))
    assert sorted(one.name for one in copy.iterdir()) == ["a.json", "a.npy"]
    (copy / "pixels").mkdir()
    path.unlink()
    write_json(path.with_suffix(".json"), {"a": 22})
    assert folder_at_hand(location(f"{s3.url}/out"), skip="pixels") == copy
    assert sorted(one.name for one in copy.iterdir()) == ["a.json", "pixels"]
    assert read_json(copy / "a.json", "it") == {"a": 22}


def test_the_copies_that_were_not_used_for_longest_are_deleted(s3, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(node_cache, "MOST_BYTES", 2500)
    monkeypatch.setattr(node_cache._room, "STEP", 1)
    copies = []
    for number in range(4):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]) * 1000)
        copies.append(node_cache.at_hand(location(s3.put(tmp_path / f"{number}.bin"))))
        os.utime(copies[-1], ns=(number, number))
    assert [copy.exists() for copy in copies] == [False, False, True, True]
    assert node_cache.at_hand(location(f"{s3.url}/0.bin")).read_bytes() == bytes(1000)


def test_large_objects_are_read_in_blocks(s3, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(storage, "BLOCK", 1000)
    data = bytes(range(256)) * 40
    (tmp_path / "big").write_bytes(data)
    path = location(s3.put(tmp_path / "big"))
    s3.seen.clear()
    with path.reader() as file:
        file.seek(990)
        assert file.read(20) == data[990:1010]
        assert file.read() == data[1010:]
    assert storage.read_member(path, 1995, 10, 1) == data[1995:2005]
    assert storage.read_member(path, len(data) - 5, 100, 1) == data[-5:]
    assert len(storage._blocks._kept) <= storage.BLOCKS


def test_memory_is_a_store(tmp_path, pictures):
    import fsspec

    pictures(tmp_path / "images", 2)
    fsspec.filesystem("memory").put(str(tmp_path / "images"), "/tests/images", recursive=True)
    items = list_images(location("memory://tests/images"))
    assert list(items.keys) == ["picture_0.png", "picture_1.png"]
    assert items[0].read() == (tmp_path / "images/picture_0.png").read_bytes()
    with pytest.raises(ClipDistillError, match="no such folder"):
        list_images(location("memory://tests/none"))

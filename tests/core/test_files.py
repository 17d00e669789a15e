"""Atomic writers under faults: a reader finds the old file or the new one, never half of one."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clipdistill.core.files as files_module
from clipdistill.core.errors import FormatError, InputError, OutputError
from clipdistill.core.files import (
    TEMPORARY_PREFIX,
    atomic_path,
    check_format,
    ensure_folder,
    read_array,
    read_json,
    sha256_of,
    write_bytes,
    write_json,
)


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.startswith(TEMPORARY_PREFIX)]


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "new/folder/x.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert not left_over(tmp_path)


def write_half(path: Path, error: BaseException) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise error


def test_an_exception_in_the_body_leaves_the_old_file_and_passes_through(tmp_path):
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError):
        write_half(path, ZeroDivisionError())
    assert path.read_bytes() == b"old"
    assert not left_over(tmp_path)


def test_keyboard_interrupt_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt):
        write_half(path, KeyboardInterrupt())
    assert path.read_bytes() == b"old"
    assert not left_over(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("step", ["write", "sync", "rename"])
def test_a_full_disk_at_any_step(tmp_path, monkeypatch, number, step):
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")

    def full(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    target = {"write": (Path, "write_bytes"), "sync": (os, "fsync"), "rename": (os, "replace")}
    with monkeypatch.context() as patch:
        patch.setattr(*target[step], full)
        with pytest.raises(OutputError, match=r"No space left while writing .*x\.bin.*free some"):
            write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert not left_over(tmp_path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO])
def test_other_complaints_name_the_file_and_the_reason(tmp_path, monkeypatch, number):
    def refuse(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OutputError, match=rf"Cannot write .*x\.bin: {os.strerror(number)}. Choose"):
        write_bytes(tmp_path / "x.bin", b"new")


@pytest.fixture
def tiny_disk(tmp_path):
    """A real disk of 256 kB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root to mount a small tmpfs")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def write_array(path: Path) -> None:
    with atomic_path(path.with_suffix(".npy")) as temporary:
        np.save(temporary, np.zeros(100_000, dtype=np.float32))


def write_checkpoint(path: Path) -> None:
    import torch

    from clipdistill.formats.student import save_checkpoint

    save_checkpoint(path.parent, {"model": {"w": torch.zeros(100_000)}})


def write_weights(path: Path) -> None:
    import torch

    from clipdistill.formats.student import save_weights

    save_weights(path.parent, {"w": torch.zeros(100_000)})


def write_rows(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"x": np.random.default_rng(0).random(100_000)})
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)


def write_much(path: Path) -> None:
    write_bytes(path, b"x" * 400_000)


WRITERS = [write_much, write_array, write_checkpoint, write_weights, write_rows]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_really_is_full(tiny_disk, writer):
    write_bytes(tiny_disk / "x.bin", b"old")
    with pytest.raises(OutputError, match=r"No space left while writing .* free some space"):
        writer(tiny_disk / "x.bin")
    assert (tiny_disk / "x.bin").read_bytes() == b"old"
    assert not left_over(tiny_disk)
    write_bytes(tiny_disk / "x.bin", b"n" * 100_000)  # the failed try gave its space back


@pytest.mark.parametrize("writer", WRITERS)
def test_a_limit_on_the_size_of_files(tmp_path, writer):
    write_bytes(tmp_path / "x.bin", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OutputError, match="No space left while writing"):
            writer(tmp_path / "x.bin")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "x.bin").read_bytes() == b"old"
    assert not left_over(tmp_path)


def test_a_file_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match=r"out should be a folder, but a file .* Choose another"):
        ensure_folder(tmp_path / "out")
    for write in (ensure_folder, lambda path: write_bytes(path, b"x")):
        with pytest.raises(OutputError, match="Cannot write"):
            write(tmp_path / "out/deeper/x")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        for write in (ensure_folder, lambda path: write_bytes(path, b"x")):
            with pytest.raises(OutputError, match="Permission denied"):
                write(tmp_path / "x/y")
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_where_the_file_should_be(tmp_path):
    (tmp_path / "x.bin").mkdir()
    with pytest.raises(OutputError, match=r"x\.bin"):
        write_bytes(tmp_path / "x.bin", b"new")
    assert not left_over(tmp_path)


def test_names_as_long_as_the_disk_allows(tmp_path):
    path = tmp_path / ("n" * 251 + ".npy")
    write_bytes(path, b"x")
    assert path.read_bytes() == b"x"
    with pytest.raises(OutputError, match="File name too long"):
        write_bytes(tmp_path / ("n" * 300), b"x")
    with pytest.raises(OutputError, match="File name too long"):
        ensure_folder(tmp_path / ("n" * 300))


def test_ensure_folder_leaves_nothing_behind(tmp_path):
    assert ensure_folder(tmp_path / "a/b") == tmp_path / "a/b"
    assert list((tmp_path / "a/b").iterdir()) == []
    ensure_folder(tmp_path / "a/b")


def test_two_writers_of_one_process_do_not_share_a_temporary_file(tmp_path):
    with atomic_path(tmp_path / "x.bin") as one, atomic_path(tmp_path / "x.bin") as two:
        assert one != two
        one.write_bytes(b"1")
        two.write_bytes(b"2")
    assert (tmp_path / "x.bin").read_bytes() == b"1"


ENDLESS = """
    import sys
    from pathlib import Path
    from clipdistill.core.files import atomic_path
    path = Path(sys.argv[1])
    for number in range(10**9):
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            for _ in range(50):
                handle.write(bytes([number % 256]) * 20_000)
                handle.flush()
"""


def test_kill_9_in_the_middle_of_writing(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(b"\0" * 1_000_000)
    torn = 0
    for attempt in range(6):
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(ENDLESS), str(path)])
        before = path.stat().st_ino
        deadline = time.monotonic() + 60
        while path.stat().st_ino == before:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.003 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        data = path.read_bytes()
        assert len(data) == 1_000_000
        assert len(set(data)) == 1
        torn += len(left_over(tmp_path)) > 0
    assert torn, "no kill hit a write: the test shows nothing"


def test_no_loader_takes_a_left_over_for_a_result(tmp_path, make_text, pictures):
    from clipdistill.formats.embeddings import load_embeddings, read_header
    from clipdistill.images.sources import list_images

    bare = tmp_path / "bare"
    bare.mkdir()
    np.save(bare / "a.npy", np.ones(4, dtype=np.float32))
    for ending in (".npy", ".json", ".parquet", ".png"):
        (bare / f"{TEMPORARY_PREFIX}99-1{ending}").write_bytes(b"torn")
    assert [row.image_path for row in load_embeddings(bare).rows] == ["a.npy"]
    for folder in ("metadata", "img_emb"):
        (tmp_path / "store" / folder).mkdir(parents=True)
        (tmp_path / "store" / folder / f"{TEMPORARY_PREFIX}99-1.parquet").write_bytes(b"torn")
        (tmp_path / "store" / folder / f"{TEMPORARY_PREFIX}99-1.npy").write_bytes(b"torn")
    assert read_header(tmp_path / "store") is None
    with pytest.raises(InputError, match="no embeddings"):
        load_embeddings(tmp_path / "store")
    pictures(tmp_path / "images", 1)
    (tmp_path / "images" / f"{TEMPORARY_PREFIX}99-1.png").write_bytes(b"torn")
    assert len(list_images(tmp_path / "images")) == 1


def test_read_json_complaints(tmp_path):
    path = tmp_path / "card.json"
    with pytest.raises(InputError, match=r"card\.json: the card is missing"):
        read_json(path, "the card")
    for data in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b"{'a': 1}"):
        path.write_bytes(data)
        with pytest.raises(FormatError, match=r"card\.json: the card should be JSON"):
            read_json(path, "the card")
    path.write_bytes(b"[1]")
    with pytest.raises(FormatError, match="JSON object, found list"):
        read_json(path, "the card")
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        read_json(path, "the card")


@given(st.binary(max_size=100))
def test_read_json_of_anything(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(data)
    try:
        assert isinstance(read_json(path, "it"), dict)
    except FormatError as error:
        assert "any.json" in str(error)  # noqa: PT017


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None, exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_json_round_trip_of_any_value_even_of_names_that_are_not_unicode(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "round.json"
    write_json(path, value)
    assert read_json(path, "it") == value
    json.loads(path.read_text("utf-8"))


def test_check_format(tmp_path):
    good = {"format": "clipdistill.x", "version": 1}
    check_format(tmp_path, good, "clipdistill.x", 1)
    with pytest.raises(
        FormatError, match=r"expected a 'clipdistill.y' file, found format 'clipdis"
    ):
        check_format(tmp_path, good, "clipdistill.y", 1)
    with pytest.raises(FormatError, match=r"version 2 is newer .* Update clipdistill"):
        check_format(tmp_path, {**good, "version": 2}, "clipdistill.x", 1)
    for version in (None, "1", 1.5):
        with pytest.raises(FormatError, match="version"):
            check_format(tmp_path, {**good, "version": version}, "clipdistill.x", 1)


def test_read_array(tmp_path):
    path = tmp_path / "x.npy"
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(path, values)
    assert np.array_equal(read_array(path), values)
    assert isinstance(read_array(path, mapped=True), np.memmap)
    with pytest.raises(InputError, match="no such file"):
        read_array(tmp_path / "y.npy")
    np.savez(tmp_path / "z.npz", values)
    with pytest.raises(FormatError, match="archive"):
        read_array(tmp_path / "z.npz")
    np.save(path, np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match=r"x\.npy: expected a whole"):
        read_array(path)


@given(
    cut=st.integers(0, 175),
    hit=st.integers(0, 130),
    value=st.integers(0, 255),
    mapped=st.booleans(),
)
def test_read_array_of_a_damaged_file(tmp_path_factory, cut, hit, value, mapped):
    path = tmp_path_factory.getbasetemp() / "damaged.npy"
    np.save(path, np.arange(12, dtype=np.float32).reshape(3, 4))
    data = bytearray(path.read_bytes())
    assert len(data) == 176
    data[hit] = value
    path.write_bytes(data[: cut if cut % 2 else None])
    try:
        read_array(path, mapped=mapped)
    except FormatError as error:
        assert "damaged.npy" in str(error)  # noqa: PT017


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x").startswith("ba7816bf8f01cfea")


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "_cleaned", set())
    host = files_module._host()
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    left = tmp_path / f".clipdistill-tmp-{host}-{dead}-3.npy"
    kept = [
        tmp_path / f".clipdistill-tmp-{host}-{os.getpid()}-999999.npy",  # a live process
        tmp_path / f".clipdistill-tmp-00000000-{dead}-3.npy",  # of another machine
        tmp_path / ".clipdistill-tmp-something-else",
    ]
    for path in (left, *kept):
        path.touch()
    write_bytes(tmp_path / "a", b"1")
    assert not left.exists()
    assert all(path.exists() for path in kept)

"""Reading images of tars ahead: each tar is opened once, and nothing is lost."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

import clipdistill.images.runs as runs
from clipdistill.core.errors import ImageError
from clipdistill.images.runs import ReadImage, read_run
from clipdistill.images.sources import list_images


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def tars(tmp_path):
    for tar in range(2):
        members = {f"{n}.png": bytes([tar, n]) * 100 for n in range(4)}
        write_tar(tmp_path / f"{tar}.tar", {**members, "0.json": b"{}"})
    return tmp_path


def test_each_tar_is_opened_once(tars, monkeypatch):
    opened = []
    real = runs.open_regular
    monkeypatch.setattr(runs, "open_regular", lambda path: opened.append(path.name) or real(path))
    items = list_images(tars)
    found = read_run(items, 1 << 20)
    assert opened == ["0.tar", "1.tar"]
    assert all(isinstance(one, ReadImage) for one in found)
    assert [one.key for one in found] == list(items.keys)
    assert [one.read() for one in found] == [one.read() for one in items]


def test_what_is_beyond_the_limit_is_read_when_it_is_used(tars):
    found = read_run(list_images(tars), 500)
    assert [isinstance(one, ReadImage) for one in found] == [True] * 2 + [False] * 6
    assert found[7].read() == bytes([1, 3]) * 100


def test_what_cannot_be_read_gives_its_reason_when_it_is_used(tars, pictures):
    items = list_images(tars)
    (tars / "0.tar").unlink()
    whole = (tars / "1.tar").read_bytes()
    (tars / "1.tar").write_bytes(whole[: items[6].offset + 10])
    pictures(tars / "files", 1)
    found = read_run([*items, *list_images(tars / "files")], 1 << 20)
    assert [isinstance(one, ReadImage) for one in found] == [False] * 4 + [True] * 2 + [False] * 3
    with pytest.raises(ImageError, match="cannot be read"):
        found[0].read()
    with pytest.raises(ImageError, match="the tar ends after 10 of 200 bytes"):
        found[6].read()
    assert found[8].read()[:4] == b"\x89PNG"

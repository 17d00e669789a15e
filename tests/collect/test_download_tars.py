"""download --layout webdataset: tars that embed reads, the same ones after any kill."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipdistill.cli import main
from clipdistill.collect.download import download
from clipdistill.collect.web.options import DownloadOptions
from clipdistill.core.errors import OptionError
from clipdistill.core.storage import location
from clipdistill.formats.ledger import LedgerRow, read_ledger, stem_of, write_index
from clipdistill.formats.urls import UrlRow, save_urls
from clipdistill.images.sources import list_images
from gcs_server import gs  # noqa: F401  (fixture)
from hostile import HostileServer, jpeg, replies
from killing import killed_when
from s3_server import elsewhere, s3, s3_process  # noqa: F401  (fixtures)


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer().running() as one:
        for number in range(11):
            one.answers[f"{number}.jpg"] = replies(jpeg(number % 10))  # the last repeats the first
        yield one


@pytest.fixture
def urls(server: HostileServer, tmp_path: Path) -> Path:
    names = [*(f"{number}.jpg" for number in range(11)), "nothing.jpg"]
    found = [UrlRow(server.url(name), prompt="a dog", caption=f"Ä {name}") for name in names]
    save_urls(tmp_path / "urls.txt", found)
    return tmp_path / "urls.txt"


def options(**changed: object) -> DownloadOptions:
    quick = {"allow_private": True, "timeout": 2.0, "total_timeout": 5.0, "retries": 0}
    return DownloadOptions(**{**quick, "layout": "webdataset", "shard_size": 4, **changed})


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_tars_hold_images_captions_and_what_is_known(urls, server, tmp_path):
    folder = tmp_path / "images"
    result = download(urls, folder, options())
    assert (result.downloaded, result.duplicates, result.failed, result.tars) == (10, 1, 1, 3)
    assert {path.name for path in folder.iterdir()} == {
        *("00000.tar", "00001.tar", "00002.tar"),
        "index.parquet",
    }
    with tarfile.open(folder / "00000.tar") as tar:
        names = tar.getnames()
        stems = list(dict.fromkeys(name.partition(".")[0] for name in names))
        assert names == [f"{stem}.{end}" for stem in stems for end in ("jpg", "txt", "json")]
        first = json.load(tar.extractfile(names[2]))
        assert tar.extractfile(names[1]).read().decode() == first["caption"]
        assert tar.extractfile(names[0]).read() in [jpeg(number) for number in range(10)]
    rows = {row.url: row for row in read_ledger(folder)}
    assert rows[first["url"]].file == first["file"] == f"00000.tar/{names[0]}"
    assert (first["prompt"], first["status"], first["width"]) == ("a dog", "ok", 64)
    order = [server.url(f"{number}.jpg") for number in range(11)]
    assert stems == [stem_of(url) for url in order if rows[url].status == "ok"][:4]
    images = list_images(folder)
    assert sorted(images.keys) == sorted(row.file for row in rows.values() if row.status == "ok")
    (double,) = [row for row in rows.values() if row.status == "duplicate"]
    assert double.file in images.keys


def test_a_second_run_changes_no_tar_and_new_urls_get_new_tars(urls, server, tmp_path):
    folder = tmp_path / "images"
    download(urls, folder, options())
    before, ledger = tars(folder), (folder / "index.parquet").read_bytes()
    again = download(urls, folder, options())
    assert (again.downloaded, again.kept, again.tars) == (0, 12, 0)
    assert (tars(folder), (folder / "index.parquet").read_bytes()) == (before, ledger)
    server.answers["new.jpg"] = replies(jpeg(77))
    save_urls(urls, [UrlRow(server.url("new.jpg"))])
    assert download(urls, folder, options()).tars == 1
    assert tars(folder) | before == tars(folder)
    assert sorted(tars(folder)) == ["00000.tar", "00001.tar", "00002.tar", "00003.tar"]
    plain = download(urls, folder, options(layout="folder"))
    assert (plain.kept, plain.downloaded) == (1, 0)


def test_killed_at_any_moment_it_ends_with_the_same_tars(urls, tmp_path):
    download(urls, tmp_path / "alone", options())
    folder, killed = tmp_path / "images", 0
    moments = [
        lambda: len(list(folder.glob("*.jpg"))) >= 2,
        lambda: (folder / "index.parquet").exists(),
        lambda: (folder / "00000.tar").exists(),
        lambda: (folder / "00001.tar").exists(),
    ]
    for moment in moments:
        killed += killed_when(moment, download, urls, folder, options())
    assert killed
    download(urls, folder, options())
    assert tars(folder) == tars(tmp_path / "alone")
    assert read_ledger(folder) == read_ledger(tmp_path / "alone")
    assert not list(folder.glob("*.jpg"))


def test_a_foreign_tar_and_a_foreign_ledger_do_no_harm(urls, tmp_path):
    folder, precious = tmp_path / "images", tmp_path / "precious.jpg"
    folder.mkdir()
    precious.write_bytes(jpeg(50))
    (folder / "00000.tar").write_bytes(b"half-written")
    (folder / "precious.jpg").write_bytes(jpeg(51))
    files = [(50, str(precious)), (51, "precious.jpg"), (50, "../precious.jpg")]
    rows = [
        LedgerRow(
            f"http://127.0.0.1:9/{number}.jpg",
            file=name,
            status="ok",
            bytes=len(jpeg(seed)),
            sha256=f"{number:064}",
        )
        for number, (seed, name) in enumerate(files)
    ]
    write_index(folder, rows)
    download(urls, folder, options())
    assert (folder / "00000.tar").read_bytes() == b"half-written"
    assert precious.read_bytes() == jpeg(50)
    assert (folder / "precious.jpg").read_bytes() == jpeg(51)
    keys = [item.key for item in list_images(folder) if not item.problem]
    assert len(keys) == 11
    assert {key.split("/")[0] for key in keys} == {
        *("00001.tar", "00002.tar", "00003.tar"),
        "precious.jpg",
    }


def test_wrong_options(urls, tmp_path):
    with pytest.raises(OptionError, match="--shard-size 0: expected 1 or more"):
        download(urls, tmp_path / "images", options(shard_size=0))


def test_tars_in_a_store_are_those_of_a_folder_also_after_a_kill(urls, s3, tmp_path, server):  # noqa: F811
    download(urls, tmp_path / "alone", options())
    images = location(f"{s3.url}/images")
    tar = lambda number: lambda: any(f"PUT /{s3.bucket}/images/0000{number}" in s for s in s3.seen)  # noqa: E731
    command = (elsewhere, s3.settings, download, urls, images, options())
    killed = [killed_when(tar(number), *command) for number in range(3)]
    assert any(killed)
    result = download(urls, images, options())
    assert result.urls == 12
    stored = s3.get("images")
    assert stored.keys() == {"00000.tar", "00001.tar", "00002.tar", "index.parquet"}
    assert {name: stored[name] for name in tars(tmp_path / "alone")} == tars(tmp_path / "alone")
    assert stored["index.parquet"] == (tmp_path / "alone/index.parquet").read_bytes()
    assert list(list_images(images).keys) == list(list_images(tmp_path / "alone").keys)
    asked = server.asked.copy()
    again = download(urls, images, options())
    assert (again.kept, again.downloaded, again.tars) == (11 + 1, 0, 0)
    assert {name for name in server.asked if server.asked[name] != asked[name]} <= {"nothing.jpg"}


def test_tars_in_google_cloud_storage_are_those_of_a_folder(urls, gs, tmp_path):  # noqa: F811
    gs.every = (5, 503)
    download(urls, tmp_path / "alone", options())
    download(urls, location(f"{gs.url}/images"), options())
    stored = gs.get("images")
    assert stored.keys() == {*tars(tmp_path / "alone"), "index.parquet"}
    assert {name: stored[name] for name in tars(tmp_path / "alone")} == tars(tmp_path / "alone")
    again = download(urls, location(f"{gs.url}/images"), options())
    assert (again.kept, again.downloaded, again.tars) == (12, 0, 0)


def test_files_in_a_store_are_refused(urls, capsys):
    assert main(["download", str(urls), "s3://bucket/images"]) == 2
    assert "--layout folder writes to folders of this machine only" in capsys.readouterr().err

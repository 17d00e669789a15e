"""download: lists of URLs to folders of images, on loopback, with everything that goes wrong."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdistill import FormatError, InputError, OutputError
from clipdistill.collect.download import DownloadResult, download
from clipdistill.collect.web.options import DownloadOptions
from clipdistill.formats.ledger import LedgerRow, read_ledger, stem_of
from clipdistill.formats.urls import UrlRow, save_urls
from clipdistill.images.sources import is_picture
from hostile import HostileServer, huge_png, in_turn, jpeg, replies
from killing import after, holding, killed_when, run_to_end


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer().running() as one:
        yield one


def options(**changed: object) -> DownloadOptions:
    quick = {"allow_private": True, "timeout": 2.0, "total_timeout": 5.0, "retries": 0}
    return DownloadOptions(**{**quick, **changed})


def write_list(folder: Path, *urls: str) -> Path:
    path = folder / "urls.txt"
    path.write_text("".join(f"{url}\n" for url in urls))
    return path


def get(tmp_path: Path, *urls: str, **changed: object) -> DownloadResult:
    return download(write_list(tmp_path, *urls), tmp_path / "images", options(**changed))


def get_nothing(tmp_path: Path, *urls: str, **changed: object) -> tuple[str, LedgerRow]:
    """Of what gives no image: the message, and the first row of the ledger."""
    with pytest.raises(InputError, match="none of its") as caught:
        get(tmp_path, *urls, **changed)
    check_agreement(tmp_path / "images")
    return str(caught.value), read_ledger(tmp_path / "images")[0]


def ledger(tmp_path: Path) -> dict[str, LedgerRow]:
    return {row.url: row for row in read_ledger(tmp_path / "images")}


def check_agreement(images: Path) -> None:
    """The ledger and the folder say the same, byte for byte."""
    rows = read_ledger(images)
    stored = {row.file: row for row in rows if row.status == "ok"}
    assert {path.name for path in images.iterdir() if is_picture(path.name)} == set(stored)
    for name, row in stored.items():
        data = (images / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (row.bytes, row.sha256)
        assert name.startswith(stem_of(row.url))
    assert all(row.file in stored for row in rows if row.status == "duplicate")
    assert all(row.reason for row in rows if row.status in ("failed", "refused"))
    assert not [path for path in images.iterdir() if path.name.startswith(".clipdistill-tmp")]


def test_images_are_stored_with_a_row_each(server: HostileServer, tmp_path: Path) -> None:
    server.answers["a.png"] = replies(jpeg(1), Content_Type="image/png")
    server.answers["b"] = replies(jpeg(2), Content_Type="text/html")
    result = get(tmp_path, server.url("a.png"), server.url("b"), server.url("nothing"))
    assert (result.urls, result.downloaded, result.failed) == (3, 2, 1)
    assert [(r.kind, r.count) for r in result.reasons] == [("http 404", 1)]
    row = ledger(tmp_path)[server.url("a.png")]
    assert row.file == stem_of(row.url) + ".jpg"  # by its bytes, not by its name or header
    assert (row.width, row.height, row.http_status) == (64, 48, 200)
    assert (tmp_path / "images" / row.file).read_bytes() == jpeg(1)
    check_agreement(tmp_path / "images")


def test_what_the_search_knew_travels_into_the_ledger(
    server: HostileServer, tmp_path: Path
) -> None:
    server.answers["a"] = replies(jpeg(1))
    found = UrlRow(server.url("a"), prompt="a dog", license="CC0", attribution='Ada, "A"\n')
    save_urls(tmp_path / "urls.txt", [found])
    for name in ("urls.txt", "urls.parquet"):
        download(tmp_path / name, tmp_path / name[5:], options())
        row = read_ledger(tmp_path / name[5:])[0]
        assert (row.prompt, row.license, row.attribution) == ("a dog", "CC0", 'Ada, "A"\n')


def test_commas_blanks_and_unicode_in_urls_survive(server: HostileServer, tmp_path: Path) -> None:
    paths = ["a,b c.jpg", "bäume/猫.jpg?q=1,2&ö=ß", "100%25.jpg", "..%2f..%2fetc/passwd", "x%00y"]
    server.answers |= {
        "a,b c.jpg": replies(jpeg(1)),
        "bäume": replies(jpeg(2)),
        "100%.jpg": replies(jpeg(3)),
        "..": replies(jpeg(4)),
        "x\0y": replies(jpeg(5)),
    }
    result = get(tmp_path, *[server.url(path) for path in paths])
    assert result.downloaded == 5
    assert set(ledger(tmp_path)) == {server.url(path) for path in paths}
    check_agreement(tmp_path / "images")
    assert all(len(path.name) in (40, 13, 5) for path in (tmp_path / "images").iterdir())


def png_of(size: tuple[int, int], **save: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 30, 40)).save(file, "PNG", **save)
    return file.getvalue()


def gif() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (80, 60), colour) for colour in ("red", "blue")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    ("body", "kind", "detail"),
    [
        (b"<html>sorry</html>", "picture", "not an image"),
        (b"", "picture", "the file is empty"),
        (jpeg(1)[:1500], "picture", "cannot be decoded"),
        (png_of((400, 400))[:-40], "picture", "cannot be decoded"),
        (png_of((10, 90)), "picture", "below the smallest side of 32"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "picture", ""),
        (b"GIF89a" + b"\xff" * 30, "picture", ""),
        (b"%PDF-1.4 \n" + b"0" * 200, "picture", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "picture", "not an image"),
    ],
)
def test_bodies_that_are_no_fit_images(
    server: HostileServer, tmp_path: Path, body: bytes, kind: str, detail: str
) -> None:
    server.answers["x"] = replies(body, Content_Type="image/jpeg")
    said, row = get_nothing(tmp_path, server.url("x"))
    assert row.reason.startswith(f"{kind}: ")
    assert detail in row.reason
    assert row.reason in said


def test_a_small_file_of_many_pixels_is_refused_unread(
    server: HostileServer, tmp_path: Path
) -> None:
    bomb = huge_png()
    assert len(bomb) < 200_000
    server.answers["bomb"] = replies(bomb)
    assert "pixels" in get_nothing(tmp_path, server.url("bomb"))[1].reason


def test_large_images_are_shrunk_and_keep_their_ratio(
    server: HostileServer, tmp_path: Path
) -> None:
    server.answers["large"] = replies(png_of((900, 600)))
    server.answers["moving"] = replies(gif())
    get(tmp_path, server.url("large"), server.url("moving"), resize=300)
    large, moving = ledger(tmp_path)[server.url("large")], ledger(tmp_path)[server.url("moving")]
    assert (large.width, large.height, large.file[-4:]) == (450, 300, ".jpg")
    with Image.open(tmp_path / "images" / large.file) as image:
        assert image.size == (450, 300)
        assert np.abs(np.asarray(image).astype(int) - (200, 30, 40)).max() < 8
    # The first frame of what moves, not enlarged.
    assert (moving.width, moving.height, moving.file[-4:]) == (80, 60, ".jpg")
    check_agreement(tmp_path / "images")


def test_resize_0_keeps_the_bytes(server: HostileServer, tmp_path: Path) -> None:
    server.answers["large"] = replies(png_of((900, 600)))
    server.answers["moving"] = replies(gif())
    get(tmp_path, server.url("large"), server.url("moving"), resize=0)
    rows = ledger(tmp_path)
    assert rows[server.url("large")].file.endswith(".png")
    file = tmp_path / "images" / rows[server.url("moving")].file
    assert (file.suffix, file.read_bytes()) == (".gif", gif())


def test_the_same_bytes_are_kept_once_whoever_came_first(
    server: HostileServer, tmp_path: Path
) -> None:
    urls = [server.url(f"same/{n}") for n in range(6)]
    server.answers["same"] = replies(jpeg(7))
    winner = min(urls, key=stem_of)
    for number, order in enumerate([urls, urls[::-1]]):
        folder = tmp_path / str(number)
        folder.mkdir()
        result = get(folder, *order, max_workers=1 + 5 * number)
        assert (result.downloaded, result.duplicates) == (1, 5)
        rows = ledger(folder)
        assert rows[winner].status == "ok"
        assert {row.file for row in rows.values()} == {stem_of(winner) + ".jpg"}
        check_agreement(folder / "images")


def test_a_file_of_an_earlier_run_stays_when_its_bytes_come_again(
    server: HostileServer, tmp_path: Path
) -> None:
    urls = sorted((server.url(f"same/{n}") for n in range(4)), key=stem_of)
    server.answers["same"] = replies(jpeg(7))
    get(tmp_path, urls[-1])
    result = get(tmp_path, *urls)
    assert (result.downloaded, result.kept, result.duplicates) == (0, 1, 3)
    assert ledger(tmp_path)[urls[-1]].status == "ok"
    check_agreement(tmp_path / "images")


def test_run_again_nothing_is_asked_again(server: HostileServer, tmp_path: Path) -> None:
    server.answers["a"] = replies(jpeg(1))
    urls = [server.url("a"), server.url("gone"), "ftp://example.com/x"]
    get(tmp_path, *urls)
    index = (tmp_path / "images" / "index.parquet").read_bytes()
    asked = server.asked.total()
    result = get(tmp_path, *urls)
    assert (result.kept, result.downloaded, result.failed, result.refused) == (3, 0, 0, 0)
    assert server.asked.total() == asked
    assert (tmp_path / "images" / "index.parquet").read_bytes() == index


def test_passing_failures_are_tried_again_others_when_asked(
    server: HostileServer, tmp_path: Path
) -> None:
    server.answers["busy"] = in_turn(replies(b"", 503), replies(jpeg(1)))
    server.answers["gone"] = in_turn(replies(b"", 404), replies(jpeg(2)))
    urls = [server.url("busy"), server.url("gone")]
    get_nothing(tmp_path, *urls)
    result = get(tmp_path, *urls)
    assert (result.downloaded, result.kept) == (1, 1)
    assert get(tmp_path, *urls, retry_failed=True).downloaded == 1
    assert {row.status for row in ledger(tmp_path).values()} == {"ok"}
    check_agreement(tmp_path / "images")


def test_a_refusal_is_looked_at_again_when_the_rules_change(
    server: HostileServer, tmp_path: Path
) -> None:
    server.answers["a"] = replies(jpeg(1), X_Robots_Tag="noai")
    assert get_nothing(tmp_path, server.url("a"))[1].status == "refused"
    get_nothing(tmp_path, server.url("a"))
    assert server.asked["/a"] == 1
    assert get(tmp_path, server.url("a"), respect_robots=False).downloaded == 1


def test_busy_servers_are_asked_again_as_they_wish(server: HostileServer, tmp_path: Path) -> None:
    server.answers["busy"] = in_turn(replies(b"", 429, Retry_After="1"), replies(jpeg(1)))
    result = get(tmp_path, server.url("busy"), retries=2)
    assert (result.downloaded, server.asked["/busy"]) == (1, 2)
    assert result.seconds >= 1


def test_retries_are_bounded(server: HostileServer, tmp_path: Path) -> None:
    server.answers["broken"] = replies(b"", 500)
    get_nothing(tmp_path, server.url("broken"), retries=2)
    assert server.asked["/broken"] == 3


def test_a_wait_of_an_hour_is_left_for_another_day(server: HostileServer, tmp_path: Path) -> None:
    server.answers["busy"] = replies(b"", 429, Retry_After="3600")
    start = time.monotonic()
    assert get_nothing(tmp_path, server.url("busy"), retries=5)[1].transient
    assert time.monotonic() - start < 3


def test_no_host_is_asked_more_than_so_often_at_once(server: HostileServer, tmp_path: Path) -> None:
    import asyncio

    async def slow(exchange) -> None:
        await asyncio.sleep(0.05)
        await exchange.reply(jpeg(int(exchange.path.rsplit("/", 1)[1])))

    server.answers["slow"] = slow
    urls = [server.url(f"slow/{n}", f"127.0.0.{1 + n % 2}") for n in range(24)]
    assert get(tmp_path, *urls, per_host=3, max_workers=20).downloaded == 24
    assert max(server.most_at_once.values()) <= 3


def test_loopback_is_refused_unless_asked_for(server: HostileServer, tmp_path: Path) -> None:
    server.answers["a"] = replies(jpeg(1))
    said, row = get_nothing(tmp_path, server.url("a"), allow_private=False)
    assert row.status == "refused"
    assert "--allow-private" in said
    assert not server.asked
    assert get(tmp_path, server.url("a")).downloaded == 1


def test_it_stops_when_enough_bytes_came_and_resumes(server: HostileServer, tmp_path: Path) -> None:
    async def picture(exchange) -> None:
        await exchange.reply(jpeg(int(exchange.path.rsplit("/", 1)[1])))

    server.answers["p"] = picture
    urls = [server.url(f"p/{n}") for n in range(30)]
    result = get(tmp_path, *urls, total_bytes=20_000, max_workers=2)
    assert result.stopped
    assert 20_000 <= result.received_bytes < 40_000
    check_agreement(tmp_path / "images")
    result = get(tmp_path, *urls)
    assert result.downloaded + result.kept == 30
    check_agreement(tmp_path / "images")


def test_images_of_the_older_script_are_adopted(server: HostileServer, tmp_path: Path) -> None:
    url, torn = server.url("a"), server.url("torn")
    server.answers |= {"torn": replies(jpeg(2))}
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / f"{stem_of(url)}.jpg").write_bytes(jpeg(1))
    (tmp_path / "images" / f"{stem_of(torn)}.jpg").write_bytes(jpeg(2)[:700])
    assert get(tmp_path, url, torn).downloaded == 2
    assert server.asked == {"/torn": 1}
    check_agreement(tmp_path / "images")


def test_two_downloads_into_one_folder_do_not_mix(tmp_path: Path) -> None:
    with (
        holding(tmp_path / "images", tmp_path / "ready", folder=True),
        pytest.raises(OutputError, match="is writing it now"),
    ):
        get(tmp_path, "http://127.0.0.1:1/x")


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"", InputError, "the list has no URLs"),
        (b"\n \n", InputError, "the list has no URLs"),
        (b"http://a/\xff\n", FormatError, "UTF-8"),
        (None, InputError, "cannot be read"),
    ],
)
def test_lists_that_cannot_be_used(
    tmp_path: Path, content: bytes | None, error: type[Exception], said: str
) -> None:
    path = tmp_path / "urls.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=said):
        download(path, tmp_path / "images")
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("changed", [{"max_workers": 0}, {"timeout": 0}, {"resize": 3}])
def test_options_out_of_range(tmp_path: Path, changed: dict[str, object]) -> None:
    with pytest.raises(InputError, match="expected"):
        get(tmp_path, "http://127.0.0.1:1/x", **changed)


def test_a_full_disk_stops_with_a_sentence_and_resumes_later(
    server: HostileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["a"] = replies(jpeg(1))

    def full(path: str, mode: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("clipdistill.collect.web.download.open", full, raising=False)
        with pytest.raises(OutputError, match="No space left"):
            download(write_list(tmp_path, server.url("a")), tmp_path / "images", options())
    assert get(tmp_path, server.url("a")).downloaded == 1
    check_agreement(tmp_path / "images")


def mixed(server: HostileServer, count: int) -> list[str]:
    """URLs of which a third fail and some have the same bytes; over several hosts."""
    import asyncio

    async def answer(exchange) -> None:
        number = int(exchange.path.rsplit("/", 1)[1])
        await asyncio.sleep(0.002 * (number % 3))
        if number % 3 == 1:
            await exchange.reply(b"no", 404 if number % 2 else 500)
        else:
            await exchange.reply(jpeg(number % (count // 2), (48, 40)))

    server.answers["mixed"] = answer
    return [server.url(f"mixed/{n}", f"127.0.0.{1 + n % 16}") for n in range(count)]


def final(images: Path) -> tuple[set[LedgerRow], dict[str, bytes]]:
    rows = set(read_ledger(images))
    files = (path for path in images.iterdir() if is_picture(path.name))
    return rows, {path.name: path.read_bytes() for path in files}


def test_killed_ten_times_it_ends_as_if_it_had_not_been(
    server: HostileServer, tmp_path: Path
) -> None:
    path = write_list(tmp_path, *mixed(server, 400))
    whole = tmp_path / "whole"
    download(path, whole, options())
    images = tmp_path / "images"
    dice = random.Random(5)
    killed = 0
    for _ in range(10):
        killed += killed_when(
            after(0.15 + dice.random() * 0.25), download, path, images, options(max_workers=8)
        )
    assert killed >= 3
    run_to_end(download, path, images, options())
    check_agreement(images)
    assert final(images) == final(whole)


def test_ten_thousand_urls_of_which_a_third_fail(server: HostileServer, tmp_path: Path) -> None:
    path = write_list(tmp_path, *mixed(server, 10_000))
    result = download(path, tmp_path / "images", options(max_workers=32))
    assert result.urls == 10_000
    assert result.failed == 3333
    assert result.downloaded + result.duplicates == 6667
    check_agreement(tmp_path / "images")
    shutil.rmtree(tmp_path / "images")

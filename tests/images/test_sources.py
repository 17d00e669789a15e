"""Finding images: folders, tars, names and globs as people really have them."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import clipdistill.images.decode as decode_module
from clipdistill.core.errors import ImageError, InputError
from clipdistill.core.progress import Silent, reporting
from clipdistill.images.sources import MAX_BYTES, content_id, list_images, match_images


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def keys(root: Path) -> list[str]:
    return [item.key for item in list_images(root)]


def make_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_searches_recursively_and_sorts(tmp_path):
    touch(tmp_path, "b.jpg", "a/z.png", "a/b/c/d.webp", "a/notes.txt", "c.JPG", "README")
    assert keys(tmp_path) == ["a/b/c/d.webp", "a/z.png", "b.jpg", "c.JPG"]


@pytest.mark.parametrize("ending", ["jpg", "JPEG", "Png", "webp", "BMP", "tif", "TIFF", "GiF"])
def test_endings_in_any_case(tmp_path, ending):
    touch(tmp_path, f"x.{ending}")
    assert keys(tmp_path) == [f"x.{ending}"]


def test_hidden_files_and_folders_do_not_count(tmp_path):
    touch(tmp_path, ".x.jpg", "._a.jpg", ".cache/y.jpg", "good.jpg")
    assert keys(tmp_path) == ["good.jpg"]


def test_strange_names(tmp_path):
    names = ["a b.jpg", "ünï/Ж.png", "line\nbreak.jpg", "weird*[1].jpg", "#tag.jpg", "emoji 🐟.gif"]
    touch(tmp_path, *names)
    assert keys(tmp_path) == sorted(names)
    assert {item.read().decode() for item in list_images(tmp_path)} == set(names)


def test_a_name_that_is_not_utf8_becomes_printable_and_stays_readable(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"picture")
    [item] = list_images(tmp_path)
    assert item.key == "caf\\xe9.jpg"
    item.key.encode()
    assert item.read() == b"picture"


def test_a_dangling_link_is_listed_and_cannot_be_read(tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    touch(tmp_path, "good.jpg")
    items = {item.key: item for item in list_images(tmp_path)}
    assert set(items) == {"gone.jpg", "good.jpg"}
    with pytest.raises(ImageError, match="No such file"):
        items["gone.jpg"].read()


def test_linked_folders_are_followed_and_loops_are_not(tmp_path):
    touch(tmp_path, "images/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "images/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images/loop").symlink_to(tmp_path / "images")
    (tmp_path / "elsewhere/up").symlink_to(tmp_path)
    assert [key for key in keys(tmp_path / "images") if "up" not in key] == ["a.jpg", "more/b.jpg"]
    assert len(keys(tmp_path / "images")) < 10


def test_missing_empty_and_file(tmp_path):
    with pytest.raises(InputError, match=r"nothing: no such folder. Expected a folder"):
        list_images(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"no images found. Expected files \.jpg"):
        list_images(tmp_path)
    touch(tmp_path, "a.jpg")
    with pytest.raises(InputError, match=r"a.jpg: expected a folder of images or a \.tar"):
        list_images(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="no such folder"):
        list_images(tmp_path / ("x" * 300))


def test_a_folder_with_other_files_only(tmp_path):
    touch(tmp_path, "notes.txt", "movie.mp4")
    with pytest.raises(InputError, match="no images found"):
        list_images(tmp_path)


SHARD = [
    ("./000.jpg", b"first"),
    ("./000.txt", b"caption"),
    ("sub/001.PNG", b"second one"),
    ("002.json", b"{}"),
    (".hidden.jpg", b"no"),
]


def test_a_webdataset_tar(tmp_path):
    make_tar(tmp_path / "00000.tar", SHARD)
    for root in (tmp_path, tmp_path / "00000.tar"):
        items = list_images(root)
        assert [item.key for item in items] == ["00000.tar/000.jpg", "00000.tar/sub/001.PNG"]
        assert [item.read() for item in items] == [b"first", b"second one"]
        assert [item.size for item in items] == [5, 10]


def test_tars_and_files_in_one_folder(tmp_path):
    touch(tmp_path, "loose.jpg")
    make_tar(tmp_path / "b.tar", SHARD)
    make_tar(tmp_path / "a.tar", SHARD)
    assert keys(tmp_path) == [
        "a.tar/000.jpg",
        "a.tar/sub/001.PNG",
        "b.tar/000.jpg",
        "b.tar/sub/001.PNG",
        "loose.jpg",
    ]


def test_no_name_leads_out_of_a_tar(tmp_path):
    make_tar(tmp_path / "evil.tar", [("../../up.jpg", b"1"), ("/etc/root.jpg", b"2")])
    assert keys(tmp_path) == ["evil.tar/etc/root.jpg", "evil.tar/up.jpg"]


def test_a_later_member_replaces_an_earlier_one_of_its_name(tmp_path):
    make_tar(tmp_path / "x.tar", [("a.jpg", b"old"), ("a.jpg", b"new one")])
    [item] = list_images(tmp_path)
    assert item.read() == b"new one"


def test_a_tar_cut_short_gives_what_it_has_and_says_so(tmp_path):
    members = [(f"{index}.jpg", bytes([index]) * 3000) for index in range(4)]
    make_tar(tmp_path / "x.tar", members)
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[: 512 + 3072 + 512 + 1000])
    items = list_images(tmp_path)
    assert [item.key for item in items] == ["x.tar", "x.tar/0.jpg", "x.tar/1.jpg"]
    assert items[1].read() == members[0][1]
    with pytest.raises(ImageError, match="ends after 1000 of 3000 bytes"):
        items[2].read()
    with pytest.raises(ImageError, match="cut short"):
        items[0].read()


@pytest.mark.parametrize("data", [b"", b"not a tar at all" * 100])
def test_an_unreadable_tar_does_not_hide_the_images_beside_it(tmp_path, data):
    (tmp_path / "bad.tar").write_bytes(data)
    touch(tmp_path, "good.jpg")
    bad, good = list_images(tmp_path)
    assert good.read() == b"good.jpg"
    assert bad.key == "bad.tar"
    with pytest.raises(ImageError, match="not an uncompressed tar"):
        bad.read()


def test_a_compressed_tar_is_named_in_the_reason(tmp_path):
    make_tar(tmp_path / "x.tar", SHARD, "w:gz")
    [item] = list_images(tmp_path)
    with pytest.raises(ImageError, match="uncompressed tar"):
        item.read()


def test_match_images_takes_files_folders_and_globs_in_order(tmp_path):
    touch(tmp_path, "z.jpg", "folder/b.png", "folder/a.png", "odd.dat", "p1.jpg", "p2.jpg")
    found = match_images(
        [
            str(tmp_path / "z.jpg"),
            str(tmp_path / "folder"),
            str(tmp_path / "p*.jpg"),
            str(tmp_path / "odd.dat"),
            str(tmp_path / "**/b.png"),
        ]
    )
    names = [item.path.name for item in found]
    assert names == ["z.jpg", "a.png", "b.png", "p1.jpg", "p2.jpg", "odd.dat", "b.png"]


def test_match_images_prefers_a_file_to_a_glob_of_its_name(tmp_path):
    touch(tmp_path, "a[1].jpg", "a1.jpg")
    [item] = match_images([str(tmp_path / "a[1].jpg")])
    assert item.path.name == "a[1].jpg"


@pytest.mark.parametrize("pattern", ["nope.jpg", "*.tiff", "x" * 300])
def test_match_images_says_what_matches_nothing(tmp_path, pattern):
    touch(tmp_path, "a.jpg")
    with pytest.raises(InputError, match="no such image, folder or glob"):
        match_images([str(tmp_path / "a.jpg"), str(tmp_path / pattern)])


def test_match_images_does_not_answer_with_nothing(tmp_path):
    touch(tmp_path, "one/a.jpg", "two/b.jpg")
    with pytest.raises(InputError, match="folders only"):
        match_images([str(tmp_path / "*")])


def test_content_id_tells_bytes_apart():
    assert content_id(b"a") == content_id(b"a") != content_id(b"b")
    assert len(content_id(b"")) == 32


@pytest.fixture
def odd(tmp_path):
    """A folder with a good image and things that are not files."""
    touch(tmp_path, "photos/good.jpg")
    os.mkfifo(tmp_path / "photos/pipe.jpg")
    os.mkfifo(tmp_path / "photos/pipe.tar")
    (tmp_path / "photos/endless.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "photos/socket.gif"))
        yield tmp_path / "photos"


def test_what_is_not_a_file_is_a_row_and_is_not_opened(odd):
    items = {item.key: item for item in list_images(odd)}
    assert set(items) == {"good.jpg", "pipe.jpg", "pipe.tar", "endless.png", "socket.gif"}
    assert items["good.jpg"].read() == b"photos/good.jpg"
    for name, kind in [
        ("pipe.jpg", "named pipe"),
        ("pipe.tar", "named pipe"),
        ("endless.png", "device"),
        ("socket.gif", "socket"),
    ]:
        with pytest.raises(ImageError, match=f"not a file but a {kind}"):
            items[name].read()


def test_what_is_not_a_file_is_a_row_when_it_is_named_or_matched(odd):
    named = match_images([str(odd / "pipe.jpg"), str(odd / "pipe.*"), "/dev/zero"])
    assert [item.path.name for item in named] == ["pipe.jpg", "pipe.jpg", "pipe.tar", "zero"]
    for item in named:
        with pytest.raises(ImageError, match="not a file"):
            item.read()
    [item] = list_images(odd / "pipe.tar")
    with pytest.raises(ImageError, match="not a file"):
        item.read()


def test_a_file_that_became_a_pipe_is_not_waited_for(tmp_path):
    touch(tmp_path, "a.jpg")
    [item] = list_images(tmp_path)
    item.path.unlink()
    os.mkfifo(item.path)
    with pytest.raises(ImageError, match="named pipe"):
        item.read()


def test_a_file_of_gigabytes_is_not_read(tmp_path):
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    make_tar(tmp_path / "b.tar", [("x.jpg", b"1")])
    data = bytearray((tmp_path / "b.tar").read_bytes())
    data[:512] = header("x.jpg", 1 << 80)
    (tmp_path / "b.tar").write_bytes(data)
    for item in list_images(tmp_path)[::2]:
        with pytest.raises(ImageError, match="over the limit"):
            item.read()


JPEG_NAMES = ["a.jfif", "a.JPE", "a.jif", "a.pjpeg", "a.pjp", "a.mpo"]


def test_jpegs_under_any_common_ending_count(tmp_path):
    touch(tmp_path, *JPEG_NAMES, "a.apng")
    assert keys(tmp_path) == sorted([*JPEG_NAMES, "a.apng"])


class Messages(Silent):
    """A reporter that keeps the messages."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def messages():
    reporter = Messages()
    with reporting(reporter):
        yield reporter.texts


@pytest.fixture
def without(monkeypatch):
    """`without(module, ...)`: these are not installed."""

    def call(*modules: str) -> None:
        real = decode_module._installed
        monkeypatch.setattr(
            decode_module, "_installed", lambda name: name not in modules and real(name)
        )

    return call


def test_images_that_are_not_read_are_counted_by_ending(tmp_path, messages, without):
    without("pillow_heif", "PIL._avif")
    touch(tmp_path, "a.jpg", "b.HEIC", "sub/c.heic", "d.avif", "e.jp2", ".f.jp2", "g.txt")
    make_tar(tmp_path / "x.tar", [("1.jp2", b"1"), ("1.json", b"{}"), ("2.jpg", b"2")])
    assert keys(tmp_path) == ["a.jpg", "x.tar/2.jpg"]
    [text] = messages
    assert text == (
        f"{tmp_path}: 1 .avif, 2 .heic, 2 .jp2: not read. For HEIC, install pillow-heif. "
        "For AVIF, install Pillow 11.3 or later. Convert them to JPEG or PNG to use them."
    )
    list_images(tmp_path)
    assert len(messages) == 1, "verbs list a folder several times"


def test_a_folder_of_images_that_are_not_read_says_so(tmp_path, without):
    without("pillow_heif")
    touch(tmp_path, "b.heic", "c.heic")
    with pytest.raises(InputError, match=r"no images found.*Found 2 \.heic.*pillow-heif"):
        list_images(tmp_path)


def test_nothing_is_said_of_other_files(tmp_path, messages):
    touch(tmp_path, "a.jpg", "notes.txt", "a.json", "movie.mp4")
    list_images(tmp_path)
    assert messages == []


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar's header that claims any size, with the right checksum."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    sign = b"\xff" if size < 0 else b"\x80"
    block[124:136] = sign + (size % 2**88).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: str, data: bytes) -> bytes:
    return header(name, len(data)) + data + bytes(-len(data) % 512)


LONG = "././@LongLink"
PAX_SIZE = header("p", 18, tarfile.XHDTYPE) + b"18 size=-99999999\n" + bytes(494)


@pytest.mark.parametrize(
    ("bad", "key", "reason"),
    [
        (header("bad.jpg", -1), "x.tar/bad.jpg", "claims -1 bytes"),
        (header("bad.jpg", -512), "x.tar/bad.jpg", "claims -512 bytes"),
        (header("bad.jpg", -(10**15)), "x.tar/bad.jpg", "claims -10"),
        (header("bad.jpg", 10**15), "x.tar/bad.jpg", "over the limit"),
        (header("bad.jpg", 10**6), "x.tar/bad.jpg", "ends after"),
        (header(LONG, -1024, tarfile.GNUTYPE_LONGNAME), "x.tar", "claims -1024 bytes"),
        (header("p", -1024, tarfile.XHDTYPE), "x.tar", "claims -1024 bytes"),
        (header("p", 10**12, tarfile.XHDTYPE), "x.tar", "claims 10"),
        (header("bad.jpg", 0).replace(b"bad", b"lad"), "x.tar", "damaged at byte 1024"),
        (b"\xff" * 512, "x.tar", "damaged at byte 1024"),
        (header("bad.jpg", 3, tarfile.GNUTYPE_SPARSE), "x.tar/bad.jpg", "sparse"),
        (PAX_SIZE + header("bad.jpg", 0), "x.tar/bad.jpg", "claims -99999999 bytes"),
    ],
)
def test_a_bad_member_is_a_row_and_the_others_are_listed(tmp_path, bad, key, reason):
    good = [member("1.jpg", b"one"), bad, member("2.jpg", b"two"), member("3.jpg", b"three")]
    (tmp_path / "x.tar").write_bytes(b"".join([*good, bytes(1024)]))
    items = {item.key: item for item in list_images(tmp_path)}
    for name, data in [("1", b"one"), ("2", b"two"), ("3", b"three")]:
        assert items[f"x.tar/{name}.jpg"].read() == data
    with pytest.raises(ImageError, match=reason):
        items[key].read()


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_every_kind_are_listed_as_python_lists_them(tmp_path, kind):
    names = ["a.jpg", "ünï.png", "d/" * 40 + "deep.jpg", "x" * 90 + ".gif"]
    if kind != tarfile.USTAR_FORMAT:
        names.append("long/" + "y" * 300 + ".jpg")
    with tarfile.open(tmp_path / "x.tar", "w", format=kind) as archive:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(name), 1.5
            archive.addfile(info, io.BytesIO(name.encode()[: info.size]))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = (
            tarfile.SYMTYPE,
            "z" * (90 if kind == tarfile.USTAR_FORMAT else 200),
        )
        archive.addfile(link)
        last = tarfile.TarInfo("z.jpg")
        archive.addfile(last)
    with tarfile.open(tmp_path / "x.tar") as archive:
        expected = {
            f"x.tar/{one.name}": archive.extractfile(one).read() for one in archive if one.isreg()
        }
    assert {item.key: item.read() for item in list_images(tmp_path)} == expected


@given(data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_damaged_tar_never_stops_the_list(tmp_path, data):
    whole = bytearray(
        b"".join(member(f"{index}.jpg", bytes([index]) * 700) for index in range(4)) + bytes(1024)
    )
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.sampled_from([0, 1536, 3072])) + data.draw(st.integers(0, 511))
        whole[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([None, len(whole) // 2, 700]))
    (tmp_path / "x.tar").write_bytes(bytes(whole[:cut]))
    for item in list_images(tmp_path):
        with contextlib.suppress(ImageError):
            assert len(item.read()) == item.size

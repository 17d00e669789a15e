"""Finding images: folders, tars, names and globs as people really have them."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from clipdistill.core.errors import ImageError, InputError
from clipdistill.images.sources import content_id, list_images, match_images


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

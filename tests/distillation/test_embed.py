"""embed: whatever happens in between, the folder ends as if nothing had."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

import clipdistill.distillation.embed as stage
import killing
from clipdistill.core.errors import FormatError, InputError, MismatchError
from clipdistill.core.files import TEMPORARY_PREFIX
from clipdistill.distillation.embed import embed
from clipdistill.formats.embeddings import load_embeddings, read_failures
from clipdistill.images.loading import load_one
from clipdistill.images.sources import content_id, list_images

LAYOUTS = ("clip-retrieval", "npy")


@pytest.fixture
def run(tmp_path, tiny_teacher_name):
    """`run(**options)` embeds tmp_path/images into tmp_path/emb with the tiny teacher."""

    def call(images: Path | None = None, out: Path | None = None, **options):
        options = {"model_name": tiny_teacher_name, "device": "cpu", "batch_size": 4, **options}
        return embed(images or tmp_path / "images", out or tmp_path / "emb", **options)

    return call


@pytest.fixture
def images(tmp_path, pictures):
    pictures(tmp_path / "images", 10)
    return tmp_path / "images"


@pytest.fixture
def seen(monkeypatch, tiny_teacher):
    """The keys of all pictures that the teacher sees."""
    keys: list[str] = []
    real = stage._Shard.add

    def spy(shard, teacher, header, good, *rest):
        keys.extend(one.item.key for one in good)
        return real(shard, teacher, header, good, *rest)

    monkeypatch.setattr(stage._Shard, "add", spy)
    return keys


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def as_dict(folder: Path) -> dict[str, np.ndarray]:
    found = load_embeddings(folder)
    return {row.image_path: found.vectors[i] for i, row in enumerate(found.rows)}


def check_right(folder: Path, images: Path, teacher, gone: int = 0) -> None:
    """Every picture has the vector that the teacher gives it, and the right content."""
    found = load_embeddings(folder)
    rows = found.by_image()
    items = list_images(images)
    assert len(rows) == len(items) + gone
    for item in items:
        pixels = load_one(item, teacher.card.preprocess).pixels
        expected = teacher.images.embed_pixels(np.stack([pixels]))[0]
        assert np.allclose(found.vectors[rows[item.key]], expected, atol=2e-3), item.key
        assert found.rows[rows[item.key]].content == content_id(item.read())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_embeds_a_folder(run, tmp_path, images, tiny_teacher, layout):
    result = run(layout=layout)
    assert (result.images, result.embedded, result.kept, result.moved) == (10, 10, 0, 0)
    assert result.failures == ()
    check_right(tmp_path / "emb", images, tiny_teacher)
    found = load_embeddings(tmp_path / "emb")
    assert found.teacher == tiny_teacher.card
    assert found.vectors.dtype == (np.float32 if layout == "npy" else np.float16)
    assert "10 images embedded" in str(result.summary()[0])


def test_the_pictures_are_told_apart(tiny_teacher, images):
    # If all pictures had one vector, the tests of this file would show nothing.
    pixels = [load_one(item, tiny_teacher.card.preprocess).pixels for item in list_images(images)]
    vectors = tiny_teacher.images.embed_pixels(np.stack(pixels))
    cosines = vectors @ vectors.T
    assert cosines[~np.eye(10, dtype=bool)].max() < 0.99


def test_a_second_run_shows_the_teacher_nothing(run, images, seen):
    run()
    seen.clear()
    result = run()
    assert (result.embedded, result.kept) == (0, 10)
    assert not seen


def test_the_batch_size_does_not_matter(run, tmp_path, images):
    for size in (1, 3, 64):
        run(out=tmp_path / str(size), batch_size=size, dtype="float32")
    one, three, all_ = (as_dict(tmp_path / name) for name in ("1", "3", "64"))
    for key, vector in one.items():
        assert np.allclose(vector, three[key], atol=1e-5)
        assert np.allclose(vector, all_[key], atol=1e-5)


def test_raw_outputs_can_be_kept(run, tmp_path, images):
    run(dtype="float32")
    run(out=tmp_path / "raw", normalize=False, dtype="float32")
    raw = load_embeddings(tmp_path / "raw")
    lengths = np.linalg.norm(raw.vectors, axis=1)
    assert not raw.header.normalized
    assert abs(lengths - 1).max() > 0.05
    units = load_embeddings(tmp_path / "emb").vectors
    assert np.allclose(raw.vectors / lengths[:, None], units, atol=1e-5)


def test_raw_outputs_too_large_for_float16_are_failures(run, images, tiny_teacher, monkeypatch):
    from clipdistill.models.torch_embedder import TorchEmbedder

    real = TorchEmbedder.raw_pixels

    def large(self, pixels):
        output = real(self, pixels)
        output[0, 0] = 1e6
        return output

    monkeypatch.setattr(TorchEmbedder, "raw_pixels", large)
    result = run(normalize=False, batch_size=5)
    assert len(result.failures) == 2
    assert "--dtype float32" in result.failures[0].reason
    assert result.embedded == 8


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bad_files_are_listed_with_reasons_and_the_run_goes_on(run, tmp_path, images, layout):
    (images / "a_empty.jpg").write_bytes(b"")
    (images / "b_page.jpg").write_bytes(b"<html>not found</html>")
    whole = (images / "picture_3.png").read_bytes()
    (images / "c_cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "d_dangling.png").symlink_to(tmp_path / "nowhere")
    result = run(layout=layout)
    reasons = {failure.image_path: failure.reason for failure in result.failures}
    assert set(reasons) == {"a_empty.jpg", "b_page.jpg", "c_cut.png", "d_dangling.png"}
    assert reasons["a_empty.jpg"] == "the file is empty"
    assert "No such file" in reasons["d_dangling.png"]
    assert (result.images, result.embedded) == (14, 10)
    summary = "\n".join(map(str, result.summary()))
    assert "4 failed" in summary
    assert "b_page.jpg: not a" in summary
    lines = (tmp_path / "emb/failures.jsonl").read_text().splitlines()
    assert {json.loads(line)["image_path"] for line in lines} == set(reasons)


def test_what_is_not_a_file_and_a_bad_member_of_a_tar_stop_nothing(run, images, tmp_path):
    os.mkfifo(images / "pipe.jpg")
    (images / "endless.jpg").symlink_to("/dev/zero")
    make_tar(images / "shard.tar", [images / f"picture_{index}.png" for index in range(3)])
    data = bytearray((images / "shard.tar").read_bytes())
    info = tarfile.TarInfo.frombuf(bytes(data[:512]), "utf-8", "strict")
    data[124:136] = b"\xff" * 10 + b"\xfe\x00"  # a size of -512 in the first header
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    (images / "shard.tar").write_bytes(data)
    result = run()
    reasons = {failure.image_path: failure.reason for failure in result.failures}
    assert reasons == {
        "pipe.jpg": "not a file but a named pipe",
        "endless.jpg": "not a file but a device",
        f"shard.tar/{info.name.removeprefix('./')}": "its header in the tar claims -512 bytes",
    }
    keys = as_dict(tmp_path / "emb").keys()
    assert {"shard.tar/picture_1.png", "shard.tar/picture_2.png", "picture_9.png"} <= keys


def test_a_repaired_file_is_embedded_in_the_next_run(run, tmp_path, images, tiny_teacher):
    good = (images / "picture_0.png").read_bytes()
    (images / "picture_0.png").write_bytes(good[:50])
    assert len(run().failures) == 1
    (images / "picture_0.png").write_bytes(good)
    result = run()
    assert (result.embedded, result.kept, result.failures) == (1, 9, ())
    assert (tmp_path / "emb/failures.jsonl").read_text() == ""
    check_right(tmp_path / "emb", images, tiny_teacher)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_appended_pictures_only_are_embedded(
    run, tmp_path, images, seen, tiny_teacher, pictures, layout
):
    run(layout=layout)
    seen.clear()
    pictures(images / "more", 3, seed=4)
    result = run(layout=layout)
    assert (result.embedded, result.kept) == (3, 10)
    assert sorted(seen) == [f"more/picture_{index}.png" for index in range(3)]
    check_right(tmp_path / "emb", images, tiny_teacher)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_renamed_picture_is_recognised_by_its_content(
    run, tmp_path, images, seen, tiny_teacher, layout
):
    run(layout=layout)
    seen.clear()
    (images / "sub").mkdir()
    (images / "picture_4.png").rename(images / "sub/renamed.png")
    result = run(layout=layout)
    assert (result.embedded, result.moved, result.kept, result.gone) == (0, 1, 9, 1)
    assert not seen
    check_right(tmp_path / "emb", images, tiny_teacher, gone=1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_pictures_that_change_places(run, tmp_path, images, seen, tiny_teacher, layout):
    run(layout=layout)
    seen.clear()
    (images / "picture_1.png").rename(images / "x")
    (images / "picture_2.png").rename(images / "picture_1.png")
    (images / "x").rename(images / "picture_2.png")
    result = run(layout=layout)
    assert not seen
    assert result.moved == 2
    check_right(tmp_path / "emb", images, tiny_teacher)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_changed_picture_is_embedded_anew(
    run, tmp_path, images, seen, tiny_teacher, pictures, layout
):
    run(layout=layout)
    seen.clear()
    [new] = pictures(tmp_path / "other", 1, seed=8)
    new.rename(images / "picture_6.png")
    result = run(layout=layout)
    assert seen == ["picture_6.png"]
    assert (result.embedded, result.kept) == (1, 9)
    check_right(tmp_path / "emb", images, tiny_teacher)


def test_a_copy_of_what_a_changed_picture_was_is_not_given_the_new_vector(
    run, tmp_path, images, tiny_teacher, pictures
):
    old = (images / "picture_6.png").read_bytes()
    run()
    [new] = pictures(tmp_path / "other", 1, seed=8)
    new.rename(images / "picture_6.png")
    run()
    (images / "old.png").write_bytes(old)
    run()
    check_right(tmp_path / "emb", images, tiny_teacher)


def test_touched_files_are_kept_by_their_content(run, images, seen):
    run()
    seen.clear()
    for path in images.iterdir():
        path.touch()
    assert run().kept == 10
    assert not seen


def change_in_secret(path: Path, data: bytes) -> None:
    """Change the content of a file, but neither its size nor its time."""
    before = path.stat()
    assert len(data) <= before.st_size
    path.write_bytes(data + bytes(before.st_size - len(data)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_recheck_finds_what_changed_without_its_size_or_time(
    run, tmp_path, images, seen, tiny_teacher, layout
):
    files = sorted(images.iterdir(), key=lambda path: path.stat().st_size)
    run(layout=layout)
    small = files[0].read_bytes()
    change_in_secret(files[-1], small)
    seen.clear()
    assert run(layout=layout).kept == 10
    result = run(layout=layout, recheck=True)
    assert (result.embedded, result.kept, result.moved) == (1, 9, 0)
    assert seen == [files[-1].name]
    check_right(tmp_path / "emb", images, tiny_teacher)
    assert run(layout=layout, recheck=True).kept == 10


def test_recheck_reports_what_cannot_be_read_any_more(run, images):
    run()
    change_in_secret(images / "picture_3.png", b"not an image")
    result = run(recheck=True)
    assert [one.image_path for one in result.failures] == ["picture_3.png"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def not_finite(path: Path) -> None:
    vectors = np.load(path)
    vectors[1, 0] = np.nan
    np.save(path, vectors)


def delete(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


VECTORS, ROWS = "img_emb/img_emb_0.npy", "metadata/metadata_0.parquet"


@pytest.mark.parametrize(
    ("layout", "name", "damage", "advice", "to_delete"),
    [
        ("clip-retrieval", VECTORS, truncate, r"Delete it and .*metadata_0", (VECTORS, ROWS)),
        ("clip-retrieval", VECTORS, delete, r"Delete it and .*metadata_0", (ROWS,)),
        ("clip-retrieval", VECTORS, not_finite, "Delete the folder and run .* fp32", (".",)),
        ("clip-retrieval", ROWS, truncate, "Delete it and run `clipdistill embed` again", (ROWS,)),
        ("npy", "picture_3.npy", truncate, r"Delete .*/emb and run `clipdistill embed`", (".",)),
    ],
)
def test_the_advice_for_damaged_embeddings_works(
    run, tmp_path, images, tiny_teacher, layout, name, damage, advice, to_delete
):
    run(layout=layout, shard_size=4)
    folder = tmp_path / "emb"
    damage(folder / name)
    with pytest.raises(FormatError, match=advice):
        load_embeddings(folder)
    delete(*(folder / path for path in to_delete))
    run(layout=layout, shard_size=4, precision="fp32")
    check_right(folder, images, tiny_teacher)


def test_the_advice_for_a_damaged_list_of_failures_works(run, tmp_path, images):
    (images / "bad.png").write_bytes(b"no image")
    run()
    for repair in (lambda: run(), lambda: delete(tmp_path / "emb/failures.jsonl")):
        (tmp_path / "emb/failures.jsonl").write_text("nonsense")
        with pytest.raises(FormatError, match="Delete the file, or run `clipdistill embed` again"):
            read_failures(tmp_path / "emb")
        repair()
        read_failures(tmp_path / "emb")


def test_deleted_pictures_are_counted(run, images):
    run()
    (images / "picture_0.png").unlink()
    result = run()
    assert (result.kept, result.gone) == (9, 1)
    assert "1 embeddings belong to images that are gone" in "\n".join(map(str, result.summary()))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_teacher_is_refused_and_earlier_results_stay(
    run, tmp_path, images, other_teacher, layout
):
    run(layout=layout)
    before = snapshot(tmp_path / "emb")
    with pytest.raises(MismatchError, match="not in the same embedding space"):
        run(layout=layout, model_name=other_teacher.card.model_name)
    other = "npy" if layout == "clip-retrieval" else "clip-retrieval"
    with pytest.raises(MismatchError, match="Use the same options, or another"):
        run(layout=other)
    assert snapshot(tmp_path / "emb") == before


def test_the_same_teacher_in_another_place_is_the_same(run, images, tiny_teacher_dir, tmp_path):
    run()
    shutil.copytree(tiny_teacher_dir, tmp_path / "copy")
    assert run(model_name=f"local-dir:{tmp_path / 'copy'}").kept == 10


def test_layout_npy_is_named_as_the_images_and_reports_collisions(run, tmp_path, images, pictures):
    (images / "picture_0.jpg").write_bytes((images / "picture_1.png").read_bytes())
    pictures(images / "sub", 1)
    result = run(layout="npy")
    assert np.load(tmp_path / "emb/picture_5.npy").shape == (16,)
    assert (tmp_path / "emb/sub/picture_0.npy").is_file()
    [failure] = result.failures
    assert failure.image_path == "picture_0.png"
    assert "picture_0.jpg has the same name" in failure.reason
    again = run(layout="npy")
    assert (again.embedded, again.kept) == (0, 11)
    assert again.failures == result.failures


def test_npy_and_shards_hold_the_same_vectors(run, tmp_path, images):
    run(out=tmp_path / "a", dtype="float32")
    run(out=tmp_path / "b", layout="npy")
    one, other = as_dict(tmp_path / "a"), as_dict(tmp_path / "b")
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[key], other[key]) for key in one)


def make_tar(path: Path, files: list[Path]) -> None:
    with tarfile.open(path, "w") as archive:
        for file in files:
            data = file.read_bytes()
            info = tarfile.TarInfo(f"./{file.name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_webdataset_tars(run, tmp_path, images, tiny_teacher, layout):
    files = sorted(images.iterdir())
    (tmp_path / "tars").mkdir()
    make_tar(tmp_path / "tars/00000.tar", files[:6])
    make_tar(tmp_path / "tars/00001.tar", files[6:])
    result = run(tmp_path / "tars", layout=layout)
    assert result.embedded == 10
    check_right(tmp_path / "emb", tmp_path / "tars", tiny_teacher)
    assert run(tmp_path / "tars", layout=layout).kept == 10


def test_a_tar_cut_short_is_a_row(run, tmp_path, images):
    files = sorted(images.iterdir())
    make_tar(tmp_path / "x.tar", files)
    data = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(data[: len(data) // 2])
    result = run(tmp_path / "x.tar")
    assert 3 <= result.embedded < 10
    reasons = {failure.image_path: failure.reason for failure in result.failures}
    assert "cut short" in reasons["x.tar"]


def test_names_that_are_not_utf8(run, tmp_path, images, tiny_teacher):
    (images / os.fsdecode(b"caf\xe9.png")).write_bytes((images / "picture_0.png").read_bytes())
    (images / os.fsdecode(b"bad\xff.png")).write_bytes(b"x")
    result = run()
    assert [failure.image_path for failure in result.failures] == ["bad\\xff.png"]
    assert "caf\\xe9.png" in as_dict(tmp_path / "emb")


def test_no_readable_picture(run, tmp_path):
    (tmp_path / "images").mkdir()
    for index in range(7):
        (tmp_path / f"images/{index}.jpg").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"none of its 7 images can be read.*\n.*\n *0\.jpg: not"):
        run()
    assert not (tmp_path / "emb/meta.json").exists()


def embed_slowly(images: Path, out: Path, model_name: str, layout: str) -> None:
    """For the process that is killed: one picture a batch, four a shard."""
    import torch

    torch.set_num_threads(1)
    embed(
        images,
        out,
        model_name=model_name,
        device="cpu",
        batch_size=1,
        shard_size=4,
        layout=layout,
        num_workers=1,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(
    tmp_path, pictures, tiny_teacher_name, layout
):
    pictures(tmp_path / "images", 60)
    arguments = (tiny_teacher_name, layout)
    killing.run_to_end(embed_slowly, tmp_path / "images", tmp_path / "whole", *arguments)
    moments = random.Random(layout)
    killed = tmp_path / "killed"
    kills = 0
    while kills < 5:
        more = killing.grown(killed / "metadata", moments.randint(1, 4))
        if not killing.killed_when(more, embed_slowly, tmp_path / "images", killed, *arguments):
            break
        kills += 1
    assert kills >= 2, "it was done before it could be killed: the test shows nothing"
    killing.run_to_end(embed_slowly, tmp_path / "images", killed, *arguments)
    one, other = load_embeddings(tmp_path / "whole"), load_embeddings(killed)
    assert one.rows == other.rows
    assert np.array_equal(one.vectors, other.vectors)
    results = [path for path in killed.rglob("*") if not path.name.startswith(TEMPORARY_PREFIX)]
    assert (killed / "meta.json") in results

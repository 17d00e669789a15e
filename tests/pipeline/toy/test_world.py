"""The toy world is reproducible, its files are as promised, and its teacher knows it."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdistill.core.errors import OutputError
from clipdistill.pipeline.toy import world

TEACHER = Path(world.__file__).parent / "toy_teacher"
DIGEST = """
import hashlib
from clipdistill.pipeline.toy import world
pictures = [world.draw(11, index) for index in range(20)]
joined = b"".join(p.image.tobytes() + p.caption.encode() for p in pictures)
print(hashlib.sha256(joined).hexdigest())
"""


def test_same_arguments_same_picture_in_another_process() -> None:
    pictures = [world.draw(11, index) for index in range(20)]
    joined = b"".join(p.image.tobytes() + p.caption.encode() for p in pictures)
    here = hashlib.sha256(joined).hexdigest()
    source = str(Path(world.__file__).parents[3])
    there = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {source!r})\n{DIGEST}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here


def test_a_picture_does_not_depend_on_those_before_it() -> None:
    world.draw(11, 3)
    again = world.draw(11, 7)
    assert again.image.tobytes() == world.draw(11, 7).image.tobytes()
    assert again.image.tobytes() != world.draw(11, 8).image.tobytes()
    assert again.image.tobytes() != world.draw(12, 7).image.tobytes()


def test_pictures_are_rgb_of_the_asked_size_and_kind() -> None:
    for pixels in (32, 96, 160):
        picture = world.draw(11, 0, pixels=pixels, kind="umbrella")
        assert (picture.image.mode, picture.image.size) == ("RGB", (pixels, pixels))
        assert picture.kind == "umbrella"
        assert "umbrella" in picture.caption
    with pytest.raises(ValueError, match=r"unicorn.*dog"):
        world.draw(11, 0, kind="unicorn")


@pytest.fixture(scope="module")
def large_red_on_white() -> int:
    """The index of a picture of seed 13 in which anything would be large, and red on white."""
    for index in range(2000):
        picture = world.draw(13, index, pixels=4)
        facts = (picture.size, picture.colour, picture.background_colour)
        if facts == ("large", "red", "white"):
            return index
    raise AssertionError("none in 2000")


@pytest.mark.parametrize("kind", world.KINDS)
def test_every_kind_shows_in_its_colour(kind: str, large_red_on_white: int) -> None:
    picture = world.draw(13, large_red_on_white, kind=kind)
    assert (picture.kind, picture.colour, picture.size) == (kind, "red", "large")
    red, green, blue = np.asarray(picture.image, dtype=np.float64).reshape(-1, 3).T
    share = ((red > 110) & (green < 0.55 * red) & (blue < 0.55 * red)).mean()
    assert share > 0.05


def test_kinds_are_uniformly_distributed() -> None:
    kinds = Counter(world.draw(14, index, pixels=4).kind for index in range(2000))
    assert set(kinds) == set(world.KINDS)
    # Binomial with n=2000, p=1/20: standard deviation 9.7; 5 of them about the mean of 100.
    assert all(abs(number - 100) < 49 for number in kinds.values())


def test_captions_are_true_and_varied() -> None:
    pictures = [world.draw(15, i, pixels=4) for i in range(600)]
    for picture in pictures:
        words = picture.caption.split()
        assert picture.kind in words
        assert words[0] == ("an" if words[1][0] in "aeiou" else "a")
        assert set(words) & set(world.BACKGROUNDS) <= {picture.background}
        assert set(words) & set(world.COLOURS) <= {picture.colour, picture.background_colour}
        assert picture.colour != picture.background_colour
    whole = [p for p in pictures if {p.colour, p.background} <= set(p.caption.split())]
    assert 0.2 < len(whole) / len(pictures) < 0.8
    assert len({p.caption for p in pictures}) > 400


def test_prompts_name_the_kinds_in_order() -> None:
    prompts = world.prompts()
    assert prompts[world.KINDS.index("dog")] == "a dog"
    assert prompts[world.KINDS.index("apple")] == "an apple"
    assert [prompt.split()[-1] for prompt in prompts] == list(world.KINDS)


def test_unlabelled_folder_is_flat(tmp_path: Path) -> None:
    ticks: list[int] = []
    rows = world.render(
        tmp_path / "new" / "photos", 5, seed=16, labelled=False, on_picture=lambda: ticks.append(1)
    )
    found = sorted(path.name for path in (tmp_path / "new" / "photos").iterdir())
    assert found == [f"{i:06d}.jpg" for i in range(5)] == [row.file for row in rows]
    assert len(ticks) == 5
    with Image.open(tmp_path / "new" / "photos" / "000000.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (96, 96))


def test_labelled_folder_has_a_folder_a_kind_and_captions(tmp_path: Path) -> None:
    rows = world.render(tmp_path, 12, seed=16, labelled=True, pixels=48)
    lines = (tmp_path / "captions.tsv").read_text(encoding="utf-8").splitlines()
    assert lines == [f"{row.file}\t{row.kind}\t{row.caption}" for row in rows]
    for index, row in enumerate(rows):
        assert row.file == f"{row.kind}/{index:06d}.jpg"
        assert row.caption == world.draw(16, index).caption
        with Image.open(tmp_path / row.file) as image:
            assert image.size == (48, 48)


def test_render_resumes_without_drawing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.render(tmp_path, 4, seed=17, labelled=True)
    mark = b"left alone"
    (tmp_path / first[2].file).write_bytes(mark)
    (tmp_path / first[1].file).unlink()
    drawn: list[int] = []
    draw = world.draw

    def counting_draw(seed: int, index: int, **options: int) -> world.Picture:
        drawn.append(index)
        return draw(seed, index, pixels=options["pixels"])

    monkeypatch.setattr(world, "draw", counting_draw)
    second = world.render(tmp_path, 6, seed=17, labelled=True)
    assert drawn == [1, 4, 5]
    assert (tmp_path / first[2].file).read_bytes() == mark
    assert second[:4] == first
    assert len((tmp_path / "captions.tsv").read_text().splitlines()) == 6


def test_an_interrupted_render_leaves_only_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("clipdistill.core.files.os.replace", full_disk)
        with pytest.raises(OutputError, match="space"):
            world.render(tmp_path, 1, seed=18, labelled=False)
    assert list(tmp_path.iterdir()) == []
    world.render(tmp_path, 1, seed=18, labelled=False)
    assert (tmp_path / "000000.jpg").read_bytes() == world.jpeg(world.draw(18, 0).image)


def test_contact_sheet_is_a_grid_of_all_kinds() -> None:
    sheet = world.contact_sheet(2, 5, seed=19, pixels=32)
    gap = 2
    assert sheet.size == (5 * (32 + gap) + gap, 2 * (32 + gap) + gap)
    assert sheet.getpixel((0, 0)) == (255, 255, 255)
    corner = (gap + 32 + gap, gap + 32 + gap)
    tile = sheet.crop((*corner, corner[0] + 32, corner[1] + 32))
    expected = world.draw(19, 6, pixels=32, kind=world.KINDS[6]).image
    assert tile.tobytes() == expected.tobytes()


def test_the_stored_teacher_is_small_and_half_precision() -> None:
    load_file = pytest.importorskip("safetensors.numpy").load_file
    weights = TEACHER / "open_clip_model.safetensors"
    assert sum(path.stat().st_size for path in TEACHER.iterdir()) <= 12e6
    assert {str(t.dtype) for t in load_file(weights).values()} <= {"float16", "int64"}
    figures = json.loads((TEACHER / "evaluation.json").read_text(encoding="utf-8"))
    assert figures["zero_shot_accuracy"] >= 0.95
    assert min(figures["composition"].values()) >= 0.85


def test_the_teacher_knows_the_world_as_open_clip_loads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    open_clip = pytest.importorskip("open_clip")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{TEACHER}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{TEACHER}")
    model.eval()
    pictures = [world.draw(world.TEACHER_EVALUATION_SEED, index) for index in range(200)]
    files = [Image.open(io.BytesIO(world.jpeg(picture.image))) for picture in pictures]
    with torch.inference_mode():
        images = model.encode_image(torch.stack([preprocess(f) for f in files]), normalize=True)
        texts = model.encode_text(tokenizer(world.prompts()), normalize=True)
    assert torch.isfinite(images).all()
    best = (images @ texts.T).argmax(dim=1).tolist()
    right = sum(world.KINDS[b] == p.kind for b, p in zip(best, pictures, strict=True))
    assert right >= 0.95 * len(pictures)

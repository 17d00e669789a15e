"""The cost of decoding: memory over all threads together, scans; ordinary photos still work."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdistill.core.errors import ImageError
from clipdistill.images.budget import Budget
from clipdistill.images.cost import MAX_SCANS, bytes_needed
from clipdistill.images.decode import decode, open_image
from clipdistill.images.intake import take_in
from clipdistill.images.loading import load_pixels
from clipdistill.images.preprocess import Preprocess
from clipdistill.images.sources import list_images

MB = 1 << 20

MEASURE = """
import resource, sys
from pathlib import Path
from PIL import Image
from clipdistill.images import budget
from clipdistill.images.loading import load_pixels
from clipdistill.images.preprocess import Preprocess
from clipdistill.images.sources import list_images

Image.init()
budget.PIXELS.most = int(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
items = list_images(Path(sys.argv[1]))
for one in load_pixels(items, Preprocess(32), workers=4):
    print(one.item.key, one.reason or "good")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def measured(folder: Path, budget: int = 1 << 31) -> tuple[dict[str, str], int]:
    """Load a folder's images in four threads; each one's outcome, and the memory in MB."""
    command = [sys.executable, "-c", MEASURE, str(folder), str(budget)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    *lines, grown = done.stdout.splitlines()
    return dict(line.split(" ", 1) for line in lines), int(grown)


def webp(width: int, height: int) -> bytes:
    """A WebP of one colour, 34 bytes whatever its size: only the header differs."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "green").save(file, "WEBP", lossless=True)
    data = bytearray(file.getvalue())
    sides = (width - 1) | (height - 1) << 14 | data[24] >> 4 << 28
    data[21:25] = struct.pack("<I", sides)
    return bytes(data)


def png(side: int, depth: int, colour: int, samples: int) -> bytes:
    """A square PNG of zeros."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    packer = zlib.compressobj(1)
    row = bytes(1 + side * samples * depth // 8)
    packed = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG", **options)
    return file.getvalue()


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there `count` times."""
    data = jpeg(progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def test_a_small_file_that_needs_gigabytes_is_refused(tmp_path):
    (tmp_path / "bomb.webp").write_bytes(webp(16383, 10900))
    found, grown = measured(tmp_path)
    assert "need 3.0 GiB to decode, the limit is 2 GiB" in found["bomb.webp"]
    assert grown < 100


@pytest.mark.parametrize(("depth", "colour", "samples"), [(16, 0, 1), (16, 6, 4)])
def test_100_megapixels_of_16_bit_work_in_bounded_memory(tmp_path, depth, colour, samples):
    (tmp_path / "large.png").write_bytes(png(10_000, depth, colour, samples))
    found, grown = measured(tmp_path)
    assert found["large.png"] == "good"
    assert grown < 1100  # MB; with the conversion in one piece it is 2,400 and more


def test_all_threads_together_stay_within_the_budget(tmp_path):
    for name in "abcdef":
        (tmp_path / f"{name}.webp").write_bytes(webp(4000, 3000))
    found, grown = measured(tmp_path, budget=300 * MB)
    assert set(found.values()) == {"good"}
    assert grown < 400  # MB; one takes 200


@pytest.mark.parametrize(
    ("kind", "options", "per_pixel"),
    [
        ("JPEG", {}, 8),
        ("JPEG", {"progressive": True, "subsampling": 0}, 10),
        ("JPEG", {"progressive": True, "subsampling": 2}, 8),
        ("PNG", {}, 8),
        ("WEBP", {}, 18),
    ],
)
def test_the_memory_is_estimated_from_the_header(kind, options, per_pixel):
    file = io.BytesIO()
    Image.new("RGB", (640, 640)).save(file, kind, **options)
    found = bytes_needed(open_image(file.getvalue()), file.getvalue())
    assert found == per_pixel * 640 * 640


def test_a_tiff_of_one_huge_tile_is_refused():
    tags = [(256, 64), (257, 64), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(322, 60_000), (323, 60_000), (324, 8), (325, 100)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(104)
    with pytest.raises(ImageError, match="GiB to decode"):
        decode(data)


def test_a_jpeg_of_thousands_of_scans_is_refused_at_once():
    data = with_scans(20_000)
    started = time.monotonic()
    with pytest.raises(ImageError, match=f"20,009 scans is over the limit of {MAX_SCANS}"):
        decode(data)
    with pytest.raises(ImageError, match="scans"):
        take_in(data, max_pixels=10**6, min_size=8, resize=512)
    assert time.monotonic() - started < 2


def test_scans_below_the_limit_and_marks_in_other_places_are_fine():
    assert decode(with_scans(MAX_SCANS - 20)).size == (64, 64)
    marks = b"\xff\xda\0\x08" * 5000
    assert decode(jpeg(comment=marks)).size == (64, 64)
    assert decode(jpeg() + marks).size == (64, 64)


def test_a_budget_is_never_exceeded_and_gives_to_everybody():
    budget = Budget(100)
    held, most, served = 0, 0, []
    lock = threading.Lock()

    def work(count: int) -> None:
        nonlocal held, most
        with budget.hold(count):
            with lock:
                held += count
                most = max(most, held)
            time.sleep(0.002)
            with lock:
                held -= count
                served.append(count)

    counts = [7, 60, 100, 30, 45, 99, 1, 55] * 6
    threads = [threading.Thread(target=work, args=(count,)) for count in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(served) == sorted(counts)
    assert most <= 100


def test_one_that_needs_more_than_the_budget_waits_until_it_is_alone():
    budget = Budget(100)
    order: list[str] = []

    def large() -> None:
        with budget.hold(1000):
            order.append("large")

    with budget.hold(10):
        thread = threading.Thread(target=large)
        thread.start()
        time.sleep(0.05)
        order.append("small")
    thread.join(10)
    assert order == ["small", "large"]


def test_a_budget_is_free_again_after_an_error():
    budget = Budget(10)
    with pytest.raises(ValueError, match="x"), budget.hold(10):
        raise ValueError("x")
    with budget.hold(10):
        pass


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
@pytest.mark.parametrize("where", ["decoder", "resizing"])
def test_too_little_memory_is_a_row(tmp_path, pictures, monkeypatch, error, where):
    pictures(tmp_path, 1)

    def fail(*args: object) -> None:
        raise error

    target, name = (Image.Image, "load") if where == "decoder" else (Preprocess, "to_pixels")
    if where == "decoder":
        from PIL.PngImagePlugin import PngImageFile as target
    monkeypatch.setattr(target, name, fail)
    [one] = load_pixels(list_images(tmp_path), Preprocess(16), workers=1)
    assert one.pixels is None
    assert one.reason

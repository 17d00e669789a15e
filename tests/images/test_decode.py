"""decode: upright RGB images as a person sees them, and no error but ImageError."""

from __future__ import annotations

import io
import resource
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipdistill.core.errors import ImageError
from clipdistill.images import decode as decode_module
from clipdistill.images.decode import MAX_PIXELS, decode, endings
from clipdistill.images.intake import take_in

# Pillow warns about damaged metadata, which is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quarters(size: int = 32) -> Image.Image:
    """Red, green / blue, white: any turn or mirroring shows."""
    image = Image.new("RGB", (size, size), WHITE)
    half = size // 2
    image.paste(RED, (0, 0, half, half))
    image.paste(GREEN, (half, 0, size, half))
    image.paste(BLUE, (0, half, half, size))
    return image


def close(
    image: Image.Image, xy: tuple[int, int], colour: tuple[int, int, int], by: int = 12
) -> bool:
    found = np.array(image.getpixel(xy), dtype=int)
    return bool((abs(found - np.array(colour)) <= by).all())


def check_quarters(image: Image.Image, by: int = 12) -> None:
    assert image.mode == "RGB"
    low, high = image.width // 4, 3 * image.width // 4
    assert close(image, (low, low), RED, by)
    assert close(image, (high, low), GREEN, by)
    assert close(image, (low, high), BLUE, by)
    assert close(image, (high, high), WHITE, by)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF"])
def test_every_kind_of_image(kind):
    if kind == "AVIF" and ".avif" not in endings():
        pytest.skip("this Pillow has no AVIF")
    options = {
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 100},
    }.get(kind, {})
    check_quarters(decode(encoded(quarters(), kind, **options)))


def turned(orientation: int) -> Image.Image:
    """What a camera stores for a scene that looks like `quarters`, held as `orientation` says."""
    camera = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    image = quarters().resize((32, 32))
    for step in camera[orientation]:
        image = image.transpose(step)
    return image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    check_quarters(decode(encoded(turned(orientation), kind, exif=exif, **options)))


def test_exif_orientation_swaps_the_sides_even_when_decoded_smaller():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (640, 320), RED), "JPEG", exif=exif)
    assert decode(data).size == (320, 640)
    assert decode(data, at_least=32).size == (80, 160)


@pytest.mark.parametrize("orientation", [0, 9, 6553])
def test_senseless_orientations_leave_the_image_as_it_is(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    check_quarters(decode(encoded(quarters(), "PNG", exif=exif)))


def test_damaged_exif_does_not_spoil_a_good_image():
    data = encoded(
        quarters(), "JPEG", quality=95, subsampling=0, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"
    )
    check_quarters(decode(data))


def test_cmyk_jpeg_has_its_colours():
    data = encoded(quarters().convert("CMYK"), "JPEG", quality=95, subsampling=0)
    check_quarters(decode(data), by=20)


def test_grey_jpeg():
    image = decode(encoded(Image.new("L", (16, 16), 90), "JPEG"))
    assert image.mode == "RGB"
    assert close(image, (8, 8), (90, 90, 90), 3)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette(kind):
    palette = quarters().convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    check_quarters(decode(encoded(palette, kind)))


def test_palette_with_transparency_lies_over_white():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*RED, *GREEN, *BLUE])
    image.paste(0, (0, 0, 4, 8))
    found = decode(encoded(image, "PNG", transparency=0))
    assert close(found, (1, 1), WHITE, 0)
    assert close(found, (6, 1), GREEN, 0)
    half = decode(encoded(image, "PNG", transparency=bytes([128, 255, 255])))
    assert close(half, (1, 1), (255, 127, 127), 1)


def test_gif_with_transparency_lies_over_white():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*RED, *GREEN, *BLUE])
    image.paste(0, (0, 0, 4, 8))
    found = decode(encoded(image, "GIF", transparency=0))
    assert close(found, (1, 1), WHITE, 0)
    assert close(found, (6, 1), GREEN, 0)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_rgba_lies_over_white(kind):
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((0, 0, 255, 128), (4, 0, 8, 8))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = decode(encoded(image, kind, **options))
    assert close(found, (1, 1), WHITE, 0)
    assert close(found, (6, 1), (127, 127, 255), 1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_with_alpha_lies_over_white(kind):
    image = Image.new("LA", (8, 8), (0, 0))
    image.paste((0, 128), (4, 0, 8, 8))
    found = decode(encoded(image, kind))
    assert close(found, (1, 1), WHITE, 0)
    assert close(found, (6, 1), (127, 127, 127), 1)


def test_rgb_png_with_a_transparent_colour():
    found = decode(encoded(quarters(), "PNG", transparency=RED))
    assert close(found, (4, 4), WHITE, 0)
    assert close(found, (28, 4), GREEN, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_white_white_and_mid_grey_mid(kind):
    values = np.array([[0, 32768, 65535, 257]], dtype=np.uint16).repeat(2, axis=0)
    found = decode(encoded(Image.fromarray(values), kind))
    assert [found.getpixel((x, 0))[0] for x in range(4)] == [0, 128, 255, 1]


def test_16_bit_grey_without_any_white_stays_dark():
    values = np.full((4, 4), 6554, dtype=np.uint16)
    assert close(decode(encoded(Image.fromarray(values), "PNG")), (1, 1), (26, 26, 26), 1)


def chunk(name: bytes, data: bytes, damage: int = 0) -> bytes:
    """A chunk of a PNG; `damage` makes its checksum wrong."""
    check = struct.pack(">I", zlib.crc32(name + data) ^ damage)
    return struct.pack(">I", len(data)) + name + data + check


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG by hand: Pillow writes no 16-bit colours."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def test_16_bit_rgb_png():
    pixel = struct.pack(">HHH", 65535, 32768, 0)
    found = decode(png(2, 2, 16, 2, (b"\0" + 2 * pixel) * 2))
    assert close(found, (1, 1), (255, 128, 0), 1)


def test_16_bit_rgba_png():
    pixel = struct.pack(">HHHH", 0, 0, 0, 32768)
    found = decode(png(2, 2, 16, 6, (b"\0" + 2 * pixel) * 2))
    assert close(found, (1, 1), (127, 127, 127), 1)


XMP = b"XML:com.adobe.xmp\0"
BAD_CHUNKS = {
    "4 MB of XMP": chunk(b"iTXt", XMP + b"\0\0\0\0" + b"<x/>" * 2**20),
    "4 MB of XMP, compressed": chunk(b"iTXt", XMP + b"\1\0\0\0" + zlib.compress(b"x" * 2**22)),
    "4 MB of text, compressed": chunk(b"zTXt", b"note\0\0" + zlib.compress(b"x" * 2**22)),
    "a wrong checksum of a text": chunk(b"tEXt", b"note\0hello", damage=1),
    "a wrong checksum of a time": chunk(b"tIME", bytes(7), damage=1),
    "a wrong checksum of EXIF": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0", damage=1),
    "a text that cannot be unpacked": chunk(b"zTXt", b"note\0\0nonsense"),
    "a physical size cut short": chunk(b"pHYs", b"\0\0"),
}


@pytest.mark.parametrize("bad", BAD_CHUNKS)
@pytest.mark.parametrize("behind", [b"IDAT", b"IEND"])
def test_bad_notes_in_a_png_do_not_spoil_its_pixels(bad, behind):
    exif = Image.Exif()
    exif[0x0112] = 6
    own = {} if "EXIF" in bad else {"exif": exif}
    data = encoded(turned(6 if own else 1), "PNG", **own)
    place = data.rfind(behind) - 4
    data = data[:place] + BAD_CHUNKS[bad] + data[place:]
    check_quarters(decode(data))
    taken = take_in(data, max_pixels=10**6, min_size=8, resize=512)
    assert (taken.width, taken.data) == (32, data)


def test_a_png_whose_pixels_or_transparency_are_damaged_is_still_refused():
    data = encoded(quarters(), "PNG", transparency=RED)
    for name in (b"IDAT", b"tRNS", b"IHDR"):
        place = data.find(name) + 5
        bad = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(ImageError):
            decode(bad)


@pytest.fixture
def no_heif(monkeypatch):
    monkeypatch.setattr(decode_module, "_installed", lambda name: name != "pillow_heif")


def test_heic_without_its_decoder_says_what_to_install(no_heif):
    with pytest.raises(ImageError, match="a HEIC image; to read it, install pillow-heif"):
        decode(b"\0\0\0\x1cftypheic" + bytes(200))
    assert ".heic" not in endings()


def test_heic_with_its_decoder():
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(quarters(64)).save(file, quality=95)
    check_quarters(decode(file.getvalue()), by=25)
    assert ".heic" in endings()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_1_bit(kind):
    image = Image.new("1", (8, 8), 1)
    image.paste(0, (0, 0, 4, 8))
    found = decode(encoded(image, kind))
    assert close(found, (1, 1), (0, 0, 0), 0)
    assert close(found, (6, 1), WHITE, 0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([0.0, 500.0, 1000.0], [0, 128, 255]),
        ([float("nan"), -5.0, 1.0], [0, 0, 255]),
    ],
)
def test_float_tiff(values, expected):
    image = Image.fromarray(np.array([values] * 3, dtype=np.float32))
    found = decode(encoded(image, "TIFF"))
    assert [found.getpixel((x, 1))[0] for x in range(3)] == expected


def test_32_bit_integer_tiff():
    image = Image.fromarray(np.array([[0, 500_000, 1_000_000]] * 2, dtype=np.int32))
    found = decode(encoded(image, "TIFF"))
    assert [found.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (BLUE, RED, GREEN)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert close(decode(data), (8, 8), BLUE, 3)


@pytest.mark.parametrize("side", [64, 65, 130, 255, 256, 511, 513])
def test_decoding_smaller_keeps_twice_what_is_needed(side):
    data = encoded(quarters(600).resize((600, side + 200)), "JPEG")
    whole, small = decode(data), decode(data, at_least=side)
    assert min(small.size) >= min(2 * side, min(whole.size))
    assert decode(data, at_least=16).size < whole.size


def big_jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise), "JPEG")


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9, 0.98])
def test_truncated_jpeg_is_refused(share):
    data = big_jpeg()
    with pytest.raises(ImageError):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"GIF",
        b"BM",
        b"\xff\xd8\xff",
        b"\0" * 1000,
        b"RIFF\0\0\0\0WEBPVP8 ",
    ],
)
def test_what_is_not_an_image_is_refused(data):
    with pytest.raises(ImageError, match=r"image|decoded"):
        decode(data)


def test_empty_file_says_so():
    with pytest.raises(ImageError, match="empty"):
        decode(b"")


@pytest.mark.parametrize("sides", [(30_000, 30_000), (15_000, 12_000), (2_000_000_000, 1)])
def test_decompression_bombs_are_refused_from_their_header(sides):
    bomb = png(*sides, 8, 2, b"")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match=r"pixels"):
        decode(bomb)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 50_000  # kB; decoded, the smallest of them takes 540 MB


def test_the_limit_can_be_lowered():
    data = encoded(quarters(), "PNG")
    assert MAX_PIXELS > 32 * 32
    assert decode(data, max_pixels=32 * 32).size == (32, 32)
    with pytest.raises(ImageError, match="32x32 pixels is over the limit of 1,000"):
        decode(data, max_pixels=1000)


def test_other_formats_of_pillow_are_not_opened():
    for kind in ("PPM", "ICO", "PDF", "TGA"):
        with pytest.raises(ImageError):
            decode(encoded(quarters(), kind))


def decode_or_refuse(data: bytes) -> None:
    try:
        image = decode(data, at_least=8)
    except ImageError as error:
        assert str(error)  # noqa: PT017
    else:
        assert image.mode == "RGB"


@given(st.binary(max_size=300))
def test_random_bytes(data):
    decode_or_refuse(data)


@given(
    st.sampled_from(
        [
            b"\xff\xd8\xff\xe0",
            b"\x89PNG\r\n\x1a\n",
            b"GIF89a",
            b"II*\0",
            b"MM\0*",
            b"BM",
            b"RIFF\x40\0\0\0WEBPVP8 ",
        ]
    ),
    st.binary(max_size=200),
)
def test_random_bytes_behind_a_good_beginning(magic, data):
    decode_or_refuse(magic + data)


def _samples() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "camera"
    small = quarters(16)
    frames = {"save_all": True, "append_images": [Image.new("RGB", (16, 16), RED)]}
    return {
        "jpeg": encoded(small, "JPEG", exif=exif),
        "png": encoded(small, "PNG", exif=exif),
        "palette png": encoded(small.convert("P"), "PNG", transparency=0),
        "16-bit png": encoded(Image.fromarray(np.full((8, 8), 999, np.uint16)), "PNG"),
        "gif": encoded(small, "GIF", **frames),
        "webp": encoded(small, "WEBP", exif=exif),
        "tiff": encoded(small, "TIFF", exif=exif),
        "lzw tiff": encoded(small, "TIFF", compression="tiff_lzw"),
        "bmp": encoded(small, "BMP"),
    }


SAMPLES = _samples()


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_images_are_decoded_or_refused(name, data):
    sample = bytearray(SAMPLES[name])
    for _ in range(data.draw(st.integers(1, 6))):
        # Headers, where the damage is worst, get half of the hits.
        last = data.draw(st.sampled_from([min(64, len(sample) - 1), len(sample) - 1]))
        sample[data.draw(st.integers(0, last))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([None, len(sample) // 3, len(sample) - 2]))
    decode_or_refuse(bytes(sample[:cut]))

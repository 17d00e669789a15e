"""LiteRT files (`.tflite`) of `export --target litert`: the network, and behind it its metadata.

    network    a flatbuffer: input float32 (1, 3, S, S), output float32 (1, D), unit length
    metadata   a zip archive with one uncompressed member, `clipdistill.json`: the entries of an
               ONNX file's metadata (see `classifier`), as one JSON object of texts

Behind the flatbuffer is where TensorFlow Lite's own metadata has associated files; runtimes ignore
them.  There is no head in the network: probabilities are computed from the embedding, the class
vectors and the temperature, so other classes need another archive only.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from ..core.errors import FormatError, InputError
from .classifier import MAX_FILE_BYTES, MAX_JSON, OnnxCard
from .litert_wire import check_network, damaged

TFLITE = ".tflite"
MEMBER = "clipdistill.json"
MAX_BYTES = 6 * MAX_JSON
"""Most bytes of the metadata: a matrix and a card, each within `classifier`'s own limits."""


def read_litert(path: Path) -> tuple[OnnxCard, bytes]:
    """Read a `.tflite` file: its metadata, and its network after `litert_wire.check_network`.

    Raises:
        InputError: no such file.
        FormatError: it is too large or damaged, was not made by `clipdistill export`, or asks for
            more than a classifier needs.
    """
    card = read_litert_card(path)
    with open(path, "rb") as handle:
        network = handle.read(network_size(path))
    check_network(path, network)
    return card, network


def read_litert_card(path: Path) -> OnnxCard:
    """Read the metadata of a `.tflite` file.

    Raises:
        InputError: no such file.
        FormatError: it is too large, was not made by `clipdistill export`, or its metadata is
            damaged.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such LiteRT file. Make one with: clipdistill export "
            "--target litert"
        )
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise FormatError(
            f"{path}: expected a LiteRT file of at most 2 GiB, found {size / 2**30:.1f} GiB. "
            "Choose a smaller model."
        )
    with open(path, "rb") as handle:
        if handle.read(8)[4:] != b"TFL3":
            raise damaged(path, "it does not have TFL3 at byte 4")
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(MEMBER)
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > MAX_BYTES:
                raise FormatError(
                    f"{path}: its metadata is compressed or too large. Make it again with: "
                    "clipdistill export --target litert"
                )
            metadata = json.loads(archive.read(info))
    except (zipfile.BadZipFile, KeyError) as error:
        raise FormatError(
            f"{path}: this LiteRT file has no clipdistill metadata (preprocessing, classes). Give "
            "a file that `clipdistill export --target litert` made."
        ) from error
    except (ValueError, RecursionError, EOFError, NotImplementedError, RuntimeError) as error:
        raise _damaged_metadata(path, str(error)) from error
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _damaged_metadata(path, "expected one object of texts")
    return OnnxCard.from_metadata(path, metadata)


def network_size(path: Path) -> int:
    """Size of the flatbuffer in bytes: what comes before the archive."""
    with zipfile.ZipFile(path) as archive:
        return max(0, min(info.header_offset for info in archive.infolist()))


def append_card(path: Path, card: OnnxCard) -> None:
    """Append the metadata to a file that has none yet."""
    text = json.dumps(card.to_metadata(), ensure_ascii=False)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(MEMBER), text)


def copy_with_card(source: Path, card: OnnxCard, out: Path) -> None:
    """Write the network of `source` with other metadata to `out`."""
    left = network_size(source)
    with open(source, "rb") as old, open(out, "wb") as new:
        while left > 0 and (part := old.read(min(left, 1 << 20))):
            new.write(part)
            left -= len(part)
    append_card(out, card)


def _damaged_metadata(path: Path, reason: str) -> FormatError:
    return FormatError(
        f"{path}: its metadata is damaged ({reason}). Make it again with: clipdistill export "
        "--target litert"
    )

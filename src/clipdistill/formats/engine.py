"""TensorRT engines: `NAME.engine`, TensorRT's own bytes, and beside it `NAME.engine.json`.

An engine does not describe itself, and TensorRT does not check its bytes.  So the json has the card
of the ONNX file that the engine was built from, and the SHA-256 of the engine: neither file is
loaded without the other.  The json is written last.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..core.errors import FormatError, InputError
from ..core.files import check_format, read_json, write_bytes, write_json, writing
from ..core.results import from_json
from .classifier import OnnxCard

FORMAT = "clipdistill.engine"
VERSION = 1

ENGINE = ".engine"
MAX_CARD_BYTES = 512 << 20
"""Size of a json with 100,000 classes of 640 dimensions."""


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: name from the driver.
        capability: compute capability, such as "8.7".
    """

    name: str
    capability: str


@dataclass(frozen=True)
class Engaged:
    """Choices of TensorRT, read from its log and from the inspector of the engine.

    Attributes:
        layers: number of the engine's layers, after fusion.
        int8: names of the layers that compute in INT8.
        sparse: names of the layers that use 2:4 sparse tactics.
        eligible: number of layers whose weights TensorRT found to be 2:4; None when unknown.
        detailed: whether the inspector listed tactics; otherwise `int8` is unknown.
    """

    layers: int
    int8: tuple[str, ...]
    sparse: tuple[str, ...]
    eligible: int | None
    detailed: bool


@dataclass(frozen=True)
class EngineCard:
    """Description of an engine.

    Attributes:
        onnx: card of the ONNX file.
        precision: precision of that file: "fp32", "fp16", "int8", "int8+fp16".
        tensorrt: version of TensorRT that built the engine, and the only one that loads it.
        gpu: GPU that it was built on.
        any_gpu: whether it also runs on other GPUs (Ampere and newer, no Jetson).
        batch: least, best and most images per batch.
        strongly_typed: whether only the file decided the precisions.
        sparse: whether sparse tactics were allowed.
        stored_sparse: share of the ONNX file's weights that are 2:4, 0 to 1.
        engaged: choices of TensorRT.
        onnx_sha256: SHA-256 of the ONNX file, hexadecimal.
        engine_sha256: SHA-256 of the engine, hexadecimal.
    """

    onnx: OnnxCard
    precision: str
    tensorrt: str
    gpu: Gpu
    any_gpu: bool
    batch: tuple[int, int, int]
    strongly_typed: bool
    sparse: bool
    stored_sparse: float
    engaged: Engaged
    onnx_sha256: str
    engine_sha256: str


def card_path(engine: Path) -> Path:
    """Return the path of an engine's card."""
    return engine.with_name(engine.name + ".json")


def save_engine(path: Path, data: bytes, card: EngineCard) -> None:
    """Write the engine, then its card; `card.engine_sha256` must be that of `data`.

    Raises:
        OutputError: they cannot be written.
    """
    with writing(path):
        card_path(path).unlink(missing_ok=True)  # the old card does not describe the new engine
    write_bytes(path, data)
    write_json(card_path(path), {"format": FORMAT, "version": VERSION, **_to_json(card)})


def load_engine(path: Path) -> tuple[bytes, EngineCard]:
    """Load an engine's bytes and card, and check that they are a pair.

    Raises:
        InputError: one of the two files is missing.
        FormatError: the card is damaged, or the engine is not the one it describes.
    """
    card = load_engine_card(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such engine. Build one with: clipdistill engine")
    data = path.read_bytes()
    if (
        sha256(data).hexdigest() != card.engine_sha256
    ):  # of the loaded bytes, since the file may change
        raise FormatError(
            f"{path} is not the engine that {card_path(path)} describes: it is damaged or was "
            "replaced. It is not loaded, because TensorRT does not check it. Copy both files "
            "again, or build the engine again with: clipdistill engine"
        )
    return data, card


def load_engine_card(path: Path) -> EngineCard:
    """Load the card of the engine `path`.

    Raises:
        InputError: there is no card.
        FormatError: it is damaged, of another kind or of a newer version.
    """
    where = card_path(path)
    if not where.is_file():
        raise InputError(
            f"{where}: the card of the engine is missing. "
            + (
                "Copy both files."
                if path.is_file()
                else "Build the engine with: clipdistill engine"
            )
        )
    if where.stat().st_size > MAX_CARD_BYTES:
        raise FormatError(
            f"{where}: expected the engine's card, at most {MAX_CARD_BYTES:,} bytes, found "
            f"{where.stat().st_size:,} bytes. Build the engine again with: clipdistill engine"
        )
    value = read_json(where, "the engine's card")
    check_format(where, value, FORMAT, VERSION)
    try:
        return _from_json(where, value)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FormatError(
            f"{where}: the engine's card cannot be read: {error!r}. Build the engine again with: "
            "clipdistill engine"
        ) from error


def _to_json(card: EngineCard) -> dict[str, Any]:
    plain = {
        item.name: getattr(card, item.name)
        for item in fields(card)
        if item.name not in ("onnx", "gpu", "engaged")
    }
    return {
        **plain,
        "gpu": vars(card.gpu),
        "engaged": vars(card.engaged),
        "onnx": card.onnx.to_metadata(),
    }


def _from_json(where: Path, value: dict[str, Any]) -> EngineCard:
    least, best, most = (int(number) for number in value["batch"])
    if not 1 <= least <= best <= most:
        raise ValueError(f"batch {value['batch']}")
    metadata = {str(key): str(text) for key, text in value["onnx"].items()}
    return EngineCard(
        onnx=OnnxCard.from_metadata(where, metadata),
        precision=str(value["precision"]),
        tensorrt=str(value["tensorrt"]),
        gpu=from_json(Gpu, value["gpu"]),
        any_gpu=bool(value["any_gpu"]),
        batch=(least, best, most),
        strongly_typed=bool(value["strongly_typed"]),
        sparse=bool(value["sparse"]),
        stored_sparse=float(value["stored_sparse"]),
        engaged=from_json(Engaged, value["engaged"]),
        onnx_sha256=str(value["onnx_sha256"]),
        engine_sha256=str(value["engine_sha256"]),
    )

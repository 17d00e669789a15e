"""A TensorRT engine: `NAME.engine`, TensorRT's own bytes, and beside it `NAME.engine.json`.

The engine says nothing of itself, and TensorRT trusts its bytes.  So the json carries the card of
the ONNX file it was built from, and the SHA-256 of the engine: one is never loaded without the
other.  The json is written last.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..core.errors import FormatError, InputError
from ..core.files import check_format, read_json, write_bytes, write_json, writing
from .classifier import OnnxCard

FORMAT = "clipdistill.engine"
VERSION = 1

ENGINE = ".engine"
MAX_CARD_BYTES = 512 << 20
"""A json of this size would hold 100,000 classes of 640 dimensions."""


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: as its driver says.
        capability: its compute capability, such as "8.7".
    """

    name: str
    capability: str


@dataclass(frozen=True)
class Engaged:
    """What TensorRT chose, read from its own log and its engine's inspector.

    Attributes:
        layers: of the engine, after fusion.
        int8: names of the layers that compute in INT8.
        sparse: names of the layers that use 2:4 sparse tactics.
        eligible: how many layers' weights TensorRT found to be 2:4; None when it did not say.
        detailed: whether the inspector told tactics; where it did not, `int8` is unknown.
    """

    layers: int
    int8: tuple[str, ...]
    sparse: tuple[str, ...]
    eligible: int | None
    detailed: bool


@dataclass(frozen=True)
class EngineCard:
    """What an engine is.

    Attributes:
        onnx: the card of the ONNX file.
        precision: of that file's network: "fp32", "fp16", "int8", "int8+fp16".
        tensorrt: version that built it, and the only one that loads it.
        gpu: that it was built on.
        any_gpu: whether it runs on other GPUs too (Ampere and newer, no Jetson).
        batch: least, best and most pictures at once.
        strongly_typed: whether the file alone decided the precisions.
        sparse: whether sparse tactics were allowed.
        stored_sparse: share of the ONNX file's weights that are 2:4.
        engaged: what TensorRT made of it.
        onnx_sha256: of the ONNX file.
        engine_sha256: of the engine.
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
    """Where the card of an engine lies."""
    return engine.with_name(engine.name + ".json")


def save_engine(path: Path, data: bytes, card: EngineCard) -> None:
    """Write the engine, then its card; `card.engine_sha256` must be that of `data`.

    Raises:
        OutputError: they cannot be written.
    """
    with writing(path):
        card_path(path).unlink(missing_ok=True)  # the old card is not the new engine's
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
        raise InputError(f"{path}: no such engine. Build one with: clipdistill engine")
    data = path.read_bytes()
    if sha256(data).hexdigest() != card.engine_sha256:  # of what is loaded, not of what lies there
        raise FormatError(
            f"{path} is not the engine that {card_path(path)} describes: damaged or replaced. "
            "TensorRT would trust its bytes, so it is not loaded. Copy both files again, or build "
            "it again: clipdistill engine"
        )
    return data, card


def load_engine_card(path: Path) -> EngineCard:
    """Load the card of the engine `path`.

    Raises:
        InputError: there is none.
        FormatError: it is damaged, foreign or newer.
    """
    where = card_path(path)
    if not where.is_file():
        raise InputError(
            f"{where}: an engine is used only with its card, and there is none. "
            + ("Copy both files" if path.is_file() else "Build one with: clipdistill engine")
        )
    if where.stat().st_size > MAX_CARD_BYTES:
        raise FormatError(f"{where}: a card of {where.stat().st_size:,} bytes is no card.")
    value = read_json(where, "the engine's card")
    check_format(where, value, FORMAT, VERSION)
    try:
        return _from_json(where, value)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FormatError(
            f"{where}: the engine's card cannot be read: {error!r}. Build the engine again: "
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
    gpu, engaged = value["gpu"], value["engaged"]
    least, best, most = (int(number) for number in value["batch"])
    if not 1 <= least <= best <= most:
        raise ValueError(f"batch {value['batch']}")
    metadata = {str(key): str(text) for key, text in value["onnx"].items()}
    eligible = engaged["eligible"]
    return EngineCard(
        onnx=OnnxCard.from_metadata(where, metadata),
        precision=str(value["precision"]),
        tensorrt=str(value["tensorrt"]),
        gpu=Gpu(str(gpu["name"]), str(gpu["capability"])),
        any_gpu=bool(value["any_gpu"]),
        batch=(least, best, most),
        strongly_typed=bool(value["strongly_typed"]),
        sparse=bool(value["sparse"]),
        stored_sparse=float(value["stored_sparse"]),
        engaged=Engaged(
            int(engaged["layers"]),
            tuple(str(name) for name in engaged["int8"]),
            tuple(str(name) for name in engaged["sparse"]),
            None if eligible is None else int(eligible),
            bool(engaged["detailed"]),
        ),
        onnx_sha256=str(value["onnx_sha256"]),
        engine_sha256=str(value["engine_sha256"]),
    )

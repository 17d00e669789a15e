"""The folder of a student.

student.json         the card; written last, so it marks a finished training
model.safetensors    the best weights (a timm model with num_classes = embedding dimension; a
                     compressed student has 2:4 zeros, folded weights and `*_quantizer._amax`)
checkpoint.pth       the last state: {"model", "optimizer", "epoch", "card", ...}, for resuming
metrics.jsonl        one line per epoch
samples.npy          uint8 (N, S, S, 3): some training images, for the checks of `export`
log/                 TensorBoard's log
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import FormatError, InputError, first_line
from ..core.files import (
    atomic_path,
    check_format,
    describing,
    read_array,
    read_json,
    sha256_of,
    write_bytes,
    write_json,
)
from .cards import StudentCard, last_name

if TYPE_CHECKING:
    import torch

FORMAT = "clipdistill.student"
VERSION = 2
"""Newest version: 2 has a "compression", and its weights may not fit a plain timm network."""

CARD = "student.json"
WEIGHTS = "model.safetensors"
CHECKPOINT = "checkpoint.pth"
METRICS = "metrics.jsonl"
LOG = "log"
SAMPLES = "samples.npy"
SAMPLE_IMAGES = 16
"""Training images in `samples.npy`."""


def save_card(folder: Path, card: StudentCard) -> None:
    """Write `student.json` for the `model.safetensors` in `folder`."""
    # An older program must refuse a compressed student, and can read every other student.
    version = 1 if card.compression is None else VERSION
    head = {"format": FORMAT, "version": version, "weights_sha256": sha256_of(folder / WEIGHTS)}
    write_json(folder / CARD, {**head, **card.to_json()})


def is_student(folder: Path) -> bool:
    """Whether `folder` has a finished student."""
    return (folder / CARD).is_file()


def load_card(folder: Path) -> StudentCard:
    """Load `student.json` and check that the weights beside it are the ones it describes.

    Raises:
        InputError: there is no student, or its training has not finished.
        FormatError: card or weights are damaged or not a pair.
    """
    if not (folder / CARD).is_file():
        if (folder / CHECKPOINT).is_file():
            raise InputError(
                f"{folder}: the training of this student has not finished. Run the same "
                f"`clipdistill distill` command again to resume, or give {folder / CHECKPOINT}."
            )
        raise InputError(f"{folder}: there is no student here. Make one with: clipdistill distill")
    value = read_json(folder / CARD, "the student's card")
    check_format(folder / CARD, value, FORMAT, VERSION)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InputError(
            f"{weights}: the student's weights are missing. Copy the whole folder again."
        )
    if sha256_of(weights) != value.get("weights_sha256"):
        raise FormatError(
            f"{weights} is not the file that {folder / CARD} describes: it is damaged or was "
            "replaced. Copy the whole folder again, or run `clipdistill distill` again."
        )
    with describing(folder / CARD):
        return StudentCard.from_json(value)


def origin(source: Path) -> str:
    """Name a student or a file of weights without its place: "NAME (16 digits of the SHA-256)".

    The digits are those of the weights; without them there is no such file.
    """
    path = source
    if source.is_dir():
        path = source / (WEIGHTS if (source / WEIGHTS).is_file() else CHECKPOINT)
    name = last_name(str(source))
    return f"{name} ({sha256_of(path)[:16]})" if path.is_file() else name


def save_weights(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Write `model.safetensors`."""
    from safetensors.torch import save

    write_bytes(folder / WEIGHTS, save({name: value.contiguous() for name, value in state.items()}))


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Load a state dict on the CPU.

    Args:
        path: `.safetensors`, or a `.pth` with a state dict, also under "model", "state_dict" or
            "model_state_dict".

    Raises:
        InputError: there is no such file.
        FormatError: it is truncated, has no weights, or is a pickle that would run code.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not path.is_file():
            raise InputError(f"{path}: there is no such file of weights.")
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise FormatError(
                f"{path}: not a readable safetensors file ({error}). Copy it again."
            ) from error
    value = load_checkpoint(path)
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(value.get(key), dict):
            value = value[key]
            break
    return as_weights(value, path)


def as_weights(value: dict[Any, Any], path: Path) -> dict[str, torch.Tensor]:
    """Check that a dictionary is a state dict.

    DataParallel's prefix "module." is removed.  The masks of apex's ASP (`__weight_mma_mask`) are
    left out: the weights have the zeros.

    Raises:
        FormatError: it is no state dict.
    """
    import torch

    value = {
        name: tensor
        for name, tensor in value.items()
        if "_mma_" not in str(name).rpartition(".")[2]
    }
    odd = [str(name) for name, tensor in value.items() if not torch.is_tensor(tensor)]
    if odd or not value:
        raise FormatError(
            f"{path}: expected weights (names with tensors), found entries like {odd[:3]}. "
            "Give a .safetensors, or a .pth that holds a timm state dict."
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in value.items()}


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write `checkpoint.pth` (tensors and plain values only, so that it loads without pickle)."""
    import torch

    # Through memory: torch's own file writer reports a full disk as an internal RuntimeError.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(folder / CHECKPOINT, buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a `.pth` dictionary with `weights_only=True`: no code in it can run.

    Raises:
        InputError: there is no such file.
        FormatError: it is truncated, no checkpoint, or a pickle that would run code.
    """
    import torch

    if not path.is_file():
        raise InputError(f"{path}: there is no such checkpoint.")
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FormatError(
            f"{path}: refused. Expected a checkpoint of tensors and plain values, found one that "
            "is damaged or would run code when loaded. Give a checkpoint of clipdistill or of the "
            "older clip-distillation scripts."
        ) from error
    # A damaged file can make torch's reader raise any of these.
    except (
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        ArithmeticError,
        MemoryError,
        struct.error,
        zipfile.BadZipFile,
    ) as error:
        raise FormatError(
            f"{path}: not a readable checkpoint: it is truncated or of another kind "
            f"({first_line(error)}). Copy it again, or train again in another folder."
        ) from error
    if not isinstance(value, dict):
        raise FormatError(
            f"{path}: expected a dictionary of tensors and values, found {type(value).__name__}. "
            "Give a checkpoint of clipdistill or of the older clip-distillation scripts."
        )
    return value


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write `metrics.jsonl`, one line per epoch."""
    write_bytes(folder / METRICS, "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_metrics(folder: Path) -> tuple[dict[str, Any], ...]:
    """Read the lines of `metrics.jsonl`, the oldest first; none without such a file.

    Raises:
        FormatError: a line is damaged.
    """
    path = folder / METRICS
    if not path.is_file():
        return ()
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            value = json.loads(line)
            rows.append({"epoch": int(value["epoch"]), **value})
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise FormatError(
                f"{path}, line {number}: expected the metrics of an epoch ({error!r}). Delete the "
                "file, or copy the student's folder again."
            ) from error
    return tuple(rows)


def save_samples(folder: Path, pixels: NDArray[np.uint8]) -> None:
    """Write `samples.npy`: uint8 (N, S, S, 3)."""
    with atomic_path(folder / SAMPLES) as temporary:
        np.save(temporary, pixels)


def load_samples(folder: Path) -> NDArray[np.uint8] | None:
    """Load `samples.npy`; None where a student has no such file.

    Raises:
        FormatError: it is damaged.
    """
    path = folder / SAMPLES
    if not path.is_file():
        return None
    try:
        pixels: NDArray[np.uint8] = read_array(path)
    except FormatError as error:
        raise FormatError(f"{error} Delete it: `export` then uses drawn images.") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise FormatError(
            f"{path}: expected uint8 (N, S, S, 3), found {pixels.dtype} {pixels.shape}. Delete it: "
            "`export` then uses drawn images."
        )
    return pixels

"""A student's folder.

student.json         the card; written last, so it marks a finished training
model.safetensors    the best weights (a timm model with num_classes = embedding dimension; of a
                     compressed student: 2:4 zeros as zeros, folded weights, `*_quantizer._amax`)
checkpoint.pth       the last state: {"model", "optimizer", "epoch", "card", ...}, for resuming
metrics.jsonl        a line an epoch
samples.npy          uint8 (N, S, S, 3): a few training pictures, for the checks of `export`
log/                 TensorBoard
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

from ..core.errors import FormatError, InputError
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
from .cards import StudentCard

if TYPE_CHECKING:
    import torch

FORMAT = "clipdistill.student"
VERSION = 2
"""Newest version: 2 has a "compression", and its weights need not be a plain timm network's."""

CARD = "student.json"
WEIGHTS = "model.safetensors"
CHECKPOINT = "checkpoint.pth"
METRICS = "metrics.jsonl"
LOG = "log"
SAMPLES = "samples.npy"
SAMPLE_IMAGES = 16
"""Training images kept in it, for the checks of `export`."""


def save_card(folder: Path, card: StudentCard) -> None:
    """Write `student.json` for the `model.safetensors` that already lies in `folder`."""
    # An older program must refuse a compressed student, and can read every other one.
    version = 1 if card.compression is None else VERSION
    head = {"format": FORMAT, "version": version, "weights_sha256": sha256_of(folder / WEIGHTS)}
    write_json(folder / CARD, {**head, **card.to_json()})


def is_student(folder: Path) -> bool:
    """Whether `folder` holds a finished student."""
    return (folder / CARD).is_file()


def load_card(folder: Path) -> StudentCard:
    """Load `student.json` and check that the weights beside it are the ones it describes.

    Raises:
        InputError: no student there, or its training has not finished.
        FormatError: card or weights are damaged or not a pair.
    """
    if not (folder / CARD).is_file():
        if (folder / CHECKPOINT).is_file():
            raise InputError(
                f"{folder}: this student's training has not finished. Run the same `clipdistill "
                f"distill` command again to go on, or use {folder / CHECKPOINT} as it is."
            )
        raise InputError(f"{folder}: no student here. Make one with: clipdistill distill")
    value = read_json(folder / CARD, "the student's card")
    check_format(folder / CARD, value, FORMAT, VERSION)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InputError(f"{weights}: the student's weights are missing.")
    if sha256_of(weights) != value.get("weights_sha256"):
        raise FormatError(
            f"{weights} is not the file that {folder / CARD} describes: damaged or replaced. "
            "Copy the whole folder again, or run `clipdistill distill` again."
        )
    with describing(folder / CARD):
        return StudentCard.from_json(value)


def save_weights(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Write `model.safetensors`."""
    from safetensors.torch import save

    write_bytes(folder / WEIGHTS, save({name: value.contiguous() for name, value in state.items()}))


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Load a state dict from `.safetensors`, or from a `.pth` holding one (also under "model",
    "state_dict" or "model_state_dict"), on the CPU.

    Raises:
        InputError: no such file.
        FormatError: truncated, not weights, or a pickle that would run code.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not path.is_file():
            raise InputError(f"{path}: no such weights file.")
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise FormatError(f"{path}: not a readable safetensors file ({error}).") from error
    value = load_checkpoint(path)
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(value.get(key), dict):
            value = value[key]
            break
    return as_weights(value, path)


def as_weights(value: dict[Any, Any], path: Path) -> dict[str, torch.Tensor]:
    """Check that a dictionary is a state dict.

    DataParallel's "module." is taken off its names, and the masks that apex's ASP keeps beside the
    weights (`__weight_mma_mask`) are left out: the weights have the zeros.
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
        InputError: no such file.
        FormatError: truncated, not a checkpoint, or it asks to run code.
    """
    import torch

    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint.")
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FormatError(
            f"{path}: refused. Expected a checkpoint of tensors and plain values, found one that "
            "is damaged or asks to run code when loaded. Only use checkpoints made by "
            "clipdistill or by the older clip-distillation scripts."
        ) from error
    # Damaged files make torch's reader stumble in all these ways.
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
            f"{path}: not a readable checkpoint, it is truncated or of another kind "
            f"({(str(error).splitlines() or [type(error).__name__])[0]}). Copy it again, or train "
            "again in another folder."
        ) from error
    if not isinstance(value, dict):
        raise FormatError(
            f"{path}: expected a checkpoint dictionary, found {type(value).__name__}."
        )
    return value


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write `metrics.jsonl`, a line an epoch."""
    write_bytes(folder / METRICS, "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_metrics(folder: Path) -> tuple[dict[str, Any], ...]:
    """The lines of `metrics.jsonl`, the oldest first; none where there is no such file.

    Raises:
        FormatError: a line is something else.
    """
    path = folder / METRICS
    if not path.is_file():
        return ()
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            value = json.loads(line)
            rows.append({"epoch": int(value["epoch"]), **value})
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(
                f"{path}, line {number}: expected what an epoch measured ({error!r}). Delete the "
                "file, or copy the student's folder again."
            ) from error
    return tuple(rows)


def save_samples(folder: Path, pixels: NDArray[np.uint8]) -> None:
    """Write `samples.npy`: uint8 (N, S, S, 3)."""
    with atomic_path(folder / SAMPLES) as temporary:
        np.save(temporary, pixels)


def load_samples(folder: Path) -> NDArray[np.uint8] | None:
    """Load `samples.npy`; None where a student has none.

    Raises:
        FormatError: it is damaged.
    """
    path = folder / SAMPLES
    if not path.is_file():
        return None
    try:
        pixels: NDArray[np.uint8] = read_array(path)
    except FormatError as error:
        raise FormatError(f"{error} Delete it: export then draws its own pictures.") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise FormatError(
            f"{path}: expected uint8 (N, S, S, 3), found {pixels.dtype} {pixels.shape}. Delete it."
        )
    return pixels

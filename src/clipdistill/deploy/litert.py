"""A student in torch -> a LiteRT file: converted, in INT8 where the student is, and its classes."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ClipDistillError, MissingExtraError, first_line
from ..core.files import atomic_path
from ..formats.classifier import OnnxCard
from ..formats.litert import append_card, copy_with_card, read_litert_card
from ..formats.text import TextEmbeddings
from ..models.runtimes.litert import LiteRtEmbedder

if TYPE_CHECKING:
    import torch


def write_litert(
    network: torch.nn.Module, card: OnnxCard, pixels: NDArray[np.float32], path: Path
) -> None:
    """Convert a network and write it with its metadata.

    Args:
        network: float32 (N, 3, S, S) -> (N, D) of any length; stays unchanged.
        card: metadata of the file, with its precision.
        pixels: normalised images, float32 (N, 3, S, S), for the ranges of INT8 tensors that have
            no trained quantiser.
        path: .tflite file.

    Raises:
        ClipDistillError: litert-torch cannot convert it.
        MissingExtraError: litert-torch is not installed.
    """
    try:
        with quiet():
            import litert_torch
    except ImportError as error:
        raise MissingExtraError("litert-torch", "litert-convert", "--target litert") from error
    from .litert_int8 import float_network, to_int8

    plain = float_network(network, card)
    path.write_bytes(_convert(litert_torch, plain, card))
    if card.precision == "int8":
        path.write_bytes(to_int8(network, path, card, pixels))
    elif card.precision == "fp16":
        path.write_bytes(_to_half(path))
    append_card(path, card)


def change_litert_classes(source: Path, text: TextEmbeddings, out: Path) -> None:
    """Write a LiteRT file with other classes, and open it once; the network stays the same.

    Args:
        source: .tflite file made by `clipdistill export`, a classifier or a bare embedder.
        text: class vectors, of the same teacher.
        out: .tflite file to write; may be `source`.

    Raises:
        FormatError: `source` is damaged, or was not made by `clipdistill export`.
    """
    card = replace(read_litert_card(source), text=text)
    with atomic_path(out) as temporary:
        copy_with_card(source, card, temporary)
        LiteRtEmbedder(temporary)


def _convert(litert_torch: Any, plain: torch.nn.Module, card: OnnxCard) -> bytes:
    import torch

    from ..models.tracing import UnitLength

    side = card.preprocess.size
    with tempfile.TemporaryDirectory() as folder, quiet():
        made = Path(folder) / "network.tflite"
        try:
            with torch.no_grad():
                example = torch.zeros(1, 3, side, side)
                litert_torch.convert(UnitLength(plain).eval(), (example,)).export(str(made))
        except Exception as error:  # it raises what torch, jax and MLIR raise
            raise ClipDistillError(
                f"litert-torch cannot convert {card.arch} "
                f"({first_line(error) or type(error).__name__}). Choose another architecture; "
                "ResNets, EfficientNets and MobileNets work."
            ) from error
        return made.read_bytes()


def _to_half(path: Path) -> bytes:
    """The file with FP16 weights; runtimes compute in FP16 where the device can."""
    with quiet():
        from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

        maker = quantizer.Quantizer(str(path))
        half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        maker.update_quantization_recipe(
            regex=".*",
            operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
            op_config=qtyping.OpQuantizationConfig(
                weight_tensor_config=half, compute_precision=qtyping.ComputePrecision.FLOAT
            ),
            algorithm_key=algorithm_manager.AlgorithmName.FLOAT_CASTING,
        )
        return bytes(maker.quantize().quantized_model)


def copied(network: torch.nn.Module) -> torch.nn.Module:
    """A copy with contiguous weights.

    litert-torch 0.10 ignores strides: of channels_last weights it makes another network.
    """
    import torch

    return copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what the converter prints and warns of."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

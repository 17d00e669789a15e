"""Compressing a student: 2:4 sparsity, INT8, or both, always in this order.

In memory a compressed student is a timm network with branches merged (where it has some), batch
norms folded (INT8 only), masks applied (2:4) and ModelOpt's quantisers inserted (INT8).  On disk it
is a state dict and a `Compression` in the card, from which `rebuild` builds the same network again;
nothing is pickled.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch

from ...core.errors import MismatchError
from ...core.wording import many, percent
from ...formats.cards import Calibration, Compression
from ..architecture import build_student
from .merging import merge, merge_unchecked
from .quantization import calibrate, insert_quantizers
from .reconstruction import Batches
from .sparsity import Masks, found_sparsity, prune

__all__ = [
    "Compressed",
    "add_int8",
    "add_sparsity",
    "check_int8",
    "describe",
    "float_adds_note",
    "rebuild",
]


@dataclass(frozen=True)
class Compressed:
    """A network and its compression.

    Attributes:
        network: the module.
        compression: sparsity and quantisation that were applied.
        masks: weights that must stay zero in training.
    """

    network: torch.nn.Module
    compression: Compression = field(default_factory=Compression)
    masks: Masks = field(default_factory=dict)


def rebuild(
    arch: str, dim: int, image_size: int, compression: Compression | None
) -> torch.nn.Module:
    """Build an untrained network with a compressed student's structure, for its state dict.

    Args:
        arch: timm's model name.
        dim: dimension of the embedding.
        image_size: side of the input in pixels.
        compression: compression in the student's card.

    Raises:
        InputError: this architecture cannot be quantised.
        MismatchError: this version of timm builds the network differently.
        MissingExtraError: the student is INT8 and ModelOpt is not installed.
    """
    network = build_student(arch, dim, image_size=image_size)
    if compression is not None and compression.merged:
        merge_unchecked(network)
    if compression is None or compression.int8 is None:
        return network
    stored = compression.int8
    found = insert_quantizers(network, image_size, arch)
    for what in ("layers", "residuals", "folded"):
        if getattr(found, what) != getattr(stored, what):
            raise MismatchError(
                f"Student {arch}: its card has {len(getattr(stored, what))} INT8 {what}, but the "
                f"network built here has {len(getattr(found, what))}, or others. It was made with "
                "another version of timm. Install that version."
            )
    return network


def check_int8(arch: str, dim: int, image_size: int) -> None:
    """Check that a student can be INT8, before it is trained.

    Raises:
        InputError: this architecture cannot be quantised.
        MissingExtraError: ModelOpt is not installed.
    """
    network = build_student(arch, dim, image_size=image_size)
    merge(network, image_size)
    insert_quantizers(network, image_size, arch)


def add_sparsity(
    compressed: Compressed, image_size: int, batches: Batches | None = None
) -> Compressed:
    """Prune a network to 2:4, in place.

    Branches are merged before, where merging them afterwards would fill the zeros.

    Args:
        compressed: network in floating point.
        image_size: side of its input in pixels.
        batches: see `sparsity.prune`.
    """
    network = compressed.network
    pruned = copy.deepcopy(network)
    prune(pruned, image_size)
    fills = merge(pruned, image_size) and found_sparsity(pruned, image_size) is None
    merged = (fills and merge(network, image_size)) or compressed.compression.merged
    facts, masks = prune(network, image_size, batches)
    compression = replace(compressed.compression, sparse=facts, merged=merged)
    return replace(compressed, compression=compression, masks=masks)


def add_int8(
    compressed: Compressed,
    image_size: int,
    arch: str,
    batches: Iterable[torch.Tensor],
    images: int,
    method: Calibration,
) -> Compressed:
    """Merge, fold, quantise and calibrate a network, in place.

    The branches of a 2:4 network stay as they are: see `add_sparsity`.

    Args:
        compressed: network in floating point, dense or 2:4.
        image_size: side of its input in pixels.
        arch: timm's model name.
        batches: images for INT8 calibration, float32 (N, 3, S, S) each.
        images: number of images in `batches`.
        method: method of INT8 calibration.
    """
    network, before = compressed.network, compressed.compression
    merged = before.merged or (before.sparse is None and merge(network, image_size))
    facts = insert_quantizers(network, image_size, arch)
    calibrate(network, batches, method)
    facts = replace(facts, method=method, calibration_images=images)
    return replace(compressed, compression=replace(before, int8=facts, merged=merged))


def describe(compression: Compression | None) -> str:
    """Describe a compression in a few words: "2:4 sparse ..., INT8 ..." or "dense FP32"."""
    if compression is None or (compression.sparse is None and compression.int8 is None):
        return "dense FP32"
    parts = []
    if compression.sparse is not None:
        share = compression.sparse.macs_share
        parts.append(f"2:4 sparse in layers with {percent(share, 0)} of the MACs")
    if compression.int8 is not None:
        int8 = compression.int8
        parts.append(
            f"INT8 ({many(len(int8.layers), 'layer')}, {many(len(int8.residuals), 'residual add')})"
        )
    return ", ".join(parts)


def float_adds_note(compression: Compression) -> list[str]:
    """Say how many residual adds stay in floating point and what that costs; empty when none."""
    int8 = compression.int8
    if int8 is None or not int8.float_adds:
        return []
    return [
        f"Residual adds that stay in floating point: {int8.float_adds}. TensorRT and OpenVINO read "
        "and write floats around each of them and so gain less from INT8; in a file for ONNX "
        "Runtime such an add is INT8 where both of its inputs are."
    ]

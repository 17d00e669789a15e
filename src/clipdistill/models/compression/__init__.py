"""Compressing a student: 2:4 sparsity, INT8, or both, always in this order.

In memory a compressed student is a timm network on which batch norms were folded (INT8 only), masks
applied (2:4) and ModelOpt's quantisers put in (INT8).  On disk it is its state dict and a
`Compression` in the card, from which `rebuild` makes the same network again; nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch

from ...core.errors import MismatchError
from ...core.wording import percent
from ...formats.cards import Calibration, Compression
from ..architecture import build_student
from .quantization import calibrate, insert_quantizers
from .sparsity import Masks, prune

__all__ = ["Compressed", "add_int8", "add_sparsity", "describe", "rebuild"]


@dataclass(frozen=True)
class Compressed:
    """A network and what was done to it.

    Attributes:
        network: the module.
        compression: what was done.
        masks: what has to stay zero while it is trained.
    """

    network: torch.nn.Module
    compression: Compression = field(default_factory=Compression)
    masks: Masks = field(default_factory=dict)


def rebuild(
    arch: str, dim: int, image_size: int, compression: Compression | None, *, check: bool = True
) -> torch.nn.Module:
    """Build an untrained network of a compressed student's structure, ready for its state dict.

    Args:
        arch: timm's model name.
        dim: length of the embedding.
        image_size: side of the input.
        compression: of its card.
        check: compare what is found with the card.

    Raises:
        InputError: this network cannot be INT8.
        MismatchError: this timm builds the network differently.
        MissingExtraError: an INT8 student, and ModelOpt is not installed.
    """
    network = build_student(arch, dim, image_size=image_size)
    if compression is None or compression.int8 is None:
        return network
    stored = compression.int8
    found = insert_quantizers(network, image_size, arch)
    for what in ("layers", "residuals", "folded") if check else ():
        if getattr(found, what) != getattr(stored, what):
            raise MismatchError(
                f"Student {arch}: its card names {len(getattr(stored, what))} {what} of its INT8 "
                f"form, here there are {len(getattr(found, what))}, or others. It was made with "
                "another version of timm; use that one."
            )
    return network


def add_sparsity(compressed: Compressed, image_size: int) -> Compressed:
    """Prune a network to 2:4 (in place)."""
    facts, masks = prune(compressed.network, image_size)
    return replace(
        compressed, compression=replace(compressed.compression, sparse=facts), masks=masks
    )


def add_int8(
    compressed: Compressed,
    image_size: int,
    arch: str,
    batches: Iterable[torch.Tensor],
    images: int,
    method: Calibration,
) -> Compressed:
    """Fold, quantise and calibrate a network (in place).

    Args:
        compressed: in floating point; 2:4 or not.
        image_size: side of its input.
        arch: timm's name.
        batches: pictures to calibrate on, float32 (N, 3, S, S) each.
        images: how many these are.
        method: of calibration.
    """
    facts = insert_quantizers(compressed.network, image_size, arch)
    calibrate(compressed.network, batches, method)
    facts = replace(facts, method=method, calibration_images=images)
    return replace(compressed, compression=replace(compressed.compression, int8=facts))


def describe(compression: Compression | None) -> str:
    """Say in a few words what was done: "2:4 sparse, INT8"; "dense FP32" where nothing was."""
    if compression is None or (compression.sparse is None and compression.int8 is None):
        return "dense FP32"
    parts = []
    if compression.sparse is not None:
        share = compression.sparse.macs_share
        parts.append(f"2:4 sparse in layers with {percent(share, 0)} of the MACs")
    if compression.int8 is not None:
        int8 = compression.int8
        parts.append(f"INT8 ({len(int8.layers)} layers, {len(int8.residuals)} residual adds)")
    return ", ".join(parts)

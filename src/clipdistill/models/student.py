"""The student: a timm network whose classifier is the projection into the teacher's space.

The module is exactly `timm.create_model(arch, num_classes=dim)`.  Its weights are plain timm
weights, and the older scripts' checkpoints fit it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

from ..core.errors import FormatError, InputError, MismatchError
from ..core.files import describing
from ..formats.cards import Compression, StudentCard
from ..formats.student import WEIGHTS, as_weights, load_card, load_checkpoint, load_weights
from ..images.preprocess import Preprocess
from .architecture import build_student, check_arch, check_size, default_preprocess
from .compression import describe, rebuild
from .compression.sparsity import found_sparsity
from .embedder import EmbedderSpec
from .torch_embedder import Precision, TorchEmbedder, resolve_device

__all__ = [
    "build_student",
    "check_arch",
    "check_flags",
    "check_size",
    "default_preprocess",
    "load_backbone_weights",
    "load_state",
    "load_student",
]


def load_backbone_weights(network: torch.nn.Module, path: Path) -> int:
    """Load pretrained weights from a file; tensors of another shape (the projection) stay as is.

    Returns:
        How many tensors were loaded.

    Raises:
        InputError: no such file.
        FormatError: the file does not contain weights.
        MismatchError: fewer than half of the network's tensors fit.
    """
    state = load_weights(path)
    own = network.state_dict()
    fitting = {
        name: value
        for name, value in state.items()
        if name in own and own[name].shape == value.shape
    }
    if 2 * len(fitting) < len(own):
        raise MismatchError(
            f"{path}: only {len(fitting)} of the network's {len(own)} tensors are in it with the "
            "right shape, so these are weights of another architecture. Give other "
            "--student-weights."
        )
    network.load_state_dict(fitting, strict=False)
    return len(fitting)


def load_state(network: torch.nn.Module, state: dict[str, torch.Tensor], source: Path) -> None:
    """Load a complete state dict.

    Raises:
        MismatchError: names or shapes differ; the message names the first difference.
    """
    own = network.state_dict()
    for name in own:
        if name not in state:
            raise MismatchError(
                f"{source}: it has no weights for {name!r}. It is a checkpoint of another "
                "architecture than its card or --arch names."
            )
        if own[name].shape != state[name].shape:
            raise MismatchError(
                f"{source}: {name!r} is {tuple(state[name].shape)}, expected "
                f"{tuple(own[name].shape)}. Check the architecture, the output dimension and the "
                "image size."
            )
    unknown = sorted(set(state) - set(own))
    if unknown:
        raise MismatchError(
            f"{source}: {len(unknown)} tensors are not part of the network ({unknown[0]!r} ...). "
            "It is a checkpoint of another architecture than its card or --arch names."
        )
    network.load_state_dict(state)


def load_student(
    path: Path,
    *,
    arch: str | None = None,
    image_size: int | None = None,
    device: str = "auto",
    precision: Precision = "auto",
) -> tuple[StudentCard, TorchEmbedder]:
    """Load a student folder or a checkpoint as an Embedder.

    Args:
        path: a folder with `student.json`, or a `checkpoint.pth` (ours, or the older scripts').
        arch: timm's model name; only for the older scripts' checkpoints, which do not record it.
        image_size: side of the input in pixels; only for the older scripts' checkpoints.
        device: device to run it on.
        precision: precision of the forward pass.

    Raises:
        InputError: the student is missing or unfinished, or an older checkpoint lacks `arch`.
        FormatError: a file is damaged.
        MismatchError: the weights do not fit the architecture.
    """
    if path.is_dir():
        card = load_card(path)
        state = load_weights(path / WEIGHTS)
        source = path / WEIGHTS
    else:
        checkpoint = load_checkpoint(path)
        state = _model_state(checkpoint, path)
        card = _checkpoint_card(checkpoint, state, path, arch, image_size)
        source = path
    network = rebuild(card.arch, card.dim, card.preprocess.size, card.compression)
    load_state(network, state, source)
    if card.compression is not None and card.compression.int8 is not None and precision == "auto":
        precision = "fp32"  # a second rounding would change the quantised values
    spec = EmbedderSpec(
        str(path),
        "torch",
        "student",
        card.teacher,
        card.dim,
        card.preprocess,
        sum(value.numel() * value.element_size() for value in state.values()),
    )
    return card, TorchEmbedder(spec, network, resolve_device(device), precision)


def _model_state(checkpoint: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.get("model")
    if not isinstance(state, dict):
        raise FormatError(
            f"{path}: expected a checkpoint with the weights under 'model' (as `distill` and the "
            f"older scripts write them), found the keys {sorted(map(str, checkpoint))[:5]}."
        )
    return as_weights(state, path)


def _checkpoint_card(
    checkpoint: dict[str, Any],
    state: dict[str, torch.Tensor],
    path: Path,
    arch: str | None,
    image_size: int | None,
) -> StudentCard:
    if "card" in checkpoint:
        with describing(path):
            return StudentCard.from_json(checkpoint["card"])
    if arch is None:
        raise InputError(
            f"{path}: this checkpoint does not record its architecture. "
            "Add --arch, for example: --arch resnet18"
        )
    if any(name.endswith("_quantizer._amax") for name in state):
        raise InputError(
            f"{path}: these weights are quantised, but the checkpoint does not record how, so they "
            "cannot be used. Train again with --use_qat (or `clipdistill distill --qat`) from the "
            "checkpoint in floating point."
        )
    check_arch(arch)
    # As the older predict script: torchvision's Resize (bilinear), CenterCrop, ImageNet's mean.
    preprocess = Preprocess(image_size or 224, interpolation="bilinear")
    dim = _output_dim(arch, state, path)
    card = StudentCard(arch, dim, preprocess, teacher=None)
    network = build_student(arch, dim, image_size=preprocess.size)
    load_state(network, state, path)
    sparse = found_sparsity(network, preprocess.size)
    return card if sparse is None else replace(card, compression=Compression(sparse=sparse))


def check_flags(
    path: Path, *, use_asp: bool, use_qat: bool, arch: str, image_size: int | None = None
) -> None:
    """Check that the older commands' flags describe the student or checkpoint.

    Args:
        path: student folder or checkpoint, as for `load_student`.
        use_asp: whether --use_asp (2:4 sparse) was given.
        use_qat: whether --use_qat (INT8) was given.
        arch: timm's model name, as for `load_student`.
        image_size: side of the input in pixels, as for `load_student`.

    Raises:
        MismatchError: flags and weights disagree; the message names both.
    """
    if path.is_dir():
        card = load_card(path)
    else:
        checkpoint = load_checkpoint(path)
        card = _checkpoint_card(checkpoint, _model_state(checkpoint, path), path, arch, image_size)
    done = card.compression or Compression()
    for flag, given, what, found in (
        ("--use_asp", use_asp, "2:4 sparse", done.sparse is not None),
        ("--use_qat", use_qat, "INT8", done.int8 is not None),
    ):
        if given and not found:
            raise MismatchError(
                f"{flag}: expected {path} to be {what}, but it is {describe(card.compression)}. "
                f"Remove {flag}, or give the checkpoint that was trained with it."
            )
        if found and not given:
            raise MismatchError(
                f"{path} is {describe(card.compression)}, but {flag} was not given. Add {flag}, or "
                "give another checkpoint."
            )


def _output_dim(arch: str, state: dict[str, torch.Tensor], path: Path) -> int:
    """Read the embedding dimension from the shape of the classifier's weight."""
    config = timm.get_pretrained_cfg(arch, allow_unregistered=True)
    classifier = config.classifier if config is not None else None
    names = [classifier] if isinstance(classifier, str) else list(classifier or ())
    for name in names:
        weight = state.get(f"{name}.weight")
        if weight is not None:
            return int(weight.shape[0])
    raise MismatchError(
        f"{path}: it has no weights for {arch}'s classifier ({names}). It is a checkpoint of "
        "another architecture; give the right one with --arch."
    )

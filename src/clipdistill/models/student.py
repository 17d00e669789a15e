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

from ..core.errors import FormatError, InputError, MismatchError, OptionError
from ..core.files import describing
from ..core.progress import message
from ..core.wording import many
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
    "check_description",
    "check_flags",
    "check_size",
    "default_preprocess",
    "load_backbone_weights",
    "load_state",
    "load_student",
]

OLDER_SIZE = 224
"""Side of the input in pixels of the older scripts' students, unless they were given another."""


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
            f"{source}: its network has no place for {many(len(unknown), 'tensor')}, such as "
            f"{unknown[0]!r}. "
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
        if "card" not in checkpoint and image_size is None:
            message(
                f"{path} does not record its image size: {OLDER_SIZE} px is used. --image-size "
                "gives another."
            )
    network = rebuild(card.arch, card.dim, card.preprocess.size, card.compression)
    load_state(network, state, source)
    if card.compression is not None and card.compression.int8 is not None and precision == "auto":
        precision = "fp32"  # a second rounding would change the quantised values
    spec = EmbedderSpec(
        name=str(path),
        runtime="torch",
        role="student",
        teacher=card.teacher,
        dim=card.dim,
        preprocess=card.preprocess,
        size_bytes=sum(value.numel() * value.element_size() for value in state.values()),
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
        raise OptionError(
            f"{path}: this checkpoint does not record its architecture. "
            "Add --arch, for example: --arch resnet18"
        )
    if any(name.endswith("_quantizer._amax") for name in state):
        raise InputError(
            f"{path}: these weights are quantised, but the checkpoint does not record how, so they "
            "cannot be used. Make it again from the checkpoint in floating point: "
            "clipdistill distill ... --init-checkpoint CHECKPOINT --qat"
        )
    check_arch(arch)
    # As the older predict script: torchvision's Resize (bilinear), CenterCrop, ImageNet's mean.
    preprocess = Preprocess(image_size or OLDER_SIZE, interpolation="bilinear")
    dim = _output_dim(arch, state, path)
    card = StudentCard(arch, dim, preprocess, teacher=None)
    network = build_student(arch, dim, image_size=preprocess.size)
    load_state(network, state, path)
    sparse = found_sparsity(network, preprocess.size)
    return card if sparse is None else replace(card, compression=Compression(sparse=sparse))


def check_description(
    card: StudentCard,
    path: Path,
    *,
    arch: str | None = None,
    image_size: int | None = None,
    output_dim: int | None = None,
) -> None:
    """Check that what was given of a student is true.

    Args:
        card: of the student.
        path: its folder or checkpoint, for messages.
        arch: timm's name; None: not given.
        image_size: side of the input in pixels; None: not given.
        output_dim: length of its embeddings; None: not given.

    Raises:
        MismatchError: the card records another value.
    """
    size, dim = card.preprocess.size, card.dim
    wrong = ""
    if arch not in (None, card.arch):
        wrong = f"{path} is a {card.arch}, not a {arch}. Leave --arch away"
    elif image_size not in (None, size):
        wrong = f"{path} takes images of {size} px, not of {image_size} px. Leave --image-size away"
    elif output_dim not in (None, dim):
        wrong = f"{path} gives {dim}-d embeddings, not {output_dim}-d. Leave --output-dim away"
    if wrong:
        raise MismatchError(f"{wrong}, or give another checkpoint.")


def check_flags(
    path: Path,
    *,
    use_asp: bool,
    use_qat: bool,
    arch: str,
    image_size: int | None = None,
    output_dim: int | None = None,
) -> None:
    """Check that the older commands' options describe a student or checkpoint as it is.

    Args:
        path: as in `load_student`.
        use_asp: whether it should be 2:4 sparse.
        use_qat: whether it should be INT8.
        arch: timm's name.
        image_size: side of the input in pixels; None: not given.
        output_dim: length of its embeddings; None: not given.

    Raises:
        MismatchError: flags and weights disagree; the message names both.
    """
    if path.is_dir():
        card = load_card(path)
    else:
        checkpoint = load_checkpoint(path)
        card = _checkpoint_card(checkpoint, _model_state(checkpoint, path), path, arch, image_size)
    check_description(card, path, arch=arch, image_size=image_size, output_dim=output_dim)
    done = card.compression or Compression()
    given = {"--use_asp": use_asp, "--use_qat": use_qat}
    true = {"--use_asp": done.sparse is not None, "--use_qat": done.int8 is not None}
    if given != true:
        # All at once: whoever follows this advice is not refused again.
        missing = [flag for flag in true if true[flag] and not given[flag]]
        wrong = [flag for flag in true if given[flag] and not true[flag]]
        advice = [f"add {flag}" for flag in missing] + [f"leave {flag} away" for flag in wrong]
        raise MismatchError(
            f"{path} is {describe(done)}: {' and '.join(advice)}, or give another checkpoint."
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

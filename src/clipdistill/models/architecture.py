"""Building timm networks as students: names, sizes, preprocessing."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Sequence
from typing import Any

import timm
import torch
from safetensors import SafetensorError

from ..core.errors import InputError, ModelNotFoundError, did_you_mean, first_line
from ..images.preprocess import Preprocess
from .hub import hub_access, hub_reason, with_hub


def check_arch(arch: str) -> None:
    """Check a timm model name, with or without the tag of pretrained weights.

    Raises:
        ModelNotFoundError: timm has no such model, or the model no such tag; the message names the
            nearest ones.
    """
    name, dot, tag = arch.partition(".")
    if arch.startswith("hf-hub:") or (timm.is_model(name) and not dot):
        return
    if not timm.is_model(name):
        raise ModelNotFoundError(
            f"Unknown student {arch!r}.{did_you_mean(name, timm.list_models())} "
            f"timm has {len(timm.list_models())} models; timm.list_models() lists them."
        )
    known = timm.list_models(name, include_tags=True)
    if arch not in known:
        tags = [one.partition(".")[2] for one in known if "." in one]
        there = f"has the tags {', '.join(tags)}" if tags else "has no tags"
        raise ModelNotFoundError(
            f"Unknown weights {tag!r} of the student {name}.{did_you_mean(tag, tags)} {name} "
            f"{there}; without a tag ({name}) it is the default."
        )


def build_student(
    arch: str,
    dim: int,
    *,
    image_size: int | None = None,
    pretrained: bool = False,
    ask_hub: bool = False,
) -> torch.nn.Module:
    """Build the network: float32 (N, 3, S, S) -> (N, dim).

    Args:
        arch: timm's model name.
        dim: dimension of the embedding.
        image_size: side of the input in pixels, for networks that depend on it (ViT, Swin ...).
        pretrained: start from timm's ImageNet weights (needs the hub or its cache).
        ask_hub: fetch the description of an "hf-hub:ORG/REPO" network. Only for a name that the
            user typed; a name in an untrusted card is looked up in the hub's local cache alone.

    Raises:
        ModelNotFoundError: unknown name, or the weights cannot be fetched.
        InputError: the network cannot be built for this image size.
    """
    check_arch(arch)
    extra: dict[str, Any] = {}
    if image_size is not None and _wants_size(arch):
        extra["img_size"] = image_size

    def create() -> torch.nn.Module:
        network: torch.nn.Module = timm.create_model(
            arch, pretrained=pretrained, num_classes=dim, **extra
        )
        return network

    try:
        if pretrained or ask_hub:
            return with_hub(create)
        with hub_access(allowed=False):
            return create()
    except (
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        AssertionError,
        ImportError,
        LookupError,
        AttributeError,
        SafetensorError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        first = first_line(error)
        if pretrained:
            raise ModelNotFoundError(
                f"Student {arch}: its pretrained weights could not be fetched "
                f"({hub_reason(error)}). Tried the model hub and the local hub cache. Without a "
                "network, copy the weights here and give --student-weights FILE (.safetensors or "
                ".pth). Without pretrained weights (--no-pretrained) the student starts from "
                "random ones, which costs accuracy."
            ) from error
        if arch.startswith("hf-hub:"):
            where = "the model hub and its local cache" if ask_hub else "the hub's local cache"
            raise ModelNotFoundError(
                f"Student {arch}: its description was not found in {where} ({first}). Fetch it "
                f"once, with a network: python -c \"import timm; timm.create_model('{arch}')\""
            ) from error
        raise InputError(f"Student {arch} cannot be built at {image_size} px: {first}") from error


def check_size(network: torch.nn.Module, arch: str, image_size: int) -> None:
    """Run two black images: some networks can be built for a size that they cannot run at.

    Raises:
        InputError: the forward pass fails.
    """
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(2, 3, image_size, image_size))
    except (RuntimeError, AssertionError, ValueError, TypeError, LookupError) as error:
        own = default_preprocess(arch, None, None).size
        raise InputError(
            f"Student {arch} cannot take images of {image_size} px ({first_line(error)}). "
            f"Choose another --image-size (its own is {own}), or another student."
        ) from error


def _wants_size(arch: str) -> bool:
    """Whether the model's builder takes `img_size` (for its positional embedding)."""
    config = timm.get_pretrained_cfg(arch, allow_unregistered=True)
    return bool(config is not None and config.fixed_input_size)


def default_preprocess(arch: str, image_size: int | None, teacher: Preprocess | None) -> Preprocess:
    """Choose the preprocessing of a new student.

    Resizing and cropping are the teacher's, so that both get the same part of an image.  Mean and
    std are those of timm's weights.  The size is the model's own unless given.
    """
    config = timm.get_pretrained_cfg(arch, allow_unregistered=True)
    own = config.input_size[-1] if config is not None and config.input_size else 224
    mean = config.mean if config is not None else None
    std = config.std if config is not None else None
    base = teacher or Preprocess(own, interpolation="bilinear")
    return Preprocess(
        size=image_size or own,
        mean=_rgb(mean) if mean else base.mean,
        std=_rgb(std) if std else base.std,
        interpolation=base.interpolation,
        resize_mode=base.resize_mode,
        fill_color=base.fill_color,
    )


def _rgb(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue

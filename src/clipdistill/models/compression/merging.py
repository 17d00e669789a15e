"""Networks whose layers can be merged into fewer or plainer ones that compute the same.

MobileOne, RepVGG, FastViT, RepGhost, RepViT and others train with parallel branches, which timm can
merge into one convolution each.  NFNets and BiT ResNets train with standardised weights, which are
computed from the parameters in every forward pass.  Both are for training alone: a device runs the
merged network, several times as fast, and INT8 and 2:4 weights are those of the merged layers.
"""

from __future__ import annotations

import copy

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.std_conv import (
    ScaledStdConv2d,
    ScaledStdConv2dSame,
    StdConv2d,
    StdConv2dSame,
)
from timm.models import reparameterize_model

from .structure import run_once

STANDARDISED = (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)
"""timm's convolutions that compute their weight in the forward pass."""
MERGING = ("fuse", "reparameterize", "switch_to_deploy")
"""Methods by which timm's modules are merged."""
LARGEST_CHANGE = 1e-3
"""Largest allowed change of the output, relative to its length; rounding changes 1e-6."""


def can_merge(network: torch.nn.Module) -> bool:
    """Whether a network has parts that `merge` changes; a merged one may still have such parts."""
    return any(
        type(module) in STANDARDISED or any(hasattr(module, name) for name in MERGING)
        for module in network.modules()
    )


def merge(network: torch.nn.Module, image_size: int) -> bool:
    """Merge the branches of a network and compute its standardised weights, in place.

    The network stays as it is where nothing can be merged, and where timm's merging would change
    the output.

    Args:
        network: trained or untrained; its batch norms' statistics become weights.
        image_size: side of its input in pixels.

    Returns:
        Whether it was merged: its parameters then have other names or values.
    """
    if not can_merge(network):
        return False
    trial = copy.deepcopy(network)
    try:
        changed = merge_unchecked(trial)
    except (RuntimeError, AttributeError, TypeError, ValueError, LookupError, AssertionError):
        return False  # a block that timm can build but not merge
    if not changed:
        return False
    before, after = run_once(network, image_size), run_once(trial, image_size)
    if not (after - before).norm() <= LARGEST_CHANGE * before.norm() + 1e-6:
        return False
    merge_unchecked(network)
    return True


def merge_unchecked(network: torch.nn.Module) -> bool:
    """Merge a network whose merging was checked before; returns whether anything changed."""
    names, example = list(network.state_dict()), next(network.parameters())
    reparameterize_model(network, inplace=True)
    standardised = [module for module in network.modules() if type(module) in STANDARDISED]
    for module in standardised:
        _store_standardised(module)
    network.to(example.device)  # some of timm's merged layers are made on the CPU
    network.train(network.training)  # new layers are made in training mode
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return bool(standardised) or list(network.state_dict()) != names


@torch.no_grad()
def _store_standardised(layer: torch.nn.Module) -> None:
    """Turn a convolution with standardised weights into one that stores them."""
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    gain = getattr(layer, "gain", None)
    plain = torch.nn.functional.batch_norm(
        weight.reshape(1, len(weight), -1),
        None,
        None,
        weight=None if gain is None else (gain * layer.scale).view(-1),
        training=True,
        momentum=0.0,
        eps=layer.eps,  # type: ignore[arg-type]
    )
    same = getattr(layer, "same_pad", False)
    layer.__class__ = Conv2dSame if same else torch.nn.Conv2d
    layer.weight = torch.nn.Parameter(plain.reshape_as(weight))
    if gain is not None:
        del layer.gain

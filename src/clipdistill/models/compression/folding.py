"""Folding batch norms into the layers before them.

Folding comes before the quantisers are inserted, because the weights to quantise are those that the
device multiplies with.
"""

from __future__ import annotations

import copy

import torch
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ...core.errors import ClipDistillError
from ...core.wording import percent
from .structure import read_structure, run_once

LARGEST_CHANGE = 1e-5
"""Largest allowed change of the output, relative to its length, in float64, where folding is exact
(1e-14 in resnet18, measured 2026-11).  In float32 some networks amplify rounding to a tenth."""


def fold(network: torch.nn.Module, image_size: int) -> tuple[str, ...]:
    """Fold every batch norm that alone uses the output of a convolution or linear layer.

    The layers keep their names and get a bias.  Each norm is replaced by its activation, if any.

    Args:
        network: changed in place; its batch norms' statistics become weights.
        image_size: side of its input in pixels.

    Returns:
        The names of the folded norms.

    Raises:
        ClipDistillError: the folded network gives other embeddings.
    """
    pairs = read_structure(network, image_size).folds
    exact = copy.deepcopy(network).double()
    before = run_once(exact, image_size)
    for layer, norm in pairs:
        _fold_pair(exact, layer, norm)
        _fold_pair(network, layer, norm)
    after = run_once(exact, image_size)
    change, length = float((after - before).norm()), float(before.norm())
    if change > LARGEST_CHANGE * length + 1e-6:
        raise ClipDistillError(
            "Folding the batch norms into the layers before them changed the network's output by "
            f"{percent(change / length)}. It uses a layer's output in a way that clipdistill "
            "does not support, so it cannot be quantised. Choose another student."
        )
    return tuple(norm for _, norm in pairs)


@torch.no_grad()
def _fold_pair(network: torch.nn.Module, layer_name: str, norm_name: str) -> None:
    layer, norm = network.get_submodule(layer_name), network.get_submodule(norm_name)
    assert isinstance(norm, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    bias = layer.bias
    weight, shift = fuse_conv_bn_weights(
        layer.get_parameter("weight").double(),
        bias.double() if isinstance(bias, torch.Tensor) else None,
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        None if norm.weight is None else norm.weight.double(),
        None if norm.bias is None else norm.bias.double(),
    )
    dtype = layer.get_parameter("weight").dtype
    layer.weight = torch.nn.Parameter(weight.to(dtype))
    layer.bias = torch.nn.Parameter(shift.to(dtype))
    network.set_submodule(norm_name, _remainder(norm))


def _remainder(norm: torch.nn.Module) -> torch.nn.Module:
    """Keep the other parts of a norm: timm's `BatchNormAct2d` has dropout and an activation."""
    rest = []
    for name in ("drop", "act"):
        part = getattr(norm, name, None)
        if isinstance(part, torch.nn.Module) and not isinstance(part, torch.nn.Identity):
            rest.append(part)
    if not rest:
        return torch.nn.Identity()
    return rest[0] if len(rest) == 1 else torch.nn.Sequential(*rest)

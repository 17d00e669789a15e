"""2:4 sparsity: of any four consecutive input channels two weights are zero.

That is the pattern of NVIDIA's sparse tensor cores, along the input channels of a layer at every
position of its kernel, as NVIDIA's ASP and ModelOpt's `sparse_magnitude` have it (a test compares
the masks).  ModelOpt's own sparsifier is not used: its modules hide the mask behind `weight`, so a
state dict stays dense, loading needs ModelOpt's own pickled state, and pruned weights keep pulling
at the gradient's norm.  Here a sparse student is a plain timm network with zeros in it, which needs
no further package.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...core.two_four import GROUP, KEPT, is_two_four, obstacle
from ...formats.cards import Sparsity
from .structure import Layer, read_structure

Masks = dict[str, torch.Tensor]
"""Parameter name -> bool of its shape, False where it is held at zero."""


def mask_of(weight: torch.Tensor) -> torch.Tensor:
    """Which weights stay: the two largest of any four consecutive input channels.

    Args:
        weight: (out, in) or (out, in, H, W) with `in` a multiple of four; equal values: the first
            channels stay.

    Returns:
        bool of the same shape, contiguous.
    """
    last = weight.detach().abs().movedim(1, -1)
    groups = last.reshape(-1, GROUP)
    order = groups.argsort(dim=1, descending=True, stable=True)[:, :KEPT]
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order, True)
    return kept.reshape(last.shape).movedim(-1, 1).contiguous()


def is_sparse(weight: torch.Tensor) -> bool:
    """Whether stored weights are 2:4: (out, in) or (out, in, H, W)."""
    return is_two_four(weight.detach().cpu().numpy(), 1)


def why_dense(layer: Layer) -> str:
    """Why a layer is not pruned; empty when it is."""
    module, weight = layer.module, layer.weight
    if layer.head:
        return "the embedding head"
    groups = module.groups if isinstance(module, torch.nn.Conv2d) else 1
    return obstacle(weight.shape[1], weight.shape[0], groups)


def prune(network: torch.nn.Module, image_size: int) -> tuple[Sparsity, Masks]:
    """Set half of the weights of every layer that hardware can use to zero, the smallest ones.

    Args:
        network: a dense network, or one that is 2:4 already, which stays as it is.
        image_size: side of its input.
    """
    facts, chosen = _plan(network, image_size)
    masks = {f"{layer.name}.weight": mask_of(layer.weight) for layer in chosen}
    hold(network, masks)
    return facts, masks


def _plan(network: torch.nn.Module, image_size: int) -> tuple[Sparsity, list[Layer]]:
    """Which layers are pruned, and which are not and why."""
    layers = read_structure(network, image_size).layers
    reasons = {layer.name: why_dense(layer) for layer in layers}
    chosen = [layer for layer in layers if not reasons[layer.name]]
    everything = sum(parameter.numel() for parameter in network.parameters())
    facts = Sparsity(
        method="magnitude",
        layers=tuple(layer.name for layer in chosen),
        skipped=tuple((name, reason) for name, reason in reasons.items() if reason),
        weights_share=_share([layer.weight.numel() for layer in chosen], everything),
        macs_share=_share([layer.macs for layer in chosen], sum(layer.macs for layer in layers)),
    )
    return facts, chosen


def found_sparsity(network: torch.nn.Module, image_size: int) -> Sparsity | None:
    """What a network with finished weights tells: its sparsity if `prune` would find it done.

    Args:
        network: in floating point.
        image_size: side of its input.
    """
    facts, _ = _plan(network, image_size)
    weights = [network.get_submodule(name).get_parameter("weight") for name in facts.layers]
    done = bool(weights) and all(is_sparse(weight) for weight in weights)
    return facts if done and any(bool(weight.any()) for weight in weights) else None


def masks_of(network: torch.nn.Module, facts: Sparsity) -> Masks:
    """The masks of a network that was pruned before: where its weights are zero."""
    return {
        f"{name}.weight": network.get_submodule(name).get_parameter("weight").detach() != 0
        for name in facts.layers
    }


@torch.no_grad()
def hold(network: torch.nn.Module, masks: Masks) -> None:
    """Set what is masked to zero (again)."""
    for name, mask in masks.items():
        network.get_parameter(name).mul_(mask)


@torch.no_grad()
def hold_gradients(network: torch.nn.Module, masks: Masks) -> None:
    """Take masked weights out of the gradient: they must not count in its norm, nor in momentum."""
    for name, mask in masks.items():
        gradient = network.get_parameter(name).grad
        if gradient is not None:
            gradient.mul_(mask)


def _share(parts: Sequence[int], whole: int) -> float:
    return sum(parts) / max(1, whole)

"""2:4 sparsity: two of any four consecutive input channels have zero weights.

This is the pattern of NVIDIA's sparse tensor cores, along the input channels of a layer at every
position of its kernel, as in NVIDIA's ASP and ModelOpt's `sparse_magnitude` (a test compares the
masks).  ModelOpt's own sparsifier is not used: it hides the mask behind `weight`, so a state dict
stays dense, loading needs ModelOpt's pickled state, and pruned weights still count in the
gradient's norm.  Here a sparse student is a plain timm network with zeros and needs no further
package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ...core.two_four import GROUP, KEPT, is_two_four, obstacle
from ...formats.cards import Sparsity
from .reconstruction import Batches, prune_and_compensate
from .structure import Layer, read_structure

Masks = dict[str, torch.Tensor]
"""Parameter name -> bool of its shape, False where the weight is held at zero."""


def mask_of(weight: torch.Tensor) -> torch.Tensor:
    """Choose the weights to keep: the two largest of any four consecutive input channels.

    Args:
        weight: (out, in) or (out, in, H, W) with `in` a multiple of four. Of equal values the first
            channels are kept.

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
    """Give the reason why a layer is not pruned; empty when it is."""
    module, weight = layer.module, layer.weight
    if layer.head:
        return "the embedding head"
    groups = module.groups if isinstance(module, torch.nn.Conv2d) else 1
    return obstacle(weight.shape[1], weight.shape[0], groups)


def prune(
    network: torch.nn.Module, image_size: int, batches: Batches | None = None
) -> tuple[Sparsity, Masks]:
    """Set half of the weights to zero in every layer that sparse kernels support.

    Args:
        network: a dense network, changed in place; a 2:4 network stays as it is.
        image_size: side of its input in pixels.
        batches: images on which the weights that stay take over what the others did (see
            `reconstruction`). None: the smaller half goes, and nothing else changes.
    """
    facts, chosen = _plan(network, image_size)
    kept = {} if batches is None else prune_and_compensate(network, chosen, batches)
    masks = {
        f"{layer.name}.weight": kept[layer.name] if layer.name in kept else mask_of(layer.weight)
        for layer in chosen
    }
    hold(network, masks)
    method = "magnitude" if batches is None else "compensated"
    return replace(facts, method=method), {
        name: mask.to(network.get_parameter(name).device) for name, mask in masks.items()
    }


def _plan(network: torch.nn.Module, image_size: int) -> tuple[Sparsity, list[Layer]]:
    """Choose the layers to prune, and record why the others are not."""
    layers = read_structure(network, image_size).layers
    reasons = {layer.name: why_dense(layer) for layer in layers}
    chosen = [layer for layer in layers if not reasons[layer.name]]
    everything = sum(parameter.numel() for parameter in network.parameters())
    facts = Sparsity(
        method="found",
        layers=tuple(layer.name for layer in chosen),
        skipped=tuple((name, reason) for name, reason in reasons.items() if reason),
        weights_share=_share([layer.weight.numel() for layer in chosen], everything),
        macs_share=_share([layer.macs for layer in chosen], sum(layer.macs for layer in layers)),
    )
    return facts, chosen


def found_sparsity(network: torch.nn.Module, image_size: int) -> Sparsity | None:
    """Detect the sparsity of a trained network; None unless all layers of `prune` are 2:4.

    Args:
        network: network in floating point.
        image_size: side of its input in pixels.
    """
    facts, _ = _plan(network, image_size)
    weights = [network.get_submodule(name).get_parameter("weight") for name in facts.layers]
    done = bool(weights) and all(is_sparse(weight) for weight in weights)
    return facts if done and any(bool(weight.any()) for weight in weights) else None


def masks_of(network: torch.nn.Module, facts: Sparsity) -> Masks:
    """Read the masks of a pruned network from its zero weights."""
    return {
        f"{name}.weight": network.get_submodule(name).get_parameter("weight").detach() != 0
        for name in facts.layers
    }


@torch.no_grad()
def hold(network: torch.nn.Module, masks: Masks) -> None:
    """Set the masked weights to zero."""
    for name, mask in masks.items():
        weight = network.get_parameter(name)
        weight.mul_(mask.to(weight.device))


@torch.no_grad()
def hold_gradients(network: torch.nn.Module, masks: Masks) -> None:
    """Zero the gradients of masked weights, so that they count neither in norm nor in momentum."""
    for name, mask in masks.items():
        gradient = network.get_parameter(name).grad
        if gradient is not None:
            gradient.mul_(mask)


def _share(parts: Sequence[int], whole: int) -> float:
    return sum(parts) / max(1, whole)

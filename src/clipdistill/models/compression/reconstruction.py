"""Pruning to 2:4 with compensation: the weights that stay take over what the others did.

The method is SparseGPT's (Frantar and Alistarh 2023, arXiv:2301.00774), which follows Optimal Brain
Surgeon: for each layer, with H the second moments of its inputs on a sample of images, weights are
removed column by column where w²/[H⁻¹]² is smallest, and the columns after it absorb the error.
Here it works on convolutions as well: the columns are the input channels at every position of the
kernel.  Batch norms are estimated again afterwards, because their inputs have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn import functional

from ...core.two_four import GROUP, KEPT
from .structure import NORMS, Layer, evaluating

Batches = Callable[[], Iterable[torch.Tensor]]
"""Returns images, float32 (N, 3, S, S) each; every call the same."""

DAMPING = 0.01
"""Share of the mean of H's diagonal that is added to it, as in SparseGPT."""
BLOCK = 128
"""Columns whose errors reach the columns after them at once, as in SparseGPT; a multiple of 4."""
POSITIONS = 64
"""Positions of a feature map that are looked at, at most: neighbours hardly differ."""
UNFOLDED = 8
"""Images whose patches are in memory at once."""
LARGEST = 8192
"""Columns of a layer above which it is left to the size of its weights: H takes 512 MB."""
SEEN = 2
"""Inputs of a layer per column below which it is left to the size of its weights: H says little."""


@torch.no_grad()
def prune_and_compensate(
    network: torch.nn.Module, layers: Sequence[Layer], batches: Batches
) -> dict[str, torch.Tensor]:
    """Prune layers of a network to 2:4, in place, and estimate its batch norms again.

    Args:
        network: a dense network.
        layers: its layers to prune; those of more than `LARGEST` columns, and those of which the
            images show fewer than `SEEN` inputs per column, are left alone.
        batches: a sample of its training images.

    Returns:
        For each pruned layer's name, bool of the shape of its weight: what stays.
    """
    chosen = [layer for layer in layers if layer.weight[0].numel() <= LARGEST]
    moments = _moments(network, chosen, batches())
    kept = {}
    for layer in chosen:
        if layer.name not in moments:
            continue
        columns, mask = compensated(_as_columns(layer.weight), moments.pop(layer.name))
        layer.weight.copy_(_as_weight(columns, layer.weight))
        kept[layer.name] = _as_weight(mask, layer.weight)
    _estimate_norms(network, batches())
    _share(network)
    return kept


def compensated(columns: torch.Tensor, moments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune a layer's weights to 2:4.

    Args:
        columns: float (out, n), n a multiple of four.
        moments: float64 (n, n), the mean of x·xᵀ over its inputs x.

    Returns:
        float64 (out, n), the weights, of any four consecutive ones at most two not zero; and bool
        (out, n), which stay.
    """
    weights = columns.detach().cpu().double()
    factor = _inverse_factor(moments)
    scale = factor.diagonal()
    kept = torch.ones_like(weights, dtype=torch.bool)
    for start in range(0, weights.shape[1], BLOCK):
        stop = min(start + BLOCK, weights.shape[1])
        errors = torch.zeros_like(weights[:, start:stop])
        for column in range(start, stop):
            if column % GROUP == 0:
                group = slice(column, column + GROUP)
                score = (weights[:, group] / scale[group]).square()
                removed = score.argsort(dim=1, stable=True)[:, : GROUP - KEPT]
                kept[:, group] = kept[:, group].scatter(1, removed, False)
            pruned = weights[:, column] * kept[:, column]
            error = (weights[:, column] - pruned) / scale[column]
            weights[:, column:stop] -= torch.outer(error, factor[column, column:stop])
            weights[:, column] = pruned
            errors[:, column - start] = error
        weights[:, stop:] -= errors @ factor[start:stop, stop:]
    return weights, kept


def _inverse_factor(moments: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the inverse of damped second moments."""
    damped = moments.clone()
    diagonal = damped.diagonal()
    # An input that is always zero says nothing about its weights, which are removed first.
    diagonal += max(DAMPING * float(diagonal.mean()), torch.finfo(torch.float32).tiny)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def _moments(
    network: torch.nn.Module, layers: Sequence[Layer], batches: Iterable[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The mean of x·xᵀ over the inputs of each layer that has enough, float64 (n, n)."""
    sums: dict[str, torch.Tensor] = {}
    counts = dict.fromkeys((layer.name for layer in layers), 0)

    def watch(layer: Layer) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
        def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            for columns in _inputs(module, inputs[0]):
                products = (columns.T @ columns).cpu().double()
                sums[layer.name] = sums.get(layer.name, 0) + products
                counts[layer.name] += len(columns)

        return look

    hooks = [layer.module.register_forward_pre_hook(watch(layer)) for layer in layers]
    try:
        with evaluating(network):
            for batch in batches:
                network(batch)
    finally:
        for hook in hooks:
            hook.remove()
    enough = (name for name, total in sums.items() if counts[name] >= SEEN * len(total))
    return {name: sums[name] / counts[name] for name in enough}


def _inputs(module: torch.nn.Module, values: torch.Tensor) -> Iterator[torch.Tensor]:
    """The inputs of some positions, float32 (positions, n), in the order of `_as_columns`."""
    if not isinstance(module, torch.nn.Conv2d):
        rows = values.reshape(len(values), -1, values.shape[-1]).float()
        yield rows[:, :: _step(rows.shape[1])].reshape(-1, rows.shape[-1])
        return
    channels = values.shape[1]
    for some in torch.split(values.float(), UNFOLDED):
        patches = functional.unfold(
            some,
            module.kernel_size,
            dilation=module.dilation,
            padding=_padding(module),
            stride=module.stride,
        )
        patches = patches[:, :, :: _step(patches.shape[2])]
        each = patches.reshape(len(some), channels, -1, patches.shape[2])
        yield each.permute(0, 3, 2, 1).reshape(-1, patches.shape[1])


def _padding(module: torch.nn.Conv2d) -> tuple[int, ...]:
    """Zeros at the borders: the module's, or those that timm adds to keep the size."""
    if isinstance(module.padding, str) or not any(module.padding):
        sides = zip(module.kernel_size, module.dilation, strict=True)
        return tuple(dilation * (size - 1) // 2 for size, dilation in sides)
    return tuple(module.padding)


def _step(positions: int) -> int:
    return -(-positions // POSITIONS)


def _as_columns(weight: torch.Tensor) -> torch.Tensor:
    """(out, in) or (out, in, H, W) -> (out, n); four input channels follow one another."""
    return weight.movedim(1, -1).reshape(len(weight), -1)


def _as_weight(columns: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Invert `_as_columns`."""
    return columns.reshape(weight.movedim(1, -1).shape).movedim(-1, 1).contiguous()


def _estimate_norms(network: torch.nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Estimate the means and variances of batch norms, each over all images."""
    with evaluating(network), _averaging(network) as norms:
        for batch in batches if norms else ():
            network(batch)


@contextmanager
def _averaging(network: torch.nn.Module) -> Iterator[list[torch.nn.Module]]:
    """Let batch norms, and nothing else, run as in training, with equal weights of all batches."""
    norms = [one for one in network.modules() if isinstance(one, NORMS) and one.track_running_stats]
    before = [(norm, norm.momentum, norm.training) for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        yield list(norms)
    finally:
        for norm, momentum, training in before:
            norm.momentum = momentum
            norm.train(training)


def _share(network: torch.nn.Module) -> None:
    """Give all processes of a training the network of the first: rounding may differ."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for value in network.state_dict().values():
            torch.distributed.broadcast(value, 0)

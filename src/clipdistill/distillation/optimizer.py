"""Optimizers and the schedule of the learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch

from .options import DistillOptions


def learning_rate(options: DistillOptions, step: int, total: int) -> float:
    """The learning rate at a step: linear warm-up, then a half cosine to zero, or constant.

    (Loshchilov & Hutter 2017, without restarts; warm-up: Goyal et al. 2017.)
    """
    warm = max(1, round(options.warmup * total)) if options.warmup > 0 else 0
    if step < warm:
        return options.peak_lr * (step + 1) / warm
    if options.schedule == "constant":
        return options.peak_lr
    progress = (step - warm) / max(1, total - warm)
    return options.peak_lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def make_optimizer(network: torch.nn.Module, options: DistillOptions) -> torch.optim.Optimizer:
    """The optimiser of a recipe; adamw does not decay biases and norms, as timm does."""
    decay = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    if options.optimizer == "adamw":
        groups: list[dict[str, Any]] = [{"params": decay}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=options.peak_lr, weight_decay=options.weight_decay)
    everything = decay + plain
    if options.optimizer == "adam":
        return torch.optim.Adam(everything, lr=options.peak_lr, weight_decay=options.weight_decay)
    return torch.optim.SGD(
        everything, lr=options.peak_lr, momentum=options.momentum, weight_decay=options.weight_decay
    )

"""Losses between the embeddings of student and teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def distillation_loss(
    criterion: str, output: torch.Tensor, target: torch.Tensor, fine: torch.Tensor
) -> torch.Tensor:
    """Mean loss over the images of a batch.

    Args:
        criterion: "cosine", "mse", "l1" or "huber" (the last three: torch's definitions, mean over
            dimensions).
        output: float (B, D), the student's.
        target: float32 (B, D), the teacher's.
        fine: float32 (B,), 1 for pictures that could be read, 0 for the others.
    """
    output = output.float()
    if criterion == "cosine":
        each = 1 - F.cosine_similarity(output, target, dim=-1)
    elif criterion == "mse":
        each = F.mse_loss(output, target, reduction="none").mean(dim=-1)
    elif criterion == "l1":
        each = F.l1_loss(output, target, reduction="none").mean(dim=-1)
    else:
        each = F.huber_loss(output, target, reduction="none").mean(dim=-1)
    return (each * fine).sum() / fine.sum().clamp(min=1)

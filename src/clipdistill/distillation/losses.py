"""Losses between the embeddings of student and teacher: a registry of functions.

A loss is a function `(output, target, context) -> loss of each image`.  To add one, write the
function and add a line to `LOSSES`; the name becomes a choice of `--criterion`.  torch is imported
inside the functions, so that the names are known without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ANCHOR_SCALE = 20.0
"""Logit scale of similarities to anchors: a temperature of 0.05.  SEED has 0.01 for the teacher and
0.2 for the student (Fang et al. 2021)."""
ANCHOR_WEIGHT, RELATION_WEIGHT = 0.1, 10.0
"""Weights of the added terms; the cosine has weight 1.  They were not tuned."""


@dataclass(frozen=True)
class LossContext:
    """What a loss may need besides the two embeddings.

    Attributes:
        valid: float32 (B,), 1 for images that could be read, 0 for the others.
        anchors: float32 (A, D) of unit length, the teacher's embeddings of some training images;
            empty for losses that do not need them.
    """

    valid: Tensor
    anchors: Tensor | None = None


Loss = Callable[["Tensor", "Tensor", LossContext], "Tensor"]
"""(output float32 (B, D), target float32 (B, D), context) -> float32 (B,)."""


def cosine(output: Tensor, target: Tensor, context: LossContext) -> Tensor:
    """1 - cosine: on the sphere, where zero-shot classification works."""
    from torch.nn.functional import cosine_similarity

    return 1 - cosine_similarity(output, target, dim=-1)


def mse(output: Tensor, target: Tensor, context: LossContext) -> Tensor:
    """Mean squared difference over the dimensions, of the embeddings as they are stored."""
    from torch.nn.functional import mse_loss

    return mse_loss(output, target, reduction="none").mean(dim=-1)


def l1(output: Tensor, target: Tensor, context: LossContext) -> Tensor:
    """Mean absolute difference over the dimensions, of the embeddings as they are stored."""
    from torch.nn.functional import l1_loss

    return l1_loss(output, target, reduction="none").mean(dim=-1)


def huber(output: Tensor, target: Tensor, context: LossContext) -> Tensor:
    """Huber loss with delta 1, mean over the dimensions, of the embeddings as they are stored."""
    from torch.nn.functional import huber_loss

    return huber_loss(output, target, reduction="none").mean(dim=-1)


def relational(output: Tensor, target: Tensor, context: LossContext) -> Tensor:
    """Cosine, and the squared difference of the cosines between the images of a batch.

    (Relational knowledge distillation: Park et al. 2019; similarities: Tung & Mori 2019.)
    """
    from torch.nn.functional import normalize

    student, teacher = normalize(output, dim=-1), normalize(target, dim=-1)
    difference = (student @ student.T - teacher @ teacher.T).square() * context.valid
    mean = difference.sum(dim=-1) / context.valid.sum().clamp(min=1)
    return cosine(output, target, context) + RELATION_WEIGHT * mean


def anchors(output: Tensor, target: Tensor, context: LossContext) -> Tensor:
    """Cosine, and the divergence of the similarities to a fixed set of the teacher's embeddings.

    (SEED: Fang et al. 2021, with a fixed sample instead of a queue, so that a resumed training
    takes the same steps.)
    """
    from torch.nn.functional import kl_div, log_softmax, normalize, softmax

    if context.anchors is None:
        raise ValueError("the loss 'anchors' needs anchors")
    student, teacher = normalize(output, dim=-1), normalize(target, dim=-1)
    mine = log_softmax(ANCHOR_SCALE * student @ context.anchors.T, dim=-1)
    theirs = softmax(ANCHOR_SCALE * teacher @ context.anchors.T, dim=-1)
    divergence = kl_div(mine, theirs, reduction="none").sum(dim=-1)
    return cosine(output, target, context) + ANCHOR_WEIGHT * divergence


LOSSES: dict[str, Loss] = {
    "cosine": cosine,
    "mse": mse,
    "l1": l1,
    "huber": huber,
    "relational": relational,
    "anchors": anchors,
}

if TYPE_CHECKING:
    Criterion = str
else:
    Criterion = Literal[tuple(LOSSES)]
"""A name in `LOSSES`; the public type stub lists them."""


def distillation_loss(
    criterion: str, output: torch.Tensor, target: torch.Tensor, context: LossContext
) -> torch.Tensor:
    """Mean loss over the valid images of a batch; 0 without one.

    Args:
        criterion: a name in `LOSSES`.
        output: float (B, D), the student's embeddings.
        target: float32 (B, D), the teacher's.
        context: see `LossContext`.
    """
    each = LOSSES[criterion](output.float(), target, context)
    return (each * context.valid).sum() / context.valid.sum().clamp(min=1)

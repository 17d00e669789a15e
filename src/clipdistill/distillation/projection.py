"""Fit the projection of a pretrained student before it is trained, in one pass over the images.

The last layer of a pretrained network is new, and its random weights would first distort what the
layers before it have learnt.  Ridge regression of the teacher's embeddings on the features in front
of that layer gives it its best weights at once (a linear probe before the fine-tuning: Kumar et al.
2022, arXiv 2202.10054; the closed form is that of any linear regression).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.progress import message, track
from ..formats.cards import StudentCard
from ..models.torch_embedder import memory_layout, to_input
from .batches import some_rows
from .options import FIT_IMAGES, DistillOptions
from .validation import TrainingData, Validator

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Ridge penalties that are tried, relative to the mean variance of a feature; the held-out images
choose, by their cosine with the teacher."""

DEFAULT_STRENGTH = 0.1
"""The penalty without held-out images."""


@dataclass(frozen=True)
class _Sums:
    """What the regression needs of F features and D targets, centred: float64 on the CPU.

    Attributes:
        count: images.
        mean: (F,) of the features.
        target_mean: (D,) of the targets.
        covariance: (F, F) of the features.
        cross: (F, D), covariance of features and targets.
    """

    count: float
    mean: torch.Tensor
    target_mean: torch.Tensor
    covariance: torch.Tensor
    cross: torch.Tensor

    def solve(self, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The weight (D, F) and bias (D,) for a penalty relative to the features' mean variance."""
        variance = self.covariance.diagonal().mean().clamp(min=1e-12)
        penalty = strength * variance * torch.eye(len(self.mean), dtype=torch.float64)
        weight = torch.linalg.solve(self.covariance + penalty, self.cross).T
        return weight, self.target_mean - weight @ self.mean


def fit_projection(
    network: torch.nn.Module,
    data: TrainingData,
    card: StudentCard,
    validator: Validator,
    options: DistillOptions,
) -> list[dict[str, Any]]:
    """Give the last layer the weights that fit the teacher's embeddings best; all processes do it.

    The features are those of the network in eval mode, without mirroring.  The result is where the
    training starts, and is not kept instead of it: regression with few images gives embeddings near
    the mean, which have a higher cosine and tell classes apart less.  Measured 2026-11 on 2,000
    photos, half of them junk: cosine 0.546 and 71.0% zero-shot fitted, 0.530 and 77.6% trained.

    Args:
        network: with pretrained weights; its last layer is changed in place.
        data: training and held-out images.
        card: what is to be trained.
        validator: measures the result.
        options: how to train.

    Returns:
        The measure of the fitted network, as a row of `Start`.  Empty, with a message, when the
        network does not end in one linear layer.
    """
    network.to(validator.device).to(memory_format=memory_layout(network)).eval()
    last = _last_layer(network, card.dim)
    features = _Features(network, last, data, card, validator)
    rows = some_rows(data.train, FIT_IMAGES, options.seed)
    if last is None or not features.are_complete(rows[: options.batch_size]):
        message(
            f"The projection of {card.arch} is not fitted before the training, because the network "
            "does not end in one linear layer."
        )
        network.train()
        return []
    sums = _summed(features, rows, options.batch_size)
    strength = _chosen(sums, features, data, options.batch_size)
    _assign(last, *sums.solve(strength))
    measured = validator(network)
    network.train()
    return [{"epoch": 0, "state": "fitted", "images": len(rows), "ridge": strength, **measured}]


def _last_layer(network: torch.nn.Module, dim: int) -> torch.nn.Module | None:
    """The classifier, when it is one linear layer or one 1x1 convolution with `dim` outputs."""
    layer = getattr(network, "get_classifier", lambda: None)()
    if isinstance(layer, torch.nn.Linear) and layer.out_features == dim:
        return layer
    if isinstance(layer, torch.nn.Conv2d) and layer.out_channels == dim:
        return layer if layer.kernel_size == (1, 1) and layer.groups == 1 else None
    return None


def _assign(layer: torch.nn.Module, weight: torch.Tensor, bias: torch.Tensor) -> None:
    with torch.no_grad():
        own: torch.Tensor = layer.weight  # type: ignore[assignment]
        own.copy_(weight.reshape(own.shape))
        if layer.bias is not None:
            layer.bias.copy_(bias)  # type: ignore[operator]


class _Features:
    """Features in front of the last layer, and the teacher's embeddings of the same images."""

    def __init__(
        self,
        network: torch.nn.Module,
        layer: torch.nn.Module | None,
        data: TrainingData,
        card: StudentCard,
        validator: Validator,
    ) -> None:
        self._network, self._layer, self._data = network, layer, data
        self._card, self._validator = card, validator
        self.accelerator = validator.accelerator

    def are_complete(self, rows: NDArray[np.intp]) -> bool:
        """Whether the network's output is the last layer applied to the features."""
        _, _, given, output = self._forward(rows[:2])
        if given is None or self._layer is None or given.flatten(1).shape[0] != output.shape[0]:
            return False
        with torch.inference_mode(), self.accelerator.autocast():
            again = self._layer(given).flatten(1)
        return again.shape == output.shape and torch.allclose(again, output, atol=1e-3, rtol=1e-3)

    def __call__(self, rows: NDArray[np.intp]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, F) and targets (B, D) of the readable ones of `rows`: float64 on the CPU."""
        fine, targets, given, _ = self._forward(rows)
        assert given is not None
        features = given.flatten(1).cpu().double()  # MPS has no float64
        return features[fine], targets[fine]

    @torch.inference_mode()
    def _forward(
        self, rows: NDArray[np.intp]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        given: list[torch.Tensor] = []
        hook = None
        if self._layer is not None:
            hook = self._layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        try:
            pixels, fine = self._data.pixels.gather(rows)
            device = self._validator.device
            inputs = to_input(torch.from_numpy(pixels).to(device), self._card.preprocess)
            with self.accelerator.autocast():
                layout = memory_layout(self._network)
                output = self._network(inputs.contiguous(memory_format=layout))
        finally:
            if hook is not None:
                hook.remove()
        targets = torch.from_numpy(np.asarray(self._data.targets[rows], dtype=np.float64))
        return torch.from_numpy(fine), targets, given[0] if len(given) == 1 else None, output


def _mine(features: _Features, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """The rows of this process."""
    accelerator = features.accelerator
    return rows[accelerator.process_index :: accelerator.num_processes]


def _added(features: _Features, *sums: torch.Tensor) -> list[torch.Tensor]:
    """Sums over all processes."""
    if features.accelerator.num_processes == 1:
        return list(sums)
    device = features.accelerator.device
    return [features.accelerator.reduce(one.to(device), "sum").cpu() for one in sums]


def _summed(features: _Features, rows: NDArray[np.intp], batch_size: int) -> _Sums:
    """One pass over the images: sums of the features, the targets and their products."""
    mine = _mine(features, rows)
    count = torch.zeros(1, dtype=torch.float64)
    first = second = totals = products = count
    with track("fit the projection", len(mine), "images") as step:
        for start in range(0, len(mine), batch_size):
            some = mine[start : start + batch_size]
            given, targets = features(some)
            count = count + len(given)
            first, totals = first + given.sum(0), totals + targets.sum(0)
            second, products = second + given.T @ given, products + given.T @ targets
            step(len(some))
    count, first, totals, second, products = _added(
        features, count, first, totals, second, products
    )
    images = float(count)
    mean, target_mean = first / images, totals / images
    covariance = second / images - torch.outer(mean, mean)
    cross = products / images - torch.outer(mean, target_mean)
    return _Sums(images, mean, target_mean, covariance, cross)


def _chosen(sums: _Sums, features: _Features, data: TrainingData, batch_size: int) -> float:
    """The penalty whose solution is nearest to the teacher on the held-out images."""
    if not len(data.val):
        return DEFAULT_STRENGTH
    solutions = [sums.solve(strength) for strength in STRENGTHS]
    cosines = torch.zeros(len(STRENGTHS), dtype=torch.float64)
    mine = _mine(features, data.val)
    for start in range(0, len(mine), batch_size):
        given, targets = features(mine[start : start + batch_size])
        for index, (weight, bias) in enumerate(solutions):
            outputs = given @ weight.T + bias
            cosines[index] += torch.nn.functional.cosine_similarity(outputs, targets).sum()
    (cosines,) = _added(features, cosines)
    return STRENGTHS[int(cosines.argmax())]

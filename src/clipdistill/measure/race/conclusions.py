"""Conclusions from a benchmark: what is slower than FP32, and the effect of sparsity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...core.two_four import is_sparse

NOISE = 0.04
"""Ratios this near to 1 are noise: runs of one file differ as much (2 cores, 2026-11)."""
AGREED = 0.8
"""Least share of the rounds in which a faster model must be faster."""


@dataclass(frozen=True)
class Timed:
    """Measurements that the conclusions are drawn from.

    Attributes:
        name: name of the model in sentences.
        network: architecture, role and image size; the same for models that can be compared.
        runtime: runtime that it ran in.
        device: device that it ran on.
        precision: "fp32", "int8" ...
        sparse: share of its weights that are 2:4, 0 to 1; None when unknown.
        rounds: median milliseconds at batch size 1, one value per round.
    """

    name: str
    network: tuple[object, ...]
    runtime: str
    device: str
    precision: str
    sparse: float | None
    rounds: tuple[float, ...]

    @property
    def is_sparse(self) -> bool:
        """Whether its weights are 2:4."""
        return is_sparse(self.sparse)


def conclusions(models: Sequence[Timed]) -> list[str]:
    """Return sentences about the compressed models."""
    lines = []
    for model in models:
        if model.precision != "fp32":
            lines += _against_fp32(model, models)
        if model.is_sparse:
            lines += _against_dense(model, models)
    return lines


def ratio(model: Timed, other: Timed) -> float:
    """Return the median over the rounds of the model's time divided by that of `other`."""
    pairs = zip(model.rounds, other.rounds, strict=False)
    return float(np.median([mine / theirs for mine, theirs in pairs]))


def outcome(rounds: Sequence[float], others: Sequence[float]) -> str:
    """Return "slower", "faster" or "same"; "same" also where the rounds disagree.

    Args:
        rounds: median milliseconds of one model, one value per round.
        others: the same of the other model, in the same rounds.
    """
    ratios = [mine / theirs for mine, theirs in zip(rounds, others, strict=False)]
    if not ratios:
        return "same"
    middle = float(np.median(ratios))
    slower = float(np.mean([one > 1 for one in ratios]))
    if middle > 1 + NOISE and slower >= AGREED:
        return "slower"
    if middle < 1 - NOISE and 1 - slower >= AGREED:
        return "faster"
    return "same"


def _against_fp32(model: Timed, models: Sequence[Timed]) -> list[str]:
    same = _find(models, lambda one: _peers(one, model) and one.precision == "fp32")
    if same is None:
        return []
    times, found = ratio(model, same), outcome(model.rounds, same.rounds)
    if found == "slower":
        return [
            f"{_about(model)} is SLOWER than FP32 ({same.name}) in the same runtime: "
            f"{_ms(model)} against {_ms(same)} ms, {times:.2f}x the time.{_hint(model)}"
        ]
    if found == "same":
        return [f"{_about(model)} is as fast as FP32 ({same.name}): it saves no time."]
    return []


def _against_dense(model: Timed, models: Sequence[Timed]) -> list[str]:
    same = _find(
        models,
        lambda one: _peers(one, model) and one.precision == model.precision and not one.is_sparse,
    )
    if same is None:
        return [
            f"{_about(model)} is 2:4 sparse, but no dense {model.precision} model of the same "
            "network was measured: the effect of sparsity is unknown."
        ]
    times, found = ratio(model, same), outcome(model.rounds, same.rounds)
    figures = f"{_ms(model)} against {_ms(same)} ms for {same.name}"
    if found == "slower":
        return [f"{_about(model)}: 2:4 sparsity made it SLOWER on this device: {figures}."]
    if found == "same":
        return [f"{_about(model)}: 2:4 sparsity had NO effect on speed on this device: {figures}."]
    if model.device == "cpu":
        return [
            f"{_about(model)}: 2:4 sparsity had NO effect on speed on this device, since no kernel "
            f"for processors uses it; two processes may differ as much: {figures}."
        ]
    return [f"{_about(model)}: 2:4 sparsity made it {1 / times:.2f}x as fast: {figures}."]


def _peers(one: Timed, model: Timed) -> bool:
    same = one.network == model.network and one.runtime == model.runtime
    return one is not model and same and one.device == model.device and bool(one.rounds)


def _find(models: Sequence[Timed], fits: Callable[[Timed], bool]) -> Timed | None:
    """Find the first model that fits, preferably a dense one."""
    found = [one for one in models if fits(one)]
    return min(found, key=lambda one: one.is_sparse, default=None)


def _hint(model: Timed) -> str:
    if model.runtime == "onnxruntime" and "int8" in model.precision:
        return (
            " The form of INT8 for TensorRT is slow in ONNX Runtime: use `clipdistill "
            "export --target onnxruntime`, or run this file in OpenVINO."
        )
    if model.runtime == "torch":
        return " PyTorch only simulates INT8: the exported file is faster."
    if "fp16" in model.precision:
        return " Processors without FP16 arithmetic convert to FP32 and back."
    return ""


def _about(model: Timed) -> str:
    return f"{model.name} in {model.runtime}"


def _ms(model: Timed) -> str:
    return f"{np.median(model.rounds):.2f}"

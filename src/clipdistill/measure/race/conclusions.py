"""What the figures mean, in sentences: what is slower than FP32, what sparsity did here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...core.two_four import is_sparse

NOISE = 0.04
"""Ratios this near to 1 are the machine's: runs of one file differ as much (2 cores, 2026-11)."""
AGREED = 0.8
"""Share of the rounds that must agree on who is faster, before it is said."""


@dataclass(frozen=True)
class Timed:
    """What a conclusion rests on.

    Attributes:
        name: for the sentence.
        network: what is the same network: architecture, role, image size.
        runtime: that ran it.
        device: it ran on.
        precision: "fp32", "int8" ...
        sparse: share of its weights that are 2:4; None when unknown.
        rounds: milliseconds at batch 1, a median a round.
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
    """Sentences about every model that is compressed, and has one beside it to compare with."""
    lines = []
    for model in models:
        if model.precision != "fp32":
            lines += _against_fp32(model, models)
        if model.is_sparse:
            lines += _against_dense(model, models)
    return lines


def ratio(model: Timed, other: Timed) -> float:
    """How many times as long as `other` a model takes: the median of the rounds' ratios."""
    pairs = zip(model.rounds, other.rounds, strict=False)
    return float(np.median([mine / theirs for mine, theirs in pairs]))


def outcome(rounds: Sequence[float], others: Sequence[float]) -> str:
    """Say slower, faster or same: the last also where the rounds do not agree, or there are none.

    Args:
        rounds: milliseconds of one model, a median a round.
        others: those of the other in the same rounds.
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
    times, told = ratio(model, same), outcome(model.rounds, same.rounds)
    if told == "slower":
        return [
            f"{_about(model)} is SLOWER than FP32 ({same.name}) in the same runtime: "
            f"{_ms(model)} against {_ms(same)} ms, {times:.2f}x the time.{_hint(model)}"
        ]
    if told == "same":
        return [f"{_about(model)} is as fast as FP32 ({same.name}): nothing gained in time."]
    return []


def _against_dense(model: Timed, models: Sequence[Timed]) -> list[str]:
    same = _find(
        models,
        lambda one: _peers(one, model) and one.precision == model.precision and not one.is_sparse,
    )
    if same is None:
        return [
            f"{_about(model)} is 2:4 sparse, but no dense {model.precision} of the same network "
            "was measured beside it: what sparsity did cannot be told."
        ]
    times, told = ratio(model, same), outcome(model.rounds, same.rounds)
    figures = f"{_ms(model)} against {_ms(same)} ms for {same.name}"
    if told == "slower":
        return [f"{_about(model)}: 2:4 sparsity made it SLOWER on this device: {figures}."]
    if told == "same":
        return [f"{_about(model)}: 2:4 sparsity did NOTHING for speed on this device: {figures}."]
    if model.device == "cpu":
        return [
            f"{_about(model)}: 2:4 sparsity did NOTHING for speed on this device, no kernel for "
            f"processors uses it; two processes may differ as much: {figures}."
        ]
    return [f"{_about(model)}: 2:4 sparsity made it {1 / times:.2f}x as fast: {figures}."]


def _peers(one: Timed, model: Timed) -> bool:
    same = one.network == model.network and one.runtime == model.runtime
    return one is not model and same and one.device == model.device and bool(one.rounds)


def _find(models: Sequence[Timed], fits: Callable[[Timed], bool]) -> Timed | None:
    """The first that fits; dense ones first."""
    found = [one for one in models if fits(one)]
    return min(found, key=lambda one: one.is_sparse, default=None)


def _hint(model: Timed) -> str:
    if model.runtime == "onnxruntime" and "int8" in model.precision:
        return (
            " TensorRT's form of INT8 is slow in ONNX Runtime: export with --target onnxruntime, "
            "or run this file in OpenVINO."
        )
    if model.runtime == "torch":
        return " torch only imitates INT8: what is exported is what is fast."
    if "fp16" in model.precision:
        return " Processors without FP16 arithmetic convert back and forth."
    return ""


def _about(model: Timed) -> str:
    return f"{model.name} in {model.runtime}"


def _ms(model: Timed) -> str:
    return f"{np.median(model.rounds):.2f}"

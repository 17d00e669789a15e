"""INT8 for training and calibration: which quantisers go where, and their ranges.

ModelOpt brings the quantisers and the calibrators.  Which layers get them is decided here, module
by module: ModelOpt's own configurations go by patterns of names and skip what they do not match
without a word.  The number of enabled quantisers is checked against the plan.

Per layer: weights symmetric INT8 per output channel, inputs symmetric INT8 per tensor, outputs not
at all.  Per residual add: the shortcut (see `residuals`).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ...core.errors import ClipDistillError, InputError, MissingExtraError
from ...formats.cards import Calibration, Quantization
from .folding import fold
from .residuals import check_adds, quantize_shortcuts
from .structure import Layer, evaluating, read_structure

PERCENTILE = 99.99
"""ModelOpt's default; of the magnitudes of a tensor."""
STRIDE = 16
"""Bins between the ranges that entropy tries: all 2,000 take 2.5 s a tensor (measured 2026-11)."""
SMALLEST_RANGE = 1e-6
"""Least amax: a channel of zeros must not get the scale 0, which no runtime takes."""


@dataclass(frozen=True)
class _ModelOpt:
    """What is used of ModelOpt."""

    registry: Any
    quantizer: Any
    config: Any
    max_calibrator: Any
    histogram_calibrator: Any


def modelopt() -> _ModelOpt:
    """Import ModelOpt (some seconds).

    Raises:
        MissingExtraError: it, or something that it needs, is not installed.
    """
    talker = logging.getLogger("torch.utils.cpp_extension")
    level = talker.level
    talker.setLevel(logging.ERROR)  # "No CUDA runtime is found"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from modelopt.torch.quantization.calib import HistogramCalibrator, MaxCalibrator
            from modelopt.torch.quantization.config import QuantizerAttributeConfig
            from modelopt.torch.quantization.nn import QuantModuleRegistry, TensorQuantizer
    except ModuleNotFoundError as error:
        package = (error.name or "nvidia-modelopt").partition(".")[0]
        name = "nvidia-modelopt" if package == "modelopt" else package
        raise MissingExtraError(name, "compress", "An INT8 student") from error
    finally:
        talker.setLevel(level)
    return _ModelOpt(
        QuantModuleRegistry,
        TensorQuantizer,
        QuantizerAttributeConfig,
        MaxCalibrator,
        HistogramCalibrator,
    )


def why_float(layer: Layer) -> str:
    """Why a layer is not quantised; empty when it is."""
    if layer.head:
        return "the embedding head"
    if layer.gate:
        return "squeeze-and-excitation: it sees one pixel a channel"
    return ""


def insert_quantizers(network: torch.nn.Module, image_size: int, arch: str) -> Quantization:
    """Fold the batch norms and put the quantisers in, with ranges still to be set.

    Args:
        network: a network in floating point; changed in place.
        image_size: side of its input.
        arch: timm's name.

    Returns:
        The facts; method and images are the caller's to fill in.

    Raises:
        InputError: the network's residual adds cannot all be quantised.
        ClipDistillError: the quantisers are not those that were planned.
        MissingExtraError: ModelOpt is not installed.
    """
    tools = modelopt()
    folded = fold(network, image_size)
    structure = read_structure(network, image_size)
    reasons = {layer.name: why_float(layer) for layer in structure.layers}
    chosen = [layer for layer in structure.layers if not reasons[layer.name]]
    for layer in chosen:
        _convert(tools, layer, arch)
    residuals = quantize_shortcuts(network, lambda: _per_tensor(tools, network))
    check_adds(network, image_size, structure.adds, arch)
    planned = [
        *(f"{layer.name}.{kind}_quantizer" for layer in chosen for kind in ("input", "weight")),
        *residuals,
    ]
    _check_quantizers(tools, network, planned)
    return Quantization(
        method="",
        calibration_images=0,
        trained=False,
        layers=tuple(layer.name for layer in chosen),
        residuals=residuals,
        folded=folded,
        skipped=tuple((name, reason) for name, reason in reasons.items() if reason),
        quantizers=len(planned),
    )


def _convert(tools: _ModelOpt, layer: Layer, arch: str) -> None:
    """Give a layer its two quantisers, with ranges of the right shape."""
    if type(layer.module) not in tools.registry:
        raise InputError(
            f"Student {arch}: its layer {layer.name} is a {type(layer.module).__name__}, which "
            "ModelOpt cannot quantise. Choose a student with plain convolutions, such as one whose "
            "name does not start with tf_."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tensor parallelism, which there is none of
        converted = tools.registry.convert(layer.module)
    config = tools.config
    converted.weight_quantizer.set_from_attribute_config(config(num_bits=8, axis=0))
    converted.input_quantizer.set_from_attribute_config(config(num_bits=8, axis=None))
    weight = layer.weight
    channels = (weight.shape[0], *(1 for _ in weight.shape[1:]))
    converted.weight_quantizer.amax = torch.ones(channels, device=weight.device)
    converted.input_quantizer.amax = torch.ones((), device=weight.device)


def _per_tensor(tools: _ModelOpt, network: torch.nn.Module) -> torch.nn.Module:
    quantizer: torch.nn.Module = tools.quantizer(tools.config(num_bits=8, axis=None))
    quantizer.amax = torch.ones((), device=next(network.parameters()).device)
    return quantizer


def _check_quantizers(tools: _ModelOpt, network: torch.nn.Module, planned: list[str]) -> None:
    enabled = {
        name
        for name, module in network.named_modules()
        if isinstance(module, tools.quantizer) and module.is_enabled
    }
    if enabled != set(planned):
        odd = sorted(enabled.symmetric_difference(planned))
        raise ClipDistillError(
            f"{len(planned)} quantisers were planned, {len(enabled)} are enabled; they differ in "
            f"{odd[:3]}. ModelOpt has skipped or added some; please report this with its version."
        )


def calibrate(
    network: torch.nn.Module, batches: Iterable[torch.Tensor], method: Calibration
) -> None:
    """Set the ranges: of weights by their largest magnitude, of inputs by what pictures show.

    Args:
        network: with its quantisers.
        batches: float32 (N, 3, S, S) each, where the network is.
        method: max: the largest magnitude; percentile: the 99.99th; entropy: least
            Kullback-Leibler divergence.  (ModelOpt's mse is not offered: in 0.47 it takes the
            number of bits for an offset, and ruins the network.)
    """
    tools = modelopt()
    quantizers = [m for m in network.modules() if isinstance(m, tools.quantizer) and m.is_enabled]
    for quantizer in quantizers:
        per_tensor = quantizer.axis is None
        quantizer._calibrator = (
            tools.histogram_calibrator(8, None, False)
            if per_tensor and method != "max"
            else tools.max_calibrator(8, quantizer.axis, False)
        )
        quantizer.disable_quant()
        quantizer.enable_calib()
    with evaluating(network), torch.no_grad():
        for batch in batches:
            network(batch)
    for quantizer in quantizers:
        histogram = isinstance(quantizer._calibrator, tools.histogram_calibrator)
        found = (
            _range_of(quantizer._calibrator, method)
            if histogram
            else (quantizer._calibrator.compute_amax())
        )
        quantizer.amax = (
            torch.as_tensor(found).float().clamp(min=SMALLEST_RANGE).reshape(quantizer.amax.shape)
        )
        quantizer._calibrator.reset()
        quantizer.disable_calib()
        quantizer.enable_quant()


def _range_of(calibrator: Any, method: Calibration) -> Any:
    if method == "percentile":
        return calibrator.compute_amax(method, percentile=PERCENTILE)
    return calibrator.compute_amax(method, stride=STRIDE)

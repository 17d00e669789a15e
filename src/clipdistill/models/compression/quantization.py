"""INT8 for training and INT8 calibration: places of the quantisers, and their ranges.

ModelOpt provides the quantisers and the calibrators.  This module chooses the layers one by one:
ModelOpt's own configurations match patterns of names and silently skip the rest.  The enabled
quantisers are checked against the plan.

Per layer: weights symmetric INT8 per output channel, inputs symmetric INT8 per tensor, outputs not
at all.  Per residual add: the shortcut (see `residuals`), where its block is known.  All the rest,
such as softmax, norms and the other adds, stays in floating point.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...core.errors import ClipDistillError, InputError, MissingExtraError
from ...formats.cards import Calibration, Quantization
from .folding import fold
from .padding import fix_padding
from .residuals import quantize_shortcuts
from .structure import Layer, evaluating, read_structure

PERCENTILE = 99.99
"""Percentile of a tensor's magnitudes that becomes its range; ModelOpt's default."""
STRIDE = 16
"""Bins between two ranges that entropy tries; all 2,000 take 2.5 s per tensor (2026-11)."""
SMALLEST_RANGE = 1e-6
"""Least amax: a channel of zeros must not get the scale 0, which no runtime accepts."""
WEIGHT_AMAX = ".weight_quantizer._amax"
"""Ending of the name of the range of a layer's weights in a state dict."""


@dataclass(frozen=True)
class _ModelOpt:
    """The classes of ModelOpt that are used here."""

    registry: Any
    quantizer: Any
    config: Any
    max_calibrator: Any
    histogram_calibrator: Any


def modelopt() -> _ModelOpt:
    """Import ModelOpt, which takes some seconds.

    Raises:
        MissingExtraError: ModelOpt or one of its dependencies is not installed.
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


def why_float(layer: Layer, registry: Any) -> str:
    """Give the reason why a layer is not quantised; empty when it is.

    Args:
        layer: a layer.
        registry: ModelOpt's registry of the types that it quantises.
    """
    if layer.head:
        return "the embedding head"
    if layer.gate:
        return "squeeze-and-excitation: its input is one pixel per channel"
    if type(layer.module) not in registry:
        return f"a {type(layer.module).__name__}, which ModelOpt cannot quantise"
    return ""


def insert_quantizers(network: torch.nn.Module, image_size: int, arch: str) -> Quantization:
    """Fix the padding, fold the batch norms and insert the quantisers.

    `calibrate` sets their ranges.

    Args:
        network: network in floating point; changed in place.
        image_size: side of its input in pixels.
        arch: timm's model name.

    Returns:
        The facts for the card, without method and number of images.

    Raises:
        InputError: no layer of the network can be quantised.
        ClipDistillError: the enabled quantisers differ from the planned ones.
        MissingExtraError: ModelOpt is not installed.
    """
    tools = modelopt()
    fix_padding(network, image_size)
    folded = fold(network, image_size)
    structure = read_structure(network, image_size)
    reasons = {layer.name: why_float(layer, tools.registry) for layer in structure.layers}
    chosen = [layer for layer in structure.layers if not reasons[layer.name]]
    if not chosen:
        raise InputError(
            f"Student {arch}: none of its layers can be INT8 ({next(iter(reasons.values()), '')}). "
            "Choose a student with plain convolutions or linear layers."
        )
    for layer in chosen:
        _convert(tools, layer)
    residuals = quantize_shortcuts(network, image_size, lambda: _per_tensor(tools, network))
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
        float_adds=structure.adds - len(residuals),
    )


def _convert(tools: _ModelOpt, layer: Layer) -> None:
    """Give a layer its two quantisers, with placeholder ranges of the right shape."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tensor parallelism, which is not used
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
            f"{odd[:3]}. ModelOpt skipped or added some. Please report this with its version."
        )


def calibrate(
    network: torch.nn.Module, batches: Iterable[torch.Tensor], method: Calibration
) -> None:
    """Set the ranges: of weights by their largest magnitude, of inputs by the given images.

    Args:
        network: network with quantisers.
        batches: float32 (N, 3, S, S) each, on the network's device.
        method: range of an input: max (largest magnitude), percentile (99.99th) or entropy (least
            Kullback-Leibler divergence).  ModelOpt's mse is not offered: version 0.47 uses the
            number of bits as an offset, which ruins the network.
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


def clipped_shares(
    state: Mapping[str, torch.Tensor],
) -> tuple[float, tuple[tuple[str, float], ...]]:
    """Count the weights that lie beyond the range of their channel, where INT8 clips them.

    Args:
        state: state dict of a network with quantisers.

    Returns:
        Their share of all weights with a range, 0 to 1, and (layer, share) of the layers that have
        some, the largest share first.
    """
    counts: dict[str, tuple[int, int]] = {}
    for name, amax in state.items():
        layer = name.removesuffix(WEIGHT_AMAX)
        if layer != name:
            weight = state[f"{layer}.weight"]
            counts[layer] = int((weight.abs() > amax).sum()), weight.numel()
    total = sum(size for _, size in counts.values())
    beyond = {layer: count / size for layer, (count, size) in counts.items() if count}
    ranked = sorted(beyond.items(), key=lambda pair: -pair[1])
    return sum(count for count, _ in counts.values()) / max(1, total), tuple(ranked)

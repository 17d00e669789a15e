"""Quantising the residual adds of timm's blocks: the shortcut, and not the other input.

TensorRT fuses `conv(...) + shortcut` into one INT8 kernel when the shortcut is quantised and the
convolution's output is not.  timm's blocks write their adds in three ways:

| blocks | their add | place of the quantiser |
|---|---|---|
| ResNet, ResNeXt, SE-ResNet | `x += shortcut`, after `downsample` where there is one | behind, or in place of, `downsample` |
| RegNet, ConvNeXt | `x + downsample(shortcut)`, `x + shortcut(shortcut)` | behind that module |
| EfficientNet, MobileNet 2-4, MnasNet | `drop_path(x) + shortcut` if `has_skip` | the add moves into a subclass |

`check_adds` runs the network and verifies that every add was found.
"""  # noqa: E501

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from timm.models import _efficientnet_blocks as efficientnet
from timm.models import convnext, regnet, resnet

from ...core.errors import InputError
from .structure import AddWatcher, run_once

RESIDUAL = "residual_quantizer"
"""Name of the quantiser of a shortcut, in the module that makes the shortcut."""
FAMILIES = "ResNet, RegNet, ConvNeXt, EfficientNet (and Lite), MobileNetV2, V3, V4, MnasNet"

MakeQuantizer = Callable[[], torch.nn.Module]

_SHORTCUTS: dict[type[torch.nn.Module], str] = {
    resnet.BasicBlock: "downsample",
    resnet.Bottleneck: "downsample",
    regnet.Bottleneck: "downsample",
    regnet.PreBottleneck: "downsample",
    convnext.ConvNeXtBlock: "shortcut",
}
"""Class -> attribute of its module between the block's input and the add."""
_ALWAYS = (resnet.BasicBlock, resnet.Bottleneck)
"""Blocks that also add where that module is None."""
_SKIPS: tuple[type[torch.nn.Module], ...] = (
    efficientnet.ConvBnAct,
    efficientnet.DepthwiseSeparableConv,
    efficientnet.InvertedResidual,
    efficientnet.UniversalInvertedResidual,
    efficientnet.MobileAttention,
    efficientnet.EdgeResidual,
)


class _QuantizedOutput(torch.nn.Module):
    """Mixin for the module that computes a shortcut: quantises its output."""

    residual_quantizer: torch.nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.residual_quantizer(super().forward(x))
        return output


class _QuantizedSkip(torch.nn.Module):
    """Mixin for a block with `has_skip` switched off: does the add itself."""

    residual_quantizer: torch.nn.Module
    drop_path: torch.nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The shortcut first: some blocks work in place.
        shortcut = self.residual_quantizer(x)
        output: torch.Tensor = self.drop_path(super().forward(x)) + shortcut
        return output


def quantize_shortcuts(network: torch.nn.Module, make: MakeQuantizer) -> tuple[str, ...]:
    """Quantise the shortcut of every residual add in the supported blocks.

    Args:
        network: changed in place; no parameter changes its name.
        make: creates a quantiser.

    Returns:
        The names of the quantisers.
    """
    for _, block in list(network.named_modules()):
        attribute = next((at for kind, at in _SHORTCUTS.items() if isinstance(block, kind)), None)
        if attribute is not None:
            _behind(block, attribute, make)
        elif isinstance(block, _SKIPS) and block.has_skip:
            block.has_skip = False  # type: ignore[assignment]
            _mix_in(_QuantizedSkip, block, make())
    return tuple(name for name, _ in network.named_modules() if name.endswith(RESIDUAL))


def check_adds(network: torch.nn.Module, image_size: int, expected: int, arch: str) -> None:
    """Check that exactly one input of each residual add is quantised.

    Args:
        network: network with quantisers.
        image_size: side of its input in pixels.
        expected: number of adds before the quantisers were inserted.
        arch: timm's model name, for the message.

    Raises:
        InputError: the network has residual adds in blocks that are not supported.
    """
    outputs: list[torch.Tensor] = []
    handles = [
        module.register_forward_hook(lambda _, inputs, output: outputs.append(output))
        for name, module in network.named_modules()
        if name.endswith(RESIDUAL)
    ]
    watcher = AddWatcher()
    try:
        with watcher:
            run_once(network, image_size)
    finally:
        for handle in handles:
            handle.remove()
    known = {id(output) for output in outputs}
    good = sum((id(first) in known) != (id(second) in known) for first, second in watcher.seen)
    if not len(watcher.seen) == len(outputs) == good == expected:
        raise InputError(
            f"Student {arch}: clipdistill can quantise {good} of its {expected} residual adds. An "
            "INT8 file of it would be slow and inexact, so it is not made. Choose one of these "
            f"students: {FAMILIES}. (--sparse works for every student.)"
        )


def _behind(block: torch.nn.Module, attribute: str, make: MakeQuantizer) -> None:
    """Quantise the output of a block's `attribute` (None: the block's input, where it is added)."""
    shortcut = getattr(block, attribute)
    if shortcut is None:
        if isinstance(block, _ALWAYS):
            setattr(block, attribute, torch.nn.Sequential(OrderedDict({RESIDUAL: make()})))
    elif isinstance(shortcut, torch.nn.Sequential):
        shortcut.add_module(RESIDUAL, make())
    else:
        _mix_in(_QuantizedOutput, shortcut, make())


def _mix_in(
    kind: type[torch.nn.Module], module: torch.nn.Module, quantizer: torch.nn.Module
) -> None:
    """Change a module's class, as ModelOpt does with layers; no parameter changes its name."""
    setattr(module, RESIDUAL, quantizer)
    own = type(module)
    module.__class__ = type(f"Quant{own.__name__}", (kind, own), {})

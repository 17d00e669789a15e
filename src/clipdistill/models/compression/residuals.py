"""The residual adds of timm's blocks: a quantiser on the shortcut, and none on the other input.

TensorRT fuses `conv(...) + shortcut` into one INT8 kernel when the shortcut comes quantised and
the convolution's output does not.  timm's blocks write their adds in three ways:

| blocks | their add | the quantiser goes |
|---|---|---|
| ResNet, ResNeXt, SE-ResNet | `x += shortcut`, after `downsample` where there is one | behind, or in place of, `downsample` |
| RegNet, ConvNeXt | `x + downsample(shortcut)`, `x + shortcut(shortcut)` | behind that module |
| EfficientNet, MobileNet 2-4, MnasNet | `drop_path(x) + shortcut` if `has_skip` | the add moves into a subclass |

Whether every add was found is not trusted to this table: `check_adds` runs the network and looks.
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
"""Class -> its module between the block's input and the add."""
_ALWAYS = (resnet.BasicBlock, resnet.Bottleneck)
"""Blocks that add also where that module is None."""
_SKIPS: tuple[type[torch.nn.Module], ...] = (
    efficientnet.ConvBnAct,
    efficientnet.DepthwiseSeparableConv,
    efficientnet.InvertedResidual,
    efficientnet.UniversalInvertedResidual,
    efficientnet.MobileAttention,
    efficientnet.EdgeResidual,
)


class _QuantizedOutput(torch.nn.Module):
    """Mixed into the module that makes a shortcut."""

    residual_quantizer: torch.nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.residual_quantizer(super().forward(x))
        return output


class _QuantizedSkip(torch.nn.Module):
    """Mixed into a block whose `has_skip` is switched off: does the add itself."""

    residual_quantizer: torch.nn.Module
    drop_path: torch.nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The shortcut first: some blocks work in place.
        shortcut = self.residual_quantizer(x)
        output: torch.Tensor = self.drop_path(super().forward(x)) + shortcut
        return output


def quantize_shortcuts(network: torch.nn.Module, make: MakeQuantizer) -> tuple[str, ...]:
    """Put a quantiser on the shortcut of every residual add that we know how to find.

    Args:
        network: changed in place; no parameter changes its name.
        make: makes a quantiser.

    Returns:
        The quantisers' names.
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
    """Check that of each residual add exactly one input is quantised.

    Args:
        network: with its quantisers.
        image_size: side of its input.
        expected: adds that the network did before.
        arch: timm's name, for the message.

    Raises:
        InputError: the network adds in places that we do not know.
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
            f"Student {arch}: of its {expected} residual adds, clipdistill knows how to quantise "
            f"{good}. An INT8 file of it would be slow and inexact, so it is not made. INT8 works "
            f"for: {FAMILIES}. (--sparse works for every student.)"
        )


def _behind(block: torch.nn.Module, attribute: str, make: MakeQuantizer) -> None:
    """Quantise what a block's `attribute` gives (None: the block's input, where it is added)."""
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
    """Change a module's class, as ModelOpt does with layers, so that no name changes."""
    setattr(module, RESIDUAL, quantizer)
    own = type(module)
    module.__class__ = type(f"Quant{own.__name__}", (kind, own), {})

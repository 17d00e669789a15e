"""Quantising the residual adds of timm's blocks: the shortcut, and not the other input.

TensorRT fuses `conv(...) + shortcut` into one INT8 kernel when the shortcut is quantised and the
convolution's output is not.  timm's blocks write their adds in three ways:

| blocks | their add | place of the quantiser |
|---|---|---|
| ResNet, ResNeXt, SE-ResNet | `x += shortcut`, after `downsample` where there is one | behind, or in place of, `downsample` |
| RegNet, ConvNeXt | `x + downsample(shortcut)`, `x + shortcut(shortcut)` | behind that module |
| EfficientNet, MobileNet 2-4, MnasNet | `drop_path(x) + shortcut` if `has_skip` | the add moves into a subclass |

The network is then run.  A quantiser that is not on exactly one input of an add is taken out again,
and the adds of other blocks stay in floating point.
"""  # noqa: E501

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.models import _efficientnet_blocks as efficientnet
from timm.models import convnext, regnet, resnet

from .structure import AddWatcher, run_once

RESIDUAL = "residual_quantizer"
"""Name of the quantiser of a shortcut, in the module that makes the shortcut."""

MakeQuantizer = Callable[[], torch.nn.Module]
Undo = Callable[[], None]

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


@dataclass(frozen=True)
class _Placed:
    """A quantiser that was inserted, and how to take it out again."""

    quantizer: torch.nn.Module
    undo: Undo


def quantize_shortcuts(
    network: torch.nn.Module, image_size: int, make: MakeQuantizer
) -> tuple[str, ...]:
    """Quantise the shortcut of every residual add in the supported blocks.

    Args:
        network: changed in place; no parameter changes its name.
        image_size: side of its input in pixels.
        make: creates a quantiser.

    Returns:
        The names of the quantisers, one per residual add that has one.
    """
    blocks = [block for _, block in network.named_modules()]
    placed = [one for block in blocks if (one := _place(block, make)) is not None]
    useful = _on_adds(network, image_size, [one.quantizer for one in placed])
    for one in placed:
        if id(one.quantizer) not in useful:
            one.undo()
    return tuple(name for name, _ in network.named_modules() if name.endswith(RESIDUAL))


def _place(block: torch.nn.Module, make: MakeQuantizer) -> _Placed | None:
    """Quantise the shortcut of a block; None where it has none, or is not supported."""
    attribute = next((at for kind, at in _SHORTCUTS.items() if isinstance(block, kind)), None)
    if attribute is None:
        if not isinstance(block, _SKIPS) or not block.has_skip:
            return None
        quantizer = make()
        return _Placed(quantizer, _take_over(block, quantizer))
    if getattr(block, attribute) is None and not isinstance(block, _ALWAYS):
        return None
    quantizer = make()
    return _Placed(quantizer, _behind(block, attribute, quantizer))


def _on_adds(
    network: torch.nn.Module, image_size: int, quantizers: list[torch.nn.Module]
) -> set[int]:
    """Find the quantisers (by id) on one input of exactly one add, whose other input has none."""
    owners: dict[int, int] = {}
    kept: list[torch.Tensor] = []

    def note(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        owners[id(output)] = id(module)
        kept.append(output)  # so that its id is not reused

    handles = [quantizer.register_forward_hook(note) for quantizer in quantizers]
    watcher = AddWatcher()
    try:
        with watcher:
            run_once(network, image_size)
    finally:
        for handle in handles:
            handle.remove()
    uses: Counter[int] = Counter()
    good: set[int] = set()
    for both in watcher.seen:
        known = [owners[id(side)] for side in both if id(side) in owners]
        uses.update(known)
        if len(known) == 1:
            good.add(known[0])
    return {one for one in good if uses[one] == 1}


def _take_over(block: torch.nn.Module, quantizer: torch.nn.Module) -> Undo:
    """Move the add of a block with `has_skip` into a subclass that quantises the shortcut."""
    block.has_skip = False  # type: ignore[assignment]
    undo = _mix_in(_QuantizedSkip, block, quantizer)

    def restore() -> None:
        undo()
        block.has_skip = True  # type: ignore[assignment]

    return restore


def _behind(block: torch.nn.Module, attribute: str, quantizer: torch.nn.Module) -> Undo:
    """Quantise the output of a block's `attribute` (None: the block's input, where it is added)."""
    shortcut = getattr(block, attribute)
    if isinstance(shortcut, torch.nn.Sequential):
        shortcut.add_module(RESIDUAL, quantizer)
        return lambda: delattr(shortcut, RESIDUAL)
    if shortcut is not None:
        return _mix_in(_QuantizedOutput, shortcut, quantizer)
    setattr(block, attribute, torch.nn.Sequential(OrderedDict({RESIDUAL: quantizer})))
    return lambda: setattr(block, attribute, None)


def _mix_in(
    kind: type[torch.nn.Module], module: torch.nn.Module, quantizer: torch.nn.Module
) -> Undo:
    """Change a module's class, as ModelOpt does with layers; no parameter changes its name."""
    setattr(module, RESIDUAL, quantizer)
    own = type(module)
    module.__class__ = type(f"Quant{own.__name__}", (kind, own), {})

    def restore() -> None:
        module.__class__ = own
        delattr(module, RESIDUAL)

    return restore

"""Constant padding in place of TensorFlow's "same" padding.

timm's `tf_*` networks, and some others, compute how far a layer pads its input from the size of
that input, in every forward pass.  Exported, each such layer is 20 nodes that compute shapes, and
a quantiser between them and the layer is of no use.  A student's input has one size, so each of
these paddings is a constant.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same_arg
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame

from .structure import run_once

SAME = (Conv2dSame, MaxPool2dSame, AvgPool2dSame)
"""timm's layers that compute their padding, each a plain layer of torch otherwise."""


def fix_padding(network: torch.nn.Module, image_size: int) -> int:
    """Make every computed padding constant, in place.

    The parameters keep their names and values.  The output stays the same for images of
    `image_size` and is wrong for others.  A layer that runs on inputs of several sizes stays as it
    is.

    Args:
        network: network of any kind; its mode stays unchanged.
        image_size: side of its input in pixels.

    Returns:
        The number of layers that were changed.
    """
    layers = {name: layer for name, layer in network.named_modules() if type(layer) in SAME}
    if not layers:
        return 0
    sizes: dict[str, set[tuple[int, int]]] = defaultdict(set)

    def note(name: str) -> Callable[..., None]:
        def before(_: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
            height, width = inputs[0].shape[-2:]
            sizes[name].add((int(height), int(width)))

        return before

    handles = [layer.register_forward_pre_hook(note(name)) for name, layer in layers.items()]
    try:
        run_once(network, image_size)
    finally:
        for handle in handles:
            handle.remove()
    fixed = {name: seen.pop() for name, seen in sizes.items() if len(seen) == 1}
    for name, size in fixed.items():
        _fix(network, name, layers[name], size)
    return len(fixed)


def _fix(network: torch.nn.Module, name: str, layer: Any, size: tuple[int, int]) -> None:
    """Replace a layer by torch's own one with the padding for inputs of `size` (height, width)."""
    kernel, stride = _pair(layer.kernel_size), _pair(layer.stride)
    dilation = _pair(getattr(layer, "dilation", 1))
    left, right, top, bottom = pad_same_arg(list(size), list(kernel), list(stride), list(dilation))
    padding = (left, right, top, bottom)
    if isinstance(layer, Conv2dSame):
        _pad_convolution(layer, padding)
        return
    pad: torch.nn.Module
    pool: torch.nn.Module
    if isinstance(layer, MaxPool2dSame):
        pad = torch.nn.ConstantPad2d(padding, -float("inf"))
        pool = torch.nn.MaxPool2d(kernel, stride, 0, dilation, ceil_mode=layer.ceil_mode)
    else:
        pad = torch.nn.ZeroPad2d(padding)
        pool = torch.nn.AvgPool2d(kernel, stride, 0, layer.ceil_mode, layer.count_include_pad)
    network.set_submodule(name, torch.nn.Sequential(pad, pool) if any(padding) else pool)


def _pad_convolution(layer: Any, padding: tuple[int, int, int, int]) -> None:
    """Turn a `Conv2dSame` into a `torch.nn.Conv2d`; padding: left, right, top, bottom.

    torch's convolution has one number per side pair.  For a padding mode other than "zeros" it
    calls `torch.nn.functional.pad` with the mode and four numbers, so the mode "constant" gives
    zeros, as many as wanted on each side.
    """
    left, right, top, bottom = padding
    layer.__class__ = torch.nn.Conv2d
    if left == right and top == bottom:
        layer.padding = (top, left)
    else:
        layer.padding_mode = "constant"
    layer._reversed_padding_repeated_twice = list(padding)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value

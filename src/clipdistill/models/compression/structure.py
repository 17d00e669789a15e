"""The structure of a network, observed in one run: layers, batch norms, residual adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.squeeze_excite import EffectiveSEModule, SEModule
from timm.models._efficientnet_blocks import SqueezeExcite
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LAYERS = (torch.nn.Conv2d, torch.nn.Linear)
"""Types of layers that are pruned and quantised."""
NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
GATES = (SqueezeExcite, SEModule, EffectiveSEModule)
"""Squeeze-and-excitation modules, which weight channels by pooled feature maps."""
PICTURES = 2
"""Images in the run; more than one, so that a batch is not mistaken for a broadcast."""

_ADDS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)


@dataclass(frozen=True)
class Layer:
    """A convolution or a linear layer.

    Attributes:
        name: name of the module.
        module: the module.
        macs: multiplications per image.
        gate: whether it is part of a squeeze-and-excitation.
        head: whether it is the projection into the teacher's space.
    """

    name: str
    module: torch.nn.Module
    macs: int
    gate: bool
    head: bool

    @property
    def weight(self) -> torch.nn.Parameter:
        """Weight of shape (out, in) or (out, in / groups, H, W)."""
        weight: torch.nn.Parameter = self.module.weight  # type: ignore[assignment]
        return weight


@dataclass(frozen=True)
class Structure:
    """The parts of a network that compression works on.

    Attributes:
        layers: layers in the order in which they ran.
        folds: (layer, batch norm) pairs of names where the norm, and nothing else, uses the layer's
            output.
        adds: number of residual adds: additions of two feature maps of one shape.
    """

    layers: tuple[Layer, ...]
    folds: tuple[tuple[str, str], ...]
    adds: int


def read_structure(network: torch.nn.Module, image_size: int) -> Structure:
    """Run the network once on noise and record its layers, norms and adds.

    Args:
        network: a timm network with a classifier; its mode and state stay unchanged.
        image_size: side of its input in pixels.
    """
    macs: dict[str, int] = {}
    runs: dict[str, int] = {}
    outputs: dict[int, tuple[str, torch.Tensor]] = {}
    folds: list[tuple[str, str, int]] = []

    def after_layer(name: str) -> Callable[..., None]:
        def note(module: torch.nn.Module, _: Any, output: torch.Tensor) -> None:
            weight = module.weight
            assert isinstance(weight, torch.Tensor)
            macs[name] = output.numel() // len(output) * weight[0].numel()
            runs[name] = runs.get(name, 0) + 1
            outputs[id(output)] = name, output  # kept, so that its id is not reused
            adds.uses.pop(id(output), None)  # of earlier tensors with this id

        return note

    def before_norm(name: str) -> Callable[..., None]:
        def note(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            runs[name] = runs.get(name, 0) + 1
            if id(inputs[0]) in outputs:
                folds.append((outputs[id(inputs[0])][0], name, id(inputs[0])))

        return note

    adds = AddWatcher()
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, LAYERS):
            handles.append(module.register_forward_hook(after_layer(name)))
        elif isinstance(module, NORMS) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(before_norm(name)))
    try:
        with adds:
            run_once(network, image_size)
    finally:
        for handle in handles:
            handle.remove()
    inside = _inside_gates(network)
    head = _head_name(network)
    layers = tuple(
        Layer(name, network.get_submodule(name), count, name in inside, name == head)
        for name, count in macs.items()
    )
    once = tuple(
        (layer, norm)
        for layer, norm, output in folds
        if runs[layer] == runs[norm] == adds.uses[output] == 1
    )
    return Structure(layers, once, len(adds.seen))


class AddWatcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the adds of two feature maps: tensors of one shape with a batch and positions.

    Attributes:
        seen: inputs of every such add.
        uses: number of operations that used a tensor, by its id; ids of freed tensors are reused.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.uses: Counter[int] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        used = {id(value) for value in tree_leaves((args, kwargs)) if torch.is_tensor(value)}
        self.uses.update(used)
        if func in _ADDS and all(torch.is_tensor(value) for value in args[:2]):
            first, second = args[:2]
            if first.shape == second.shape and first.ndim >= 3 and len(first) == PICTURES:
                self.seen.append((first, second))
        return func(*args, **(kwargs or {}))


def run_once(network: torch.nn.Module, image_size: int) -> torch.Tensor:
    """Run the network in eval mode on seeded noise; returns (2, D) in the weights' dtype."""
    example = next(network.parameters())
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(PICTURES, 3, image_size, image_size, generator=generator)
    with evaluating(network), torch.no_grad():
        output: torch.Tensor = network(noise.to(example))
    return output


@contextmanager
def evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Put the network into eval mode, and restore each module's mode at the end."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _inside_gates(network: torch.nn.Module) -> set[str]:
    return {
        f"{name}.{inner}"
        for name, module in network.named_modules()
        if isinstance(module, GATES)
        for inner, _ in module.named_modules()
    }


def _head_name(network: torch.nn.Module) -> str:
    """Name of timm's classifier, which is the projection into the teacher's space."""
    head = network.get_classifier()  # type: ignore[operator]
    return next((name for name, module in network.named_modules() if module is head), "")

"""TensorFlow's "same" padding made constant: the same weights give the same output."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame

from clipdistill.models.architecture import build_student
from clipdistill.models.compression.padding import SAME, fix_padding
from clipdistill.models.compression.structure import evaluating
from conftest import spread


def embed(network: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    with evaluating(network), torch.inference_mode():
        return network(pixels)


@pytest.mark.parametrize("size", [64, 65, 75])
@pytest.mark.parametrize(
    "arch", ["tf_efficientnet_lite0", "tf_mobilenetv3_small_minimal_100", "tf_mixnet_s"]
)
def test_the_output_and_the_names_of_the_weights_stay(arch: str, size: int) -> None:
    torch.manual_seed(0)
    before = build_student(arch, 16, image_size=size)
    spread(before, size)
    after = copy.deepcopy(before)
    count = sum(type(module) in SAME for module in before.modules())
    assert fix_padding(after, size) == count > 2
    assert not any(type(module) in SAME for module in after.modules())
    pixels = torch.randn(3, 3, size, size)
    expected = embed(before, pixels)
    assert float(expected.std(0).min()) > 0.05  # it does tell images apart
    assert torch.allclose(embed(after, pixels), expected, atol=1e-5)
    assert list(after.state_dict()) == list(before.state_dict())
    build_student(arch, 16, image_size=size).load_state_dict(after.state_dict())
    assert fix_padding(after, size) == 0


class Pools(torch.nn.Module):
    """One convolution and both kinds of pools, the convolution also on a smaller input."""

    def __init__(self, *, twice: bool = False) -> None:
        super().__init__()
        self.conv = Conv2dSame(3, 3, 3, stride=2)
        self.largest = MaxPool2dSame(3, stride=2)
        self.mean = AvgPool2dSame(2, stride=2)
        self.twice = twice

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x) - 5.0  # all negative: a padding with zeros would win
        if self.twice:
            x = self.conv(x)
        return self.mean(self.largest(x)).flatten(1)


@pytest.mark.parametrize("size", [16, 17, 19, 21])
def test_pools_pad_with_what_they_padded_with(size: int) -> None:
    before = Pools()
    after = copy.deepcopy(before)
    assert fix_padding(after, size) == 3
    pixels = torch.randn(2, 3, size, size)
    assert torch.allclose(embed(after, pixels), embed(before, pixels), atol=1e-5)


def test_a_layer_that_runs_at_two_sizes_stays() -> None:
    network = Pools(twice=True)
    assert fix_padding(network, 32) == 2
    assert isinstance(network.conv, Conv2dSame)

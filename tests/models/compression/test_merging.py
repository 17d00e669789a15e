"""Merged branches and computed standardised weights: fewer layers, the same output."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from timm.layers.std_conv import StdConv2d, StdConv2dSame

from clipdistill.formats.cards import Compression
from clipdistill.models.architecture import build_student
from clipdistill.models.compression import Compressed, add_sparsity, rebuild
from clipdistill.models.compression.merging import merge
from clipdistill.models.compression.sparsity import found_sparsity, prune
from clipdistill.models.compression.structure import evaluating, read_structure
from conftest import spread

SIZE = 64
FAMILIES = {  # convolutions and linear layers that run: before and after
    "mobileone_s0": "fewer",
    "repvgg_a0": "fewer",
    "repghostnet_050": "equal",  # its branches are batch norms
    "repvit_m0_9": "fewer",
    "fastvit_t8": "fewer",
    "levit_128s": "equal",
    "nf_resnet26": "equal",
}


def build(arch: str, size: int = SIZE) -> torch.nn.Module:
    torch.manual_seed(0)
    network = build_student(arch, 16, image_size=size)
    spread(network, size)
    return network


def embed(network: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    with evaluating(network), torch.inference_mode():
        return network(pixels)


@pytest.mark.parametrize("arch", FAMILIES)
def test_the_merged_network_computes_the_same_with_fewer_or_plainer_layers(arch: str) -> None:
    size = 224 if arch.startswith("levit") else SIZE
    before = build(arch, size)
    merged = copy.deepcopy(before)
    assert merge(merged, size)
    pixels = torch.randn(3, 3, size, size)
    expected = embed(before, pixels)
    assert float(expected.std(0).min()) > 0.01  # it does tell images apart
    largest = float(expected.abs().max())
    assert torch.allclose(embed(merged, pixels), expected, atol=1e-4 * largest)
    counts = [len(read_structure(network, size).layers) for network in (before, merged)]
    assert counts[1] < counts[0] if FAMILIES[arch] == "fewer" else counts[1] == counts[0]
    assert sum(p.numel() for p in merged.parameters()) <= sum(
        p.numel() for p in before.parameters()
    )
    assert all(parameter.requires_grad for parameter in merged.parameters())
    assert not merge(merged, size)
    again = rebuild(arch, 16, size, Compression(merged=True))
    again.load_state_dict(merged.state_dict())
    assert torch.equal(embed(again, pixels), embed(merged, pixels))


@pytest.mark.parametrize("kind", [StdConv2d, StdConv2dSame])
def test_standardised_weights_are_stored(kind: type[torch.nn.Module]) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(kind(3, 8, 3, stride=2))
    pixels = torch.randn(2, 3, 17, 17)
    expected = embed(network, pixels)
    assert merge(network, 17)
    assert isinstance(network[0], torch.nn.Conv2d)
    assert not isinstance(network[0], kind)
    assert torch.allclose(embed(network, pixels), expected, atol=1e-5)
    assert list(network.state_dict()) == ["0.weight"]


def test_a_plain_network_stays_as_it_is() -> None:
    network = build("resnet10t")
    names = list(network.state_dict())
    assert not merge(network, SIZE)
    assert list(network.state_dict()) == names


def test_a_merging_that_changes_the_output_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.models.byobnet import MobileOneBlock

    real = MobileOneBlock.reparameterize

    def wrong(self) -> None:
        real(self)
        self.reparam_conv.bias.data += 1.0

    monkeypatch.setattr(MobileOneBlock, "reparameterize", wrong)
    network = build("mobileone_s0")
    names = list(network.state_dict())
    assert not merge(network, SIZE)
    assert list(network.state_dict()) == names


@pytest.mark.parametrize(
    ("arch", "merged"), [("mobileone_s0", True), ("nf_resnet26", True), ("resnet10t", False)]
)
def test_branches_are_merged_before_pruning_where_they_would_fill_the_zeros(
    arch: str, merged: bool
) -> None:
    done = add_sparsity(Compressed(build(arch)), SIZE)
    assert done.compression.merged == merged
    sparse = done.compression.sparse
    assert sparse is not None
    assert found_sparsity(done.network, SIZE) == replace(sparse, method="found")
    shown = torch.randn(16, 3, SIZE, SIZE)
    better = add_sparsity(Compressed(build(arch)), SIZE, lambda: shown.split(8))
    assert better.compression.merged == merged
    assert found_sparsity(better.network, SIZE) == replace(sparse, method="found")
    again = rebuild(arch, 16, SIZE, Compression.from_json(done.compression.to_json()))
    again.load_state_dict(done.network.state_dict())
    pixels = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(embed(again, pixels), embed(done.network, pixels))
    late = build(arch)
    prune(late, SIZE)
    assert (merge(late, SIZE) and found_sparsity(late, SIZE) is None) == merged

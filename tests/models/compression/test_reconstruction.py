"""Pruning to 2:4 with compensation: the weights that stay take over what the others did."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdistill.models.compression import reconstruction as owner
from clipdistill.models.compression.reconstruction import compensated
from clipdistill.models.compression.sparsity import is_sparse, mask_of, prune
from clipdistill.models.student import build_student
from conftest import spread

SIZE = 32


def moments_of(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.T.double() @ inputs.double() / len(inputs)


def correlated(count: int, width: int, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randn(count, width // 2) @ torch.randn(width // 2, width) + torch.randn(width)


def momenta(network: torch.nn.Module) -> list[float | None]:
    return [one.momentum for one in network.modules() if hasattr(one, "running_mean")]


def loss(weights: torch.Tensor, other: torch.Tensor, inputs: torch.Tensor) -> float:
    return float((inputs.double() @ (weights.double() - other.double()).T).square().mean())


@given(st.integers(2, 6), st.integers(20, 40), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_outputs_change_less_than_by_taking_the_smallest(out, groups, seed):
    inputs = correlated(500, 4 * groups, seed)
    weights = torch.randn(out, 4 * groups)
    pruned, kept = compensated(weights, moments_of(inputs))
    assert is_sparse(pruned)
    assert torch.equal(pruned, pruned * kept)
    assert int(kept.sum()) * 2 == kept.numel()
    smallest = loss(weights, weights * mask_of(weights), inputs)
    assert loss(weights, pruned, inputs) < 0.9 * smallest


def test_one_group_by_hand():
    # x2 = x0 and x3 = -2 x1: the sums 1 + 3 and 2 - 2 · 0.5 are what counts.
    inputs = torch.randn(1000, 2)
    inputs = torch.stack([inputs[:, 0], inputs[:, 1], inputs[:, 0], -2 * inputs[:, 1]], dim=1)
    pruned, kept = compensated(torch.tensor([[1.0, 2.0, 3.0, 0.5]]), moments_of(inputs))
    assert kept[0, [0, 2]].sum() == kept[0, [1, 3]].sum() == 1
    assert float(pruned[0, 0] + pruned[0, 2]) == pytest.approx(4, abs=0.05)
    assert float(pruned[0, 1] - 2 * pruned[0, 3]) == pytest.approx(1, abs=0.05)


def test_blocks_of_columns_change_nothing(monkeypatch):
    moments, weights = moments_of(correlated(400, 64, 1)), torch.randn(5, 64)
    whole, kept = compensated(weights, moments)
    for size in (4, 20):
        monkeypatch.setattr(owner, "BLOCK", size)
        found, mask = compensated(weights, moments)
        assert torch.equal(mask, kept)
        assert torch.allclose(found, whole, atol=1e-10)


def test_weights_that_are_two_four_stay_and_inputs_that_are_zero_do_no_harm():
    weights = torch.randn(3, 16)
    weights *= mask_of(weights)
    pruned, kept = compensated(weights, moments_of(correlated(300, 16, 2)))
    assert torch.equal(pruned, weights.double())
    assert torch.equal(kept, weights != 0)
    for width in (8, 16):
        silent = correlated(300, 16, 2)
        silent[:, :width] = 0
        found, _ = compensated(torch.randn(3, 16), moments_of(silent))
        assert found.isfinite().all()


@pytest.mark.parametrize("arch", ["test_resnet", "test_convnext", "test_vit"])
def test_a_network_stays_nearer_to_what_it_was(arch):
    torch.manual_seed(0)
    network = build_student(arch, 16, image_size=SIZE)
    spread(network, SIZE)
    network.eval()
    torch.manual_seed(3)
    images = torch.randn(96, 3, SIZE, SIZE)
    owner._estimate_norms(network, images.split(32))  # as a trained network's are
    plain, better = copy.deepcopy(network), copy.deepcopy(network)
    prune(plain, SIZE)
    facts, masks = prune(better, SIZE, lambda: images.split(32))
    assert facts.method == "compensated"
    for layer in facts.layers:
        weight = better.get_parameter(f"{layer}.weight")
        assert is_sparse(weight)
        assert not weight[~masks[f"{layer}.weight"]].any()
    assert not better.training
    assert momenta(better) == momenta(network)
    with torch.no_grad():
        wanted, worse, near = (one(images) for one in (network, plain, better))
    assert (near - wanted).square().mean() < (worse - wanted).square().mean()


@pytest.mark.parametrize(("limit", "value"), [("LARGEST", 100), ("SEEN", 10_000)])
def test_a_layer_that_is_too_wide_or_hardly_seen_is_pruned_by_size(monkeypatch, limit, value):
    monkeypatch.setattr(owner, limit, value)
    torch.manual_seed(0)
    network = build_student("test_resnet", 16, image_size=SIZE).eval()
    dense = network.get_parameter("layer4.0.conv1.weight").detach().clone()
    facts, _ = prune(network, SIZE, lambda: torch.randn(8, 3, SIZE, SIZE).split(4))
    assert "layer4.0.conv1" in facts.layers
    assert torch.equal(network.get_parameter("layer4.0.conv1.weight"), dense * mask_of(dense))


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 2, 0), (3, 1, 1), (3, 2, 1)])
def test_the_inputs_are_those_of_the_convolution(kernel, stride, padding):
    layer = torch.nn.Conv2d(8, 5, kernel, stride, padding, bias=False)
    images = torch.randn(3, 8, 6, 6)
    columns = torch.cat(list(owner._inputs(layer, images)))
    outputs = columns @ owner._as_columns(layer.weight).T
    assert torch.allclose(outputs, layer(images).permute(0, 2, 3, 1).reshape(-1, 5), atol=1e-5)
    assert torch.equal(
        owner._as_weight(owner._as_columns(layer.weight), layer.weight), layer.weight
    )

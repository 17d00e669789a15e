"""2:4 sparsity: the pattern, which layers get it, and that nothing brings a zero back."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.utils.model_ema import ModelEmaV3

from clipdistill.distillation.optimizer import make_optimizer
from clipdistill.distillation.options import DistillOptions
from clipdistill.models.compression.sparsity import (
    found_sparsity,
    hold,
    hold_gradients,
    is_sparse,
    mask_of,
    masks_of,
    prune,
)
from clipdistill.models.compression.structure import read_structure, run_once
from clipdistill.models.student import build_student
from conftest import spread

SIZE = 32


def build(arch: str, size: int = SIZE) -> torch.nn.Module:
    torch.manual_seed(0)
    network = build_student(arch, 16, image_size=size)
    spread(network, size)
    return network


def test_the_mask_by_hand():
    weight = torch.tensor(
        [[1.0, -3.0, 2.0, 0.5, 0.0, 0.0, 0.0, 0.0], [4.0, 3.0, -2.0, 1.0, -1.0, 1.0, 1.0, -1.0]]
    )
    expected = [[0, 1, 1, 0, 1, 1, 0, 0], [1, 1, 0, 0, 1, 1, 0, 0]]
    assert mask_of(weight).int().tolist() == expected


def test_groups_run_along_the_input_channels_at_each_position_of_the_kernel():
    weight = torch.zeros(1, 8, 1, 2)
    weight[0, :4, 0, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    weight[0, :4, 0, 1] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    mask = mask_of(weight)
    assert mask.shape == weight.shape
    assert mask[0, :4, 0, 0].tolist() == [False, False, True, True]
    assert mask[0, :4, 0, 1].tolist() == [True, True, False, False]


@given(
    st.integers(1, 5), st.integers(1, 4), st.sampled_from([(), (1, 1), (3, 2)]), st.integers(0, 99)
)
@settings(max_examples=40, deadline=None)
def test_two_of_four_stay_and_they_are_the_best_two(out, groups, kernel, seed):
    torch.manual_seed(seed)
    weight = torch.randn(out, 4 * groups, *kernel)
    mask = mask_of(weight)
    assert is_sparse(weight * mask)
    assert not is_sparse(weight)
    flat = (weight.abs() * mask).movedim(1, -1).reshape(-1, 4).sum(1)
    whole = weight.abs().movedim(1, -1).reshape(-1, 4)
    best = torch.stack([whole[:, pair].sum(1) for pair in itertools.combinations(range(4), 2)])
    assert torch.allclose(flat, best.max(0).values)
    assert int(mask.sum()) * 2 == mask.numel()


@pytest.mark.parametrize("shape", [(8, 16), (16, 32, 3, 3), (8, 16, 1, 1)])
def test_the_mask_is_that_of_modelopts_magnitude_sparsifier(shape):
    pytest.importorskip("modelopt")
    pytest.importorskip("requests")
    from modelopt.torch.sparsity.weight_sparsity.magnitude import create_asp_mask

    torch.manual_seed(1)
    weight = torch.randn(shape)
    assert torch.equal(mask_of(weight), create_asp_mask(weight, "2:4 sparsity"))


FAMILIES = {  # layers that are pruned, of how many; (a reason for) one that is not
    "resnet10t": (12, 15, ("conv1.0", "3 input channels")),
    "resnet18": (19, 21, ("fc", "embedding head")),
    "mobilenetv3_small_100": (28, 54, ("blocks.0.0.conv_dw", "16 groups")),
    "efficientnet_lite0": (28, 50, ("blocks.1.1.conv_pw", "24 input channels")),
    "test_convnext": (19, 32, ("stem.0", "3 input channels")),
    "regnetx_002": (15, 45, ("s1.b1.conv1.conv", None)),
    "mobilenetv4_conv_small": (30, 47, ("conv_stem", "3 input channels")),
    "test_vit": (None, None, ("head", "embedding head")),
}


@pytest.mark.parametrize("arch", FAMILIES)
def test_every_layer_that_hardware_can_use_and_no_other(arch):
    count, of, (name, reason) = FAMILIES[arch]
    network = build(arch)
    dense = {key: value.clone() for key, value in network.state_dict().items()}
    facts, masks = prune(network, SIZE)
    skipped = dict(facts.skipped)
    if count is not None:
        assert (len(facts.layers), len(facts.layers) + len(skipped)) == (count, of)
    if reason is not None:
        assert reason in skipped[name]
    assert set(masks) == {f"{layer}.weight" for layer in facts.layers}
    for key, value in network.state_dict().items():
        if key in masks:
            assert is_sparse(value), key
            assert value.count_nonzero() * 2 == value.numel()
            assert value.shape[1] % 16 == value.shape[0] % 8 == 0
            assert network.get_submodule(key.removesuffix(".weight")).__dict__.get("groups", 1) == 1
        assert torch.equal(value, dense[key] * masks[key] if key in masks else dense[key])
    head = network.get_classifier()
    assert all(network.get_submodule(layer) is not head for layer in facts.layers)


def test_the_shares_by_hand():
    network = build("test_resnet", 64)
    facts, _ = prune(network, 64)
    shapes = {
        name: dict(network.named_parameters())[f"{name}.weight"].shape for name in facts.layers
    }
    weights = sum(shape.numel() for shape in shapes.values())
    assert facts.weights_share == pytest.approx(
        weights / sum(p.numel() for p in network.parameters())
    )
    macs = {layer.name: layer.macs for layer in read_structure(network, 64).layers}
    first = network.get_submodule("conv1.0")
    assert macs["conv1.0"] == first.weight.numel() * 32 * 32  # stride 2
    assert facts.macs_share == pytest.approx(
        sum(macs[name] for name in facts.layers) / sum(macs.values())
    )
    assert 0.9 < facts.macs_share < 1


def test_pruning_again_changes_nothing_and_the_weights_tell():
    network = build("test_resnet")
    assert found_sparsity(network, SIZE) is None
    facts, masks = prune(network, SIZE)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert found_sparsity(network, SIZE) == replace(facts, method="found")
    found = masks_of(network, facts)
    assert all(torch.equal(found[name], masks[name]) for name in masks)
    again, _ = prune(network, SIZE)
    assert again == facts
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    network.get_parameter("layer1.0.conv1.weight").data += 1
    assert found_sparsity(network, SIZE) is None


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adam", "sgd"])
def test_zeros_stay_through_steps_momentum_decay_and_the_moving_average(optimizer):
    network = build("test_resnet").train()
    recipe = DistillOptions(optimizer=optimizer, lr=0.05, momentum=0.9, weight_decay=0.1)
    stepper = make_optimizer(network, recipe)
    _, masks = prune(network, SIZE)
    average = ModelEmaV3(network, decay=0.9)
    torch.manual_seed(0)
    for _ in range(3):
        stepper.zero_grad()
        network(torch.randn(4, 3, SIZE, SIZE)).square().mean().backward()
        hold_gradients(network, masks)
        for name, mask in masks.items():
            assert not network.get_parameter(name).grad[~mask].any()
        stepper.step()
        hold(network, masks)
        average.update(network)
        hold(average.module, masks)
    for name, mask in masks.items():
        assert not network.get_parameter(name)[~mask].any()
        assert network.get_parameter(name)[mask].all()
        assert is_sparse(average.module.get_parameter(name))


def test_reading_the_structure_leaves_the_network_alone():
    network = build("test_resnet").train()
    network.layer1.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    structure = read_structure(network, SIZE)
    assert structure.adds == 4
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training
    assert not network.layer1.training
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in network.modules()
    )
    assert torch.equal(run_once(network, SIZE), run_once(network, SIZE))

"""INT8: folding, places of quantisers, residual adds, ranges, and rebuilding."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from clipdistill.core.errors import ClipDistillError, InputError, MismatchError, MissingExtraError
from clipdistill.formats.cards import Compression
from clipdistill.models.architecture import build_student
from clipdistill.models.compression import Compressed, add_int8, add_sparsity, describe, rebuild
from clipdistill.models.compression.folding import fold
from clipdistill.models.compression.quantization import SMALLEST_RANGE, calibrate, insert_quantizers
from clipdistill.models.compression.sparsity import is_sparse
from clipdistill.models.compression.structure import evaluating, read_structure, run_once
from conftest import draw_picture, spread

pytest.importorskip("modelopt")
pytest.importorskip("requests")

SIZE = 64

FAMILIES = {  # layers that are quantised, residual adds, batch norms that are folded
    "test_resnet": (15, 4, 15),
    "resnet10t": (14, 4, 14),
    "resnet18": (20, 8, 20),
    "seresnet18": (20, 8, 20),
    "mobilenetv3_small_100": (35, 6, 34),
    "efficientnet_lite0": (49, 9, 49),
    "test_convnext": (31, 9, 0),
    "regnetx_002": (44, 13, 44),
    "regnety_002": (44, 13, 44),
    "mobilenetv4_conv_small": (46, 10, 46),
    "tf_efficientnet_lite0": (49, 9, 49),
}


def build(arch: str, size: int = SIZE) -> torch.nn.Module:
    torch.manual_seed(0)
    network = build_student(arch, 16, image_size=size)
    spread(network, size)
    return network


def pictures(n: int, size: int = SIZE, seed: int = 500) -> torch.Tensor:
    drawn = [np.asarray(draw_picture(seed + i, (size, size)), np.float32) for i in range(n)]
    return torch.from_numpy(np.stack(drawn) / 128 - 1).permute(0, 3, 1, 2)


def embed(network: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    with evaluating(network), torch.inference_mode():
        return network(pixels)


def cosine(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(mine, theirs, dim=-1).min())


def quantizers(network: torch.nn.Module) -> dict[str, torch.nn.Module]:
    from modelopt.torch.quantization.nn import TensorQuantizer

    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, TensorQuantizer) and module.is_enabled
    }


class Adds(TorchFunctionMode):
    """Notes the inputs of adds in Python, as `_on_adds` notes them below it."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("add", "__add__", "__radd__", "__iadd__", "add_"):
            both = [value for value in args[:2] if torch.is_tensor(value)]
            if len(both) == 2 and both[0].shape == both[1].shape and both[0].ndim == 4:
                self.inputs.append(tuple(both))
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def int8() -> dict[str, tuple[torch.nn.Module, Compressed, torch.Tensor]]:
    """Per family: the network before (folded or not), after, and some pictures."""
    made = {}
    for arch in FAMILIES:
        dense = build(arch)
        done = add_int8(Compressed(copy.deepcopy(dense)), SIZE, arch, [pictures(16)], 16, "max")
        made[arch] = (dense, done)
    return made


@pytest.mark.parametrize("arch", FAMILIES)
def test_the_quantisers_are_those_that_were_planned(int8, arch):
    layers, residuals, _ = FAMILIES[arch]
    dense, done = int8[arch]
    facts = done.compression.int8
    found = quantizers(done.network)
    assert (len(facts.layers), len(facts.residuals), len(facts.folded)) == FAMILIES[arch]
    assert len(found) == facts.quantizers == 2 * layers + residuals
    assert set(facts.residuals) <= set(found)
    head = next(
        name
        for name, module in done.network.named_modules()
        if module is done.network.get_classifier()
    )
    assert dict(facts.skipped)[head] == "the embedding head"
    everything = [
        name
        for name, module in dense.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    ]
    assert sorted(everything) == sorted([*facts.layers, *dict(facts.skipped)])
    for name, quantizer in found.items():
        assert not name.endswith("output_quantizer")
        assert quantizer.num_bits == 8
        assert not quantizer.unsigned
        per_channel = name.endswith("weight_quantizer")
        assert (quantizer.axis == 0) == per_channel
        weight = done.network.get_submodule(name.rpartition(".")[0]).weight if per_channel else None
        assert quantizer.amax.numel() == (len(weight) if per_channel else 1)
        assert quantizer.amax.dtype == torch.float32


@pytest.mark.parametrize("arch", FAMILIES)
def test_of_every_residual_add_exactly_one_input_is_quantised(int8, arch):
    dense, done = int8[arch]
    network = done.network
    outputs: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(
            lambda _, inputs, output, name=name: outputs.__setitem__(name, output)
        )
        for name, module in quantizers(network).items()
    ]
    with Adds() as adds:
        embed(network, pictures(2))
    for handle in handles:
        handle.remove()
    names = {id(output): name for name, output in outputs.items()}
    quantised = [[names.get(id(one)) for one in both] for both in adds.inputs]
    residuals = done.compression.int8.residuals
    assert len(quantised) == len(residuals) == read_structure(dense, SIZE).adds
    for both in quantised:
        assert sum(name is not None for name in both) == 1, both
    assert sorted(next(filter(None, both)) for both in quantised) == sorted(residuals)


@pytest.mark.parametrize("arch", FAMILIES)
def test_a_shortcut_is_rounded_to_256_steps(int8, arch):
    _, done = int8[arch]
    values = []
    shortcuts = [done.network.get_submodule(name) for name in done.compression.int8.residuals]
    handles = [
        module.register_forward_hook(lambda m, _, output: values.append((m, output)))
        for module in shortcuts
    ]
    embed(done.network, pictures(2))
    for handle in handles:
        handle.remove()
    assert len(values) == len(shortcuts)
    for module, output in values:
        steps = output / (module.amax / 127)
        assert torch.allclose(steps, steps.round(), atol=1e-3)
        assert output.unique().numel() > 8


@pytest.mark.parametrize("arch", [arch for arch, (_, _, folded) in FAMILIES.items() if folded])
def test_folding_changes_nothing_but_the_batch_norms(arch):
    dense = build(arch)
    folded = copy.deepcopy(dense)
    names = fold(folded, SIZE)
    assert len(names) == FAMILIES[arch][2]
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    expected = embed(dense, pictures(4))
    assert expected.std(0).min() > 0.05  # it does tell pictures apart
    assert cosine(embed(folded, pictures(4)), expected) > 0.99999
    weights = set(dense.state_dict())
    gone = ("running_mean", "running_var", "num_batches_tracked")
    kept = {name for name in weights if name.rpartition(".")[0] not in names}
    assert kept <= set(folded.state_dict())
    assert not any(name.endswith(gone) for name in folded.state_dict())


class Odd(torch.nn.Module):
    """What makes folding wrong or ModelOpt blind: see its tests."""

    def __init__(self, *, before: bool = False, twice: bool = False) -> None:
        super().__init__()
        self.first = torch.nn.BatchNorm2d(3) if before else torch.nn.Identity()
        self.visual = torch.nn.Conv2d(3, 16, 3, bias=False)
        self.norm = torch.nn.BatchNorm2d(16)
        self.vision_model = torch.nn.Conv2d(16, 16, 1)
        self.twice = twice
        self.fc = torch.nn.Linear(16, 16)
        torch.nn.init.uniform_(self.norm.weight, 0.5, 2.0)
        torch.nn.init.uniform_(self.norm.running_mean, -1.0, 1.0)

    def get_classifier(self) -> torch.nn.Module:
        return self.fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.visual(self.first(x))
        y = self.norm(x)
        y = self.vision_model(torch.cat([x, y]) if self.twice else y)
        return self.fc(y.mean((2, 3)))


def test_a_batch_norm_before_a_convolution_stays():
    network = Odd(before=True)
    assert fold(network, 16) == ("norm",)
    assert isinstance(network.first, torch.nn.BatchNorm2d)


def test_a_batch_norm_stays_where_the_layers_output_is_used_elsewhere_too():
    network = Odd(twice=True)
    before = embed(network.eval(), torch.ones(2, 3, 16, 16))
    assert fold(network, 16) == ()
    assert torch.equal(embed(network, torch.ones(2, 3, 16, 16)), before)


def test_folding_is_judged_without_the_rounding_that_a_network_amplifies():
    network = Odd()
    network.vision_model.weight.data *= 1e7  # two large outputs whose difference is what is left
    network.vision_model.weight.data[8:] = network.vision_model.weight.data[:8]
    network.fc.weight.data[:, 8:] = -network.fc.weight.data[:, :8]
    network.vision_model.bias.data[8:] = network.vision_model.bias.data[:8] + 1
    assert fold(network, 16) == ("norm",)


def test_names_that_modelopt_skips_are_quantised_as_well():
    network = Odd()
    facts = insert_quantizers(network, 16, "odd")
    assert facts.layers == ("visual", "vision_model")
    assert set(quantizers(network)) == {
        f"{layer}.{kind}_quantizer" for layer in facts.layers for kind in ("input", "weight")
    }


def test_a_quantiser_too_few_or_too_many_is_an_error(monkeypatch):
    from clipdistill.models.compression import quantization

    real = quantization._convert

    def forgetful(tools, layer):
        real(tools, layer)
        if layer.name == "layer1.0.conv1":
            layer.module.input_quantizer.disable()

    monkeypatch.setattr(quantization, "_convert", forgetful)
    with pytest.raises(
        ClipDistillError, match=r"34 quantisers were planned, 33 .*layer1\.0\.conv1"
    ):
        insert_quantizers(build("test_resnet"), SIZE, "test_resnet")


OTHERS = {  # size, layers that are quantised, adds that are and are not, least cosine
    "test_vit": (48, 25, 0, 12, 0.99),
    "edgenext_xx_small": (64, 50, 0, 19, 0.99),
    "starnet_s1": (64, 80, 0, 15, 0.97),
    "fastvit_t8": (64, 50, 0, 10, 0.97),
    # Random weights amplify what is rounded: an efficientnet_lite0 has 0.87.
    "hgnetv2_b0": (64, 43, 0, 1, 0.9),
    "ghostnet_100": (64, 81, 0, 16, 0.9),
    "efficientvit_b0": (64, 51, 0, 11, 0.9),
    "mobilevit_xxs": (64, 71, 0, 3, 0.9),
    "repvgg_a0": (64, 22, 0, 0, 0.8),
}


def settled(arch: str, size: int) -> torch.nn.Module:
    """A random network whose batch norms have the statistics of some pictures."""
    torch.manual_seed(0)
    network = build_student(arch, 64, image_size=size)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            if not module.weight.any():  # the end of a residual branch
                module.weight.data.fill_(0.5)
    network.train()
    with torch.no_grad():
        network(pictures(64, size))
    return network.eval()


@pytest.mark.parametrize("arch", OTHERS)
def test_adds_of_other_blocks_stay_in_float(arch):
    size, layers, quantised, in_float, least = OTHERS[arch]
    dense = settled(arch, size)
    shown = pictures(16, size)
    done = add_int8(Compressed(copy.deepcopy(dense)), size, arch, [shown], 16, "percentile")
    facts = done.compression.int8
    counts = (len(facts.layers), len(facts.residuals), facts.float_adds)
    assert counts == (layers, quantised, in_float)
    assert len(quantizers(done.network)) == facts.quantizers == 2 * layers + quantised
    expected, found = (embed(one, pictures(8, size)) for one in (dense, done.network))
    between = torch.nn.functional.cosine_similarity(expected[:4], expected[4:], dim=-1)
    assert between.mean() < 0.95, "it answers alike to everything: nothing is compared"
    assert torch.nn.functional.cosine_similarity(found, expected, dim=-1).mean() > least
    again = rebuild(arch, 64, size, Compression.from_json(done.compression.to_json()))
    again.load_state_dict(done.network.state_dict())
    assert torch.equal(embed(again, shown), embed(done.network, shown))


def test_a_quantiser_that_reaches_no_add_is_taken_out(monkeypatch):
    from timm.models.resnet import BasicBlock

    network = build("test_resnet")
    monkeypatch.setattr(network.layer1[0], "forward", lambda x: x * 1.0)
    facts = insert_quantizers(network, SIZE, "test_resnet")
    assert len(facts.residuals) == 3
    assert isinstance(network.layer1[0], BasicBlock)
    assert not any(name.startswith("layer1.0.downsample") for name in facts.residuals)


def test_a_network_without_a_layer_for_int8_is_refused():
    network = build_student("test_resnet", 16)
    for name, module in list(network.named_modules()):
        if isinstance(module, torch.nn.Conv2d):
            network.set_submodule(name, torch.nn.AvgPool2d(1))
    network.forward = lambda x: network.fc(torch.zeros(len(x), network.fc.in_features))
    with pytest.raises(InputError, match="none of its layers can be INT8"):
        insert_quantizers(network, SIZE, "test_resnet")


def test_the_input_is_rounded_as_int8_hardware_does():
    network = build("test_resnet")
    done = add_int8(Compressed(network), SIZE, "test_resnet", [pictures(8)], 8, "max")
    layer = done.network.get_submodule("layer1.0.conv1")
    seen = []
    handle = layer.register_forward_hook(  # (what follows works in place)
        lambda _, inputs, output: seen.append((inputs[0], output.clone()))
    )
    embed(done.network, pictures(2))
    handle.remove()
    [(x, y)] = seen
    weight_scale = layer.weight_quantizer.amax / 127
    input_scale = layer.input_quantizer.amax / 127
    w = (layer.weight / weight_scale).round().clamp(-128, 127)
    q = (x / input_scale).round().clamp(-128, 127)
    whole = torch.nn.functional.conv2d(q, w, None, layer.stride, layer.padding)
    expected = whole * (input_scale * weight_scale.reshape(1, -1, 1, 1))
    expected = expected + layer.bias.reshape(1, -1, 1, 1)
    assert torch.allclose(y, expected, atol=1e-4 * float(y.abs().max()))


@pytest.mark.parametrize("method", ["max", "percentile", "entropy"])
def test_every_calibration_gives_ranges_within_what_was_seen(method):
    network = build("test_resnet")
    insert_quantizers(network, SIZE, "test_resnet")
    calibrate(network, [pictures(8), pictures(8, seed=900)], "max")
    largest = {name: one.amax.clone() for name, one in quantizers(network).items()}
    dense = build("test_resnet")
    calibrate(network, [pictures(8), pictures(8, seed=900)], method)
    for name, one in quantizers(network).items():
        assert torch.isfinite(one.amax).all()
        assert (one.amax > 0).all()
        if name.endswith("weight_quantizer"):
            layer = network.get_submodule(name.rpartition(".")[0])
            assert torch.equal(one.amax.flatten(), layer.weight.abs().flatten(1).amax(1))
        else:
            assert one.amax <= largest[name] * 1.001
    changed = any(
        not torch.equal(one.amax, largest[name]) for name, one in quantizers(network).items()
    )
    assert changed == (method != "max")
    assert cosine(embed(network, pictures(4)), embed(dense, pictures(4))) > 0.9


def test_a_channel_of_zeros_gets_no_scale_of_zero():
    # timm's ResNets begin with batch norms of weight 0 at the end of each block.
    torch.manual_seed(0)
    network = build_student("resnet10t", 16)
    assert not network.layer1[0].bn2.weight.any()
    done = add_int8(Compressed(network), SIZE, "resnet10t", [pictures(4)], 4, "max")
    ranges = done.network.get_submodule("layer1.0.conv2.weight_quantizer").amax
    assert float(ranges.min()) == pytest.approx(SMALLEST_RANGE)
    assert torch.isfinite(embed(done.network, pictures(2))).all()


@pytest.mark.parametrize("arch", FAMILIES)
def test_rebuilt_from_card_and_weights_it_answers_the_same(int8, arch):
    _, done = int8[arch]
    card = Compression.from_json(done.compression.to_json())
    assert card == done.compression
    again = rebuild(arch, 16, SIZE, card)
    again.load_state_dict(done.network.state_dict())
    expected = embed(done.network, pictures(3))
    assert torch.equal(embed(again, pictures(3)), expected)
    twin = copy.deepcopy(done.network)
    for parameter in done.network.parameters():
        assert parameter.requires_grad
    for parameter in twin.parameters():
        parameter.data.zero_()
    for quantizer in quantizers(twin).values():
        quantizer.amax = torch.ones_like(quantizer.amax)
    assert torch.equal(embed(done.network, pictures(3)), expected)


def test_another_structure_than_the_cards_is_refused():
    done = add_int8(Compressed(build("test_resnet")), SIZE, "test_resnet", [pictures(4)], 4, "max")
    facts = replace(done.compression.int8, layers=done.compression.int8.layers[1:])
    with pytest.raises(MismatchError, match=r"14 INT8 layers.* here has 15.*version of timm"):
        rebuild("test_resnet", 16, SIZE, Compression(int8=facts))


@pytest.mark.parametrize("arch", ["test_resnet", "mobilenetv3_small_100", "test_convnext"])
def test_sparse_then_int8_is_sparse_in_floats_and_integers(arch):
    done = add_sparsity(Compressed(build(arch)), SIZE)
    done = add_int8(done, SIZE, arch, [pictures(8)], 8, "max")
    sparse = done.compression.sparse
    assert sparse.layers
    for name in sparse.layers:
        layer = done.network.get_submodule(name)
        assert is_sparse(layer.weight)
        if name in done.compression.int8.layers:
            with torch.no_grad():
                assert is_sparse(layer.weight_quantizer(layer.weight))
    assert set(done.masks) == {f"{name}.weight" for name in sparse.layers}
    assert all(
        not done.network.get_parameter(name)[~mask].any() for name, mask in done.masks.items()
    )
    assert "2:4 sparse" in describe(done.compression)
    assert "INT8" in describe(done.compression)


def test_gradients_flow_through_every_quantiser():
    done = add_int8(Compressed(build("test_resnet")), SIZE, "test_resnet", [pictures(8)], 8, "max")
    done.network.train()
    done.network(pictures(4)).square().mean().backward()
    for name, parameter in done.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_stochastic_depth_still_drops_the_branch_and_not_the_shortcut():
    torch.manual_seed(0)
    network = build_student("mobilenetv3_small_100", 16)
    block = network.blocks[3][1]
    assert block.has_skip
    from timm.layers import DropPath

    block.drop_path = DropPath(0.999999, scale_by_keep=False)
    done = add_int8(Compressed(network), SIZE, "mobilenetv3_small_100", [pictures(4)], 4, "max")
    block = done.network.blocks[3][1].train()
    x = torch.randn(2, block.conv_pw.in_channels, 4, 4)
    assert torch.allclose(block(x), block.residual_quantizer(x))


def test_without_modelopt_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelopt.torch.quantization.calib", None)
    with pytest.raises(MissingExtraError, match=r"nvidia-modelopt.*clipdistill\[compress\]"):
        insert_quantizers(build("test_resnet"), SIZE, "test_resnet")


def test_describing():
    assert describe(None) == describe(Compression()) == "dense FP32"
    assert run_once(build("test_resnet"), SIZE).shape == (2, 16)

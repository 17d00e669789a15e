"""The parts of the training loop, by themselves: losses, schedule, split, batches."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import clipdistill
from clipdistill.core.errors import InputError
from clipdistill.distillation.batches import (
    _ahead,
    _step_seed,
    batch_count,
    epoch_batches,
    split_rows,
)
from clipdistill.distillation.losses import LOSSES, LossContext, distillation_loss
from clipdistill.distillation.optimizer import learning_rate, make_optimizer
from clipdistill.distillation.options import DistillOptions

OUTPUT = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
TARGET = torch.tensor([[6.0, 8.0], [0.0, 1.0], [0.0, -1.0]])
ALL = LossContext(torch.ones(3), torch.nn.functional.normalize(torch.eye(2)))


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        ("cosine", (0 + 1 + 2) / 3),
        ("mse", ((9 + 16) / 2 + (1 + 1) / 2 + 9 / 2) / 3),
        ("l1", ((3 + 4) / 2 + (1 + 1) / 2 + 3 / 2) / 3),
        ("huber", ((2.5 + 3.5) / 2 + (0.5 + 0.5) / 2 + 2.5 / 2) / 3),
    ],
)
def test_losses_by_hand(criterion, expected):
    found = distillation_loss(criterion, OUTPUT, TARGET, ALL)
    assert math.isclose(float(found), expected, rel_tol=1e-6)


@pytest.mark.parametrize("criterion", LOSSES)
def test_pictures_that_could_not_be_read_do_not_count(criterion):
    some = LossContext(torch.tensor([1.0, 0.0, 1.0]), ALL.anchors)
    found = distillation_loss(criterion, OUTPUT, TARGET, some)
    two = LossContext(torch.ones(2), ALL.anchors)
    expected = distillation_loss(criterion, OUTPUT[::2], TARGET[::2], two)
    assert torch.isclose(found, expected)
    none = LossContext(torch.zeros(3), ALL.anchors)
    assert float(distillation_loss(criterion, OUTPUT, TARGET, none)) == 0


@pytest.mark.parametrize("criterion", LOSSES)
def test_losses_are_zero_where_student_and_teacher_agree_and_have_gradients(criterion):
    assert float(distillation_loss(criterion, TARGET, TARGET, ALL)) == pytest.approx(0, abs=1e-6)
    output = OUTPUT.clone().requires_grad_()
    distillation_loss(criterion, output, TARGET, ALL).backward()
    assert torch.isfinite(output.grad).all()
    assert output.grad.abs().sum() > 0


REFERENCE = {
    "cosine": lambda a, b: 1 - torch.nn.functional.cosine_similarity(a, b, dim=-1),
    "mse": lambda a, b: torch.nn.functional.mse_loss(a, b, reduction="none").mean(dim=-1),
    "l1": lambda a, b: torch.nn.functional.l1_loss(a, b, reduction="none").mean(dim=-1),
    "huber": lambda a, b: torch.nn.functional.huber_loss(a, b, reduction="none").mean(dim=-1),
}
"""What these losses are defined as; a training that is resumed must find the same bits."""


@pytest.mark.parametrize("criterion", REFERENCE)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_losses_are_those_of_torch_bit_for_bit(criterion, kind):
    random = torch.Generator().manual_seed(3)
    output = (3 * torch.randn(37, 512, generator=random)).to(kind).requires_grad_()
    target, valid = torch.randn(37, 512, generator=random), torch.ones(37)
    valid[5] = 0
    found = distillation_loss(criterion, output, target, LossContext(valid))
    each = REFERENCE[criterion](output.float(), target)
    expected = (each * valid).sum() / valid.sum().clamp(min=1)
    assert torch.equal(found, expected)
    gradients = [torch.autograd.grad(loss, output)[0] for loss in (found, expected)]
    assert torch.equal(*gradients)


def test_the_names_of_the_losses_are_known_without_torch():
    code = (
        "import sys; from clipdistill.distillation.options import DistillOptions; "
        "from clipdistill.distillation.losses import LOSSES; "
        "print('torch' in sys.modules, 'cosine' in LOSSES)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_criterion_is_one_of_the_losses():
    with pytest.raises(InputError, match="'cosine', 'mse', 'l1', 'huber'"):
        clipdistill.distill("test_resnet", "a", "b", "c", criterion="mae")


def test_half_precision_outputs_are_measured_in_float32():
    output = torch.full((1, 2), 300.0, dtype=torch.float16)
    found = distillation_loss("mse", output, torch.zeros(1, 2), LossContext(torch.ones(1)))
    assert float(found) == 90_000  # above the largest float16


def rates(total: int, **options: object) -> list[float]:
    return [learning_rate(DistillOptions(lr=1.0, **options), step, total) for step in range(total)]


def test_learning_rate_by_hand():
    found = rates(10, warmup=0.2)
    assert found[:3] == pytest.approx([0.5, 1.0, 1.0])
    for step in range(2, 10):
        expected = 0.5 * (1 + math.cos(math.pi * (step - 2) / 8))
        assert found[step] == pytest.approx(expected)


def test_without_warm_up_it_starts_at_the_peak_and_only_falls():
    found = rates(20, warmup=0.0)
    assert found[0] == 1.0
    assert found == sorted(found, reverse=True)


def test_constant_schedule():
    assert rates(10, warmup=0.0, schedule="constant") == [1.0] * 10
    found = rates(10, warmup=0.3, schedule="constant")
    assert found == pytest.approx([1 / 3, 2 / 3, 1, *[1] * 7])


@given(st.integers(1, 500), st.floats(0, 0.99), st.sampled_from(["cosine", "constant"]))
def test_learning_rate_stays_between_zero_and_the_peak(total, warmup, schedule):
    for rate in rates(total, warmup=warmup, schedule=schedule):
        assert 0 < rate <= 1


@given(st.integers(1, 400), st.floats(0, 0.5), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_split_has_the_exact_size_and_misses_nobody(count, fraction, seed):
    names = [f"{index}.jpg" for index in range(count)]
    train, val = split_rows(names, fraction, seed)
    assert len(val) == min(round(fraction * count), count // 2)
    assert sorted([*train, *val]) == list(range(count))
    assert np.array_equal(train, np.sort(train))


def test_split_goes_by_name_and_not_by_place():
    names = [f"{index}.jpg" for index in range(100)]
    _, val = split_rows(names, 0.2, 0)
    _, other = split_rows(names[::-1], 0.2, 0)
    assert {names[row] for row in val} == {names[::-1][row] for row in other}
    assert not np.array_equal(val, split_rows(names, 0.2, 1)[1])


def test_a_few_more_pictures_move_few_others():
    names = [f"{index}.jpg" for index in range(200)]
    before = {names[row] for row in split_rows(names, 0.1, 0)[1]}
    more = [*names, *(f"new{index}.jpg" for index in range(10))]
    after = {more[row] for row in split_rows(more, 0.1, 0)[1]}
    assert len(before - after) <= 5


@given(
    st.integers(1, 300),
    st.integers(2, 64),
    st.integers(0, 9),
    st.integers(0, 9),
    st.sampled_from([1, 2, 3]),
)
@settings(max_examples=200, deadline=None)
def test_batches_have_each_row_once_and_sizes_that_differ_by_one_at_most(
    count, size, seed, epoch, processes
):
    rows = np.arange(1000, 1000 + count)
    batches, mirrored = epoch_batches(rows, size, seed, epoch, processes)
    assert sorted(np.concatenate(batches)) == rows.tolist()
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert [len(flags) for flags in mirrored] == sizes
    assert len(batches) == batch_count(count, size, processes)
    least = min(count, 2 * processes)
    assert min(sizes) >= least
    # Larger than asked for only where smaller ones would leave a process less than two.
    assert max(sizes) <= size or count // (len(batches) + 1) < 2 * processes
    shares = [np.array_split(batch, processes) for batch in batches]
    assert sorted(np.concatenate([s for share in shares for s in share])) == rows.tolist()
    if count >= 2 * processes:
        assert all(len(s) >= 2 for share in shares for s in share)


def test_no_batch_of_one_is_left_that_batch_norm_cannot_use():
    for count in range(2, 40):
        for size in (2, 3, 5, 8):
            batches, _ = epoch_batches(np.arange(count), size, 0, 0)
            assert min(map(len, batches)) >= 2


def test_epochs_and_seeds_shuffle_differently_and_repeatably():
    rows = np.arange(50)

    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(epoch_batches(rows, 8, seed, epoch)[0]).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    mirrored = np.concatenate(epoch_batches(np.arange(2000), 8, 0, 0)[1])
    assert 0.4 < mirrored.mean() < 0.6


def test_step_seeds_differ_and_fit_torch():
    seeds = {_step_seed(*where) for where in np.ndindex(3, 3, 3, 3)}
    assert len(seeds) == 81
    for seed in seeds:
        torch.manual_seed(seed)


@pytest.mark.parametrize("name", ["adamw", "muon", "adam", "sgd"])
def test_optimizers_get_every_parameter_once(name):
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = make_optimizer(network, DistillOptions(optimizer=name, lr=0.5, weight_decay=0.1))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in parameters} == {id(p) for p in network.parameters()}
    assert len(parameters) == 4
    if name in ("adamw", "muon"):
        plain = [p for g in optimizer.param_groups if g["weight_decay"] == 0 for p in g["params"]]
        assert {id(p) for p in plain} == {id(p) for p in network.parameters() if p.ndim == 1}


def test_a_step_of_muon_is_orthogonal_and_leaves_projection_and_norms_to_adamw():
    network = timm.create_model("test_resnet", num_classes=8)
    options = DistillOptions(optimizer="muon", lr=0.01, weight_decay=0.0)
    optimizer = make_optimizer(network, options)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    torch.manual_seed(0)
    network(torch.randn(8, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    moved = {
        name: before[name] - value.detach()
        for name, value in network.named_parameters()
        if value.grad is not None and value.grad.any()  # not before a norm whose scale is still 0
    }
    assert len(moved) > 10
    for name, value in moved.items():
        fallback = value.ndim == 1 or name == "fc.weight"
        if fallback:  # with Nesterov momentum of 0.9, the first step of AdamW is 1.9 times the rate
            largest = float(value.abs().max())
            assert largest == pytest.approx(0.019, rel=1e-2) or largest == 0
        else:
            matrix = value.flatten(1)
            strengths = torch.linalg.svdvals(matrix) / (0.01 * 0.2 * max(matrix.shape) ** 0.5)
            # Newton-Schulz makes the large singular values one, and enlarges the small ones.
            assert 0.8 < strengths[0] < 1.3, name
            assert strengths[3] > 0.5, name  # eight images: a gradient is of rank 8 or less


def test_loading_ahead_keeps_order_and_is_bounded():
    started = []

    def load(step: int) -> int:
        started.append(step)
        return step * step

    stream = _ahead(load, range(20), depth=2)
    assert next(stream) == 0
    time.sleep(0.2)
    assert len(started) <= 5
    assert list(stream) == [step * step for step in range(1, 20)]


def test_an_error_while_loading_ahead_reaches_the_caller():
    def load(step: int) -> int:
        if step == 2:
            raise ZeroDivisionError
        return step

    stream = _ahead(load, range(5))
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_loading_ahead_stops_with_its_caller():
    stream = _ahead(lambda step: step, range(10**6))
    next(stream)
    stream.close()

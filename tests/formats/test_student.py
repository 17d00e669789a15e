"""A student's folder: what is written loads again; what is damaged or malicious does not."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipdistill.core.errors import FormatError, InputError, MismatchError
from clipdistill.formats.student import (
    load_card,
    load_checkpoint,
    load_samples,
    load_weights,
    save_checkpoint,
    save_samples,
    save_weights,
)
from clipdistill.models.student import (
    build_student,
    load_backbone_weights,
    load_state,
    load_student,
)


def test_a_student_loads_as_it_was_saved(tmp_path, make_student):
    folder = make_student(tmp_path / "student")
    card, embedder = load_student(folder, device="cpu")
    assert card.arch == "test_resnet"
    assert embedder.spec.dim == card.dim == card.teacher.dim
    weights = load_weights(folder / "model.safetensors")
    for name, value in embedder.module.state_dict().items():
        assert torch.equal(value, weights[name])
    assert load_samples(folder).shape == (6, 32, 32, 3)


def test_no_student_and_an_unfinished_one(tmp_path):
    with pytest.raises(InputError, match=r"no student here. Make one with: clipdistill distill"):
        load_card(tmp_path)
    (tmp_path / "checkpoint.pth").write_bytes(b"x")
    with pytest.raises(InputError, match=r"this student has not finished. Run the same"):
        load_card(tmp_path)


def test_swapped_weights_are_noticed(tmp_path, make_student):
    one, two = make_student(tmp_path / "one", seed=1), make_student(tmp_path / "two", seed=2)
    (one / "model.safetensors").write_bytes((two / "model.safetensors").read_bytes())
    with pytest.raises(FormatError, match=r"one/model\.safetensors is not the file that .*Copy"):
        load_student(one)


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_truncated_weights_are_noticed(tmp_path, make_student, cut):
    folder = make_student(tmp_path / "student")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        load_card(folder)
    with pytest.raises(FormatError, match=r"model\.safetensors: not a readable"):
        load_weights(path)


def test_missing_weights(tmp_path, make_student):
    folder = make_student(tmp_path / "student")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="weights are missing"):
        load_card(folder)
    with pytest.raises(InputError, match="no such file of weights"):
        load_weights(folder / "model.safetensors")


def change_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "student.json").read_text())
    (folder / "student.json").write_text(json.dumps({**card, **changes}))


def test_card_of_a_newer_version(tmp_path, make_student):
    folder = make_student(tmp_path / "student")
    change_card(folder, version=7)
    with pytest.raises(FormatError, match=r"student\.json.*version 7 is newer.*Update clipdistill"):
        load_card(folder)


@pytest.mark.parametrize("change", [{"dim": "x"}, {"preprocess": {}}, {"teacher": 3}, {"dim": 0}])
def test_a_damaged_card_names_the_file(tmp_path, make_student, change):
    folder = make_student(tmp_path / "student")
    change_card(folder, **change)
    with pytest.raises(FormatError, match=r"student\.json"):
        load_card(folder)


def test_a_card_of_another_architecture(tmp_path, make_student):
    folder = make_student(tmp_path / "student")
    change_card(folder, arch="test_vit")
    with pytest.raises(MismatchError, match="another architecture"):
        load_student(folder)


class Bomb:
    """Unpickling this runs a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("hide", ["alone", "in model", "among the weights", "plain pickle"])
@pytest.mark.parametrize("load", [load_checkpoint, load_weights, load_student])
def test_a_malicious_checkpoint_runs_nothing(tmp_path, hide, load):
    path, sign = tmp_path / "checkpoint.pth", tmp_path / "executed"
    bomb = Bomb(sign)
    content = {
        "alone": bomb,
        "in model": {"model": bomb, "epoch": 1},
        "plain pickle": {"model": bomb},
        "among the weights": {"model": {"fc.weight": torch.zeros(2), "x": bomb}, "epoch": 1},
    }[hide]
    if hide == "plain pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(FormatError, match=r"checkpoint\.pth: refused.*run code"):
        load(path)
    assert not sign.exists()
    torch.load(path, weights_only=False) if hide != "plain pickle" else pickle.loads(
        path.read_bytes()
    )
    assert sign.exists(), "the bomb is a dud: the test shows nothing"


CHECKPOINT = {
    "model": {"fc.weight": torch.ones(3, 4), "n": torch.tensor(1)},
    "epoch": 2,
    "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
}


def test_checkpoint_round_trip(tmp_path):
    save_checkpoint(tmp_path, CHECKPOINT)
    found = load_checkpoint(tmp_path / "checkpoint.pth")
    assert found["epoch"] == 2
    assert torch.equal(found["model"]["fc.weight"], torch.ones(3, 4))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_checkpoint(tmp_path, share):
    save_checkpoint(tmp_path, CHECKPOINT)
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(FormatError, match=r"checkpoint\.pth"):
        load_checkpoint(path)


def _bytes_of(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


GOOD = _bytes_of(CHECKPOINT)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    hits=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=5),
    cut=st.none() | st.integers(0, len(GOOD)),
)
def test_a_damaged_checkpoint_loads_or_is_refused(tmp_path_factory, hits, cut):
    data = bytearray(GOOD)
    for place, value in hits:
        data[place] = value
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    path.write_bytes(data[:cut])
    try:
        load_checkpoint(path)
    except FormatError as error:
        assert "damaged.pth" in str(error)  # noqa: PT017


@given(st.binary(max_size=100))
def test_a_checkpoint_of_random_bytes(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "random.pth"
    for beginning in (b"", b"\x80\x02", b"PK\x03\x04"):
        path.write_bytes(beginning + data)
        try:
            load_checkpoint(path)
        except FormatError as error:
            assert "random.pth" in str(error)  # noqa: PT017


@pytest.mark.parametrize("value", [[1, 2], torch.zeros(3), "x", None])
def test_a_checkpoint_that_is_no_dictionary(tmp_path, value):
    torch.save(value, tmp_path / "x.pth")
    with pytest.raises(FormatError, match="expected a dictionary of tensors"):
        load_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("value", [{}, {"a": 1}, {"model": {"a": "x"}}, {"model": {}}])
def test_dictionaries_without_weights(tmp_path, value):
    torch.save(value, tmp_path / "x.pth")
    with pytest.raises(FormatError, match=r"x\.pth: expected weights"):
        load_weights(tmp_path / "x.pth")


@pytest.mark.parametrize("wrap", ["bare", "model", "state_dict", "model_state_dict", "module."])
def test_weights_in_every_wrapping(tmp_path, wrap):
    state = {"fc.weight": torch.ones(2)}
    value = {"bare": state, "module.": {"module.fc.weight": torch.ones(2)}}.get(wrap, {wrap: state})
    torch.save(value, tmp_path / "x.pth")
    assert list(load_weights(tmp_path / "x.pth")) == ["fc.weight"]


def older_checkpoint(path: Path, network: torch.nn.Module) -> None:
    optimizer = torch.optim.Adam(network.parameters())
    torch.save(
        {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, path
    )


def test_a_checkpoint_of_the_older_scripts(tmp_path):
    network = build_student("test_resnet", 24)
    path = tmp_path / "checkpoint.pth"
    older_checkpoint(path, network)
    card, embedder = load_student(path, arch="test_resnet", image_size=48, device="cpu")
    assert (card.dim, card.preprocess.size, card.teacher) == (24, 48, None)
    pixels = np.random.default_rng(0).normal(size=(2, 3, 48, 48)).astype(np.float32)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(network.eval()(torch.from_numpy(pixels)), dim=-1)
    assert np.allclose(embedder.embed_images(pixels), expected.numpy(), atol=1e-5)


def test_an_older_checkpoint_does_not_say_which_network_it_is(tmp_path):
    path = tmp_path / "checkpoint.pth"
    older_checkpoint(path, build_student("test_resnet", 24))
    with pytest.raises(InputError, match="Add --arch, for example"):
        load_student(path)
    with pytest.raises(MismatchError, match="another architecture"):
        load_student(path, arch="test_vit")


def test_load_state_names_the_first_difference():
    network = build_student("test_resnet", 8)
    state = dict(network.state_dict())
    with pytest.raises(MismatchError, match=r"'fc.weight' is \(8, 96\), expected \(4, 96\)"):
        load_state(build_student("test_resnet", 4), state, Path("x.pth"))
    with pytest.raises(MismatchError, match="no place for 1 tensor, such as"):
        load_state(network, {**state, "more": torch.zeros(1)}, Path("x.pth"))
    del state["fc.bias"]
    with pytest.raises(MismatchError, match=r"no weights for 'fc.bias'"):
        load_state(network, state, Path("x.pth"))


def test_pretrained_weights_of_another_width_leave_the_projection_alone(tmp_path):
    torch.manual_seed(0)
    source, target = build_student("test_resnet", 1000), build_student("test_resnet", 8)
    save_weights(tmp_path, source.state_dict())
    before = target.fc.weight.clone()
    taken = load_backbone_weights(target, tmp_path / "model.safetensors")
    assert taken == len(source.state_dict()) - 2
    assert torch.equal(target.conv1[0].weight, source.conv1[0].weight)
    assert torch.equal(target.fc.weight, before)
    with pytest.raises(MismatchError, match="another architecture"):
        load_backbone_weights(build_student("test_vit", 8), tmp_path / "model.safetensors")


def test_samples(tmp_path):
    assert load_samples(tmp_path) is None
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    save_samples(tmp_path, pixels)
    assert np.array_equal(load_samples(tmp_path), pixels)
    (tmp_path / "samples.npy").write_bytes(b"half")
    with pytest.raises(FormatError, match=r"samples\.npy.*Delete it"):
        load_samples(tmp_path)
    np.save(tmp_path / "samples.npy", np.zeros((2, 4)))
    with pytest.raises(FormatError, match="expected uint8"):
        load_samples(tmp_path)


def test_an_ordered_dict_of_parameters_is_fine(tmp_path):
    state = OrderedDict(a=torch.nn.Parameter(torch.ones(2)))
    torch.save(state, tmp_path / "x.pth")
    assert torch.equal(load_weights(tmp_path / "x.pth")["a"], torch.ones(2))

"""Text embeddings: the pair of files, and bare arrays of the older scripts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdistill.core.errors import FormatError, InputError, MismatchError
from clipdistill.core.zeroshot import Calibration, Independent, LogitScale, normalized
from clipdistill.formats.cards import TeacherCard
from clipdistill.formats.text import TextEmbeddings, load_matrix, load_text, save_text
from clipdistill.images.preprocess import Preprocess

DIM = 8
TEACHER = TeacherCard("ViT-X", "tag", "a" * 32, DIM, LogitScale(50.0, -2.0), Preprocess(32))


def text(*labels: str) -> TextEmbeddings:
    vectors = normalized(np.random.default_rng(0).normal(size=(len(labels), DIM)))
    prompts = tuple((f"a {label}", f"one {label}") for label in labels)
    return TextEmbeddings(vectors, labels, prompts, ("a photo of {}", "{}"), TEACHER)


def check_equal(one: TextEmbeddings, other: TextEmbeddings) -> None:
    assert np.allclose(one.vectors, other.vectors, atol=1e-7)
    assert replace(one, vectors=other.vectors) == other


@pytest.mark.parametrize("name", ["t.npy", "t", "t.v1.2", "with space", "чай.npy"])
def test_round_trip_under_any_of_its_names(tmp_path, name):
    original = text("cat", "straße", "emoji 🐟")
    path = save_text(tmp_path / name, original)
    assert path.suffix == ".npy"
    for name_given in (tmp_path / name, path, path.with_suffix(".json")):
        check_equal(load_text(name_given), original)


def test_missing(tmp_path):
    with pytest.raises(InputError, match=r"t\.npy: there are no such text .* embed-text"):
        load_text(tmp_path / "t.npy")


@pytest.mark.parametrize("cut", [0, 1, 60, 130, 190])
def test_truncated_array(tmp_path, cut):
    path = save_text(tmp_path / "t.npy", text("a", "b"))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FormatError, match=r"t\.npy.*embed-text"):
        load_text(path)


@pytest.mark.parametrize("data", ["", "{", "[]"])
def test_damaged_card(tmp_path, data):
    path = save_text(tmp_path / "t.npy", text("a", "b"))
    path.with_suffix(".json").write_text(data)
    with pytest.raises(FormatError, match=r"t\.json"):
        load_text(path)


@pytest.mark.parametrize("field", ["labels", "prompts", "templates", "teacher"])
def test_a_missing_field_names_the_file_and_the_field(tmp_path, field):
    path = save_text(tmp_path / "t.npy", text("a", "b"))
    card = json.loads(path.with_suffix(".json").read_text())
    del card[field]
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(FormatError, match=rf"t\.json.*{field}"):
        load_text(path)


def test_newer_version_and_other_formats(tmp_path):
    path = save_text(tmp_path / "t.npy", text("a", "b"))
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**card, "version": 99}))
    with pytest.raises(FormatError, match="newer"):
        load_text(path)
    path.with_suffix(".json").write_text(json.dumps({**card, "format": "clipdistill.student"}))
    with pytest.raises(FormatError, match="right order"):
        load_text(path)


def test_files_that_do_not_belong_together(tmp_path):
    one = save_text(tmp_path / "one.npy", text("a", "b"))
    two = save_text(tmp_path / "two.npy", replace(text("c", "d"), vectors=-text("c", "d").vectors))
    one.write_bytes(two.read_bytes())
    with pytest.raises(FormatError, match=r"one\.npy and .*one\.json do not belong together"):
        load_text(one)


def test_labels_and_rows_have_to_agree(tmp_path):
    path = save_text(tmp_path / "t.npy", text("a", "b"))
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**card, "labels": ["a"]}))
    with pytest.raises(FormatError, match="expected 1 labels of 8 dimensions"):
        load_text(path)


def test_a_bare_array_of_the_older_scripts(tmp_path):
    raw = np.random.default_rng(0).normal(size=(3, DIM)).astype(np.float32)
    np.save(tmp_path / "t.npy", raw)
    found = load_text(tmp_path / "t.npy", ("x", "y", "z"))
    assert found.labels == ("x", "y", "z")
    assert np.allclose(found.vectors, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)
    assert found.teacher.fingerprint is None
    assert found.teacher.dim == DIM
    assert found.teacher.logits == LogitScale(100.0)
    assert load_text(tmp_path / "t.npy").labels == ("0", "1", "2")
    with pytest.raises(MismatchError, match=r"3 text embeddings, but .* 2 prompts"):
        load_text(tmp_path / "t.npy", ("x", "y"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_becomes_unit_float32(tmp_path, dtype):
    np.save(tmp_path / "t.npy", np.array([[3, 4], [0, 2]], dtype=dtype))
    found = load_matrix(tmp_path / "t.npy")
    assert found.dtype == np.float32
    assert np.allclose(found, [[0.6, 0.8], [0, 1]])


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros(3),
        np.zeros((2, 2, 2)),
        np.zeros((0, 4)),
        np.zeros((2, 0)),
        np.zeros((2, 3), int),
        np.array([["a"]]),
        np.array([[1.0, np.nan]]),
        np.array([[np.inf, 1.0]]),
    ],
)
def test_arrays_that_are_no_text_embeddings(tmp_path, wrong):
    np.save(tmp_path / "t.npy", wrong)
    with pytest.raises(FormatError, match=r"t\.npy.*embed-text"):
        load_matrix(tmp_path / "t.npy")


def test_objects_are_never_unpickled(tmp_path):
    np.save(tmp_path / "t.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match=r"t\.npy"):
        load_matrix(tmp_path / "t.npy")
    np.savez(tmp_path / "z", a=np.zeros((2, 2)))
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    with pytest.raises(FormatError, match="archive"):
        load_matrix(tmp_path / "z.npy")


shares = st.floats(0, 1)
scales = st.floats(1e-3, 1e6)
biases = st.floats(-1e6, 1e6)


@st.composite
def independents(draw, classes: int) -> Independent:
    def each(values: st.SearchStrategy) -> tuple:
        return tuple(draw(st.lists(values, min_size=classes, max_size=classes)))

    return Independent(
        each(scales),
        each(biases),
        each(shares),
        draw(st.sampled_from(["scale", "pool", "teacher", "labels"])),
        draw(st.sampled_from(["", "pool", "my photos"])),
        draw(st.integers(0, 10**9)),
        each(st.integers(0, 10**9)),
        draw(st.sampled_from([(), ("one",)])),
    )


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 5), st.booleans())
def test_independent_probabilities_come_back_as_they_were(tmp_path_factory, data, classes, fitted):
    own = data.draw(independents(classes))
    student = data.draw(independents(classes)) if fitted else None
    found = Calibration(LogitScale(), 0.5, "labels", "s", 9, 0.1, 0.1, 0.9, student)
    original = replace(
        text(*(f"label {one}" for one in range(classes))),
        independent=own,
        calibration=found if fitted else None,
    )
    folder = tmp_path_factory.mktemp("text")
    loaded = load_text(save_text(folder / "t.npy", original))
    check_equal(loaded, original)
    assert loaded.logits == (student if fitted else own)
    assert loaded.teacher_logits == own


def test_a_calibration_of_single_labels_is_written_as_before(tmp_path):
    """Versions without independent probabilities read the same bytes as ever."""
    found = Calibration(LogitScale(), 0.5, "labels", "s", 9, 0.1, 0.1, 0.9)
    path = save_text(tmp_path / "t.npy", replace(text("a"), calibration=found))
    card = json.loads(path.with_suffix(".json").read_text())
    assert "independent" not in card
    assert "independent" not in card["calibration"]


@pytest.mark.parametrize("where", ["independent", "calibration"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"scales": [1.0]},
        {"scales": [1.0, float("nan")]},
        {"scales": [1.0, -1.0]},
        {"biases": [0.0, float("inf")]},
        {"thresholds": [0.5, 2]},
        {"thresholds": "high"},
        {"matched": [1, 2, 3]},
        {"method": "guess"},
        {"images": None},
    ],
)
def test_damaged_independent_probabilities(tmp_path, where, wrong):
    good = Independent((9.0, 9.0), (0.0, 0.0), (0.5, 0.5), "pool", "", 9, (3, 3), ())
    found = Calibration(LogitScale(), 0.5, "labels", "s", 9, 0.1, 0.1, 0.9, good)
    path = save_text(
        tmp_path / "t.npy", replace(text("a", "b"), independent=good, calibration=found)
    )
    card = json.loads(path.with_suffix(".json").read_text())
    (card if where == "independent" else card["calibration"])["independent"].update(wrong)
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(FormatError, match=r"t\.json"):
        load_text(path)


def test_probabilities_of_other_classes_are_refused(tmp_path):
    one = Independent((9.0,), (0.0,), (0.5,), "pool", "", 9, (3,), ())
    path = save_text(tmp_path / "t.npy", replace(text("a", "b"), independent=one))
    with pytest.raises(FormatError, match="1 classes for 2 labels"):
        load_text(path)

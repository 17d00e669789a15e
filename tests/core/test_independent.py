"""Probabilities of each class on its own: golden values, and what holds for any pool."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdistill.core import independent, metrics
from clipdistill.core.zeroshot import Independent, LogitScale, normalized, probabilities

CLASSES, DIM = 8, 32
LABELS = tuple(f"class {one}" for one in range(CLASSES))
GOLDEN_MATCHED = (65, 70, 65)
GOLDEN_SCALES = (12.9153, 30.7841, 13.338)
GOLDEN_BIASES = (-5.8866, -10.5286, -6.0054)
GOLDEN_LABELLED = (72.4255, 172.6292, 74.7961)
GOLDEN_THRESHOLDS = (0.5, 0.5, 0.5)


class World:
    """Class vectors, and images that show no, one or two classes."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.centres = normalized(self.random.standard_normal((CLASSES, DIM)))

    def images(self, truth: np.ndarray) -> np.ndarray:
        """Embeddings (N, D) of images that show the classes of `truth`, bool (N, C)."""
        noise = self.random.standard_normal((len(truth), DIM)) / np.sqrt(DIM)
        return normalized(truth @ self.centres * 1.5 + noise)

    def singles(self, count: int, classes: int = CLASSES) -> np.ndarray:
        """Images of one class each, of the first `classes`."""
        return self.images(np.eye(CLASSES)[self.random.integers(0, classes, count)])


def fit(vectors: np.ndarray, pool: np.ndarray, labels: tuple[str, ...] = LABELS) -> Independent:
    found = independent.fit_pool(vectors, lambda: iter([pool]), labels, "pool")
    assert found is not None
    return found


def test_a_pool_of_single_things_finds_several_in_one_image():
    world = World()
    found = fit(world.centres, world.singles(800))
    truth = world.random.random((600, CLASSES)) < 0.2
    shares = probabilities(world.images(truth), world.centres, found)
    _, recall, f1 = metrics.label_scores(shares >= np.array(found.thresholds), truth)
    assert f1.mean() > 0.8
    assert recall.mean() > 0.7
    assert not found.unmatched
    assert found.images == 800
    # A softmax gives each image one label, which misses the others.
    single = probabilities(world.images(truth), world.centres, LogitScale(20.0))
    assert metrics.label_scores(single >= 0.5, truth)[2].mean() < f1.mean() - 0.1


def test_a_class_that_the_pool_does_not_show_is_named_and_cautious():
    world = World()
    found = fit(world.centres, world.singles(800, classes=6))
    assert found.unmatched == LABELS[6:]
    assert found.thresholds == (0.5,) * 6 + (0.9,) * 2
    shares = probabilities(world.singles(400, classes=6), world.centres, found)
    given_labels = shares >= np.array(found.thresholds)
    assert given_labels[:, 6:].mean() < 0.01
    assert given_labels[:, :6].any(axis=1).mean() > 0.9


def test_a_pool_without_any_class_is_judged_as_usual():
    rows = normalized(World(1).random.standard_normal((500, DIM)))
    found = fit(World().centres, rows)
    shares = probabilities(rows, World().centres, found)
    assert (shares >= np.array(found.thresholds)).mean() < 0.02


def test_a_dominant_class_does_not_pass_for_the_background():
    world = World()
    many = np.concatenate([np.eye(CLASSES)[[0] * 600], np.eye(CLASSES)[np.arange(200) % CLASSES]])
    found = fit(world.centres, world.images(many))
    shares = probabilities(world.images(np.eye(CLASSES)[[0] * 200]), world.centres, found)
    assert (shares[:, 0] >= found.thresholds[0]).mean() > 0.8


def test_golden_values():
    """The arithmetic as it was when it was measured (benchmarks/independent-2026-11-28.md)."""
    world = World(3)
    found = fit(world.centres[:3], world.singles(200, classes=3), LABELS[:3])
    assert found.matched == GOLDEN_MATCHED
    assert found.scales == pytest.approx(GOLDEN_SCALES, rel=1e-4)
    assert found.biases == pytest.approx(GOLDEN_BIASES, rel=1e-4)
    truth = np.eye(3, dtype=np.float32)[world.random.integers(0, 3, 100)]
    cosines = (world.images(np.pad(truth, ((0, 0), (0, 5)))) @ world.centres[:3].T).astype("f4")
    labelled = independent.fit_target(
        found, cosines, truth, LABELS[:3], method="labels", source="x"
    )
    assert labelled.scales == pytest.approx(GOLDEN_LABELLED, rel=1e-4)
    assert labelled.thresholds == pytest.approx(GOLDEN_THRESHOLDS)


def test_probabilities_are_a_sigmoid_per_class_and_never_overflow():
    found = Independent((1e4, 2.0), (0.0, -1.0), (0.5, 0.5), "pool", "", 0, (0, 0), ())
    vectors = np.eye(2, dtype=np.float32)
    shares = probabilities(np.array([[1, 0], [-1, 0], [0, 1]], np.float32), vectors, found)
    assert shares.dtype == np.float32
    assert shares == pytest.approx(
        np.array([[1, 1 / (1 + np.e)], [0, 1 / (1 + np.e)], [0.5, 1 / (1 + np.exp(-1))]])
    )


def test_labels_choose_the_threshold_of_the_best_f1():
    random = np.random.default_rng(0)
    has = random.random((400, 2)) < 0.3
    shares = np.where(has, 0.6, 0.1)
    shares[:, 1] = np.where(has[:, 1], 0.2, 0.02)
    assert independent.best_thresholds(shares, has)[0] > 0.1
    assert 0.02 < independent.best_thresholds(shares, has)[1] <= 0.2


def test_a_student_is_fitted_to_its_teacher_with_few_images():
    """A student whose cosines are smaller gives the teacher's probabilities all the same."""
    world = World(5)
    found = fit(world.centres, world.singles(800))
    images = world.singles(40)
    wanted = probabilities(images, world.centres, found)
    smaller = (0.6 * images @ world.centres.T + 0.05).astype(np.float32)
    fitted = independent.fit_target(found, smaller, wanted, LABELS, method="teacher", source="x")
    shares = probabilities(smaller, np.eye(CLASSES, dtype=np.float32), fitted)
    unfitted = probabilities(smaller, np.eye(CLASSES, dtype=np.float32), found)
    assert np.abs(shares - wanted).mean() < np.abs(unfitted - wanted).mean() / 3
    assert fitted.thresholds == found.thresholds


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 200), st.integers(1, 6), st.integers(0, 9), st.floats(1e-6, 1.0))
def test_any_pool_gives_usable_numbers(count, classes, seed, width):
    """Copies of one image, tiny differences, one class: never NaN, always increasing."""
    random = np.random.default_rng(seed)
    base = random.standard_normal((1, DIM))
    rows = normalized(base + width * random.standard_normal((count, DIM)))
    vectors = normalized(random.standard_normal((classes, DIM)))
    found = fit(vectors, rows, LABELS[:classes])  # Independent checks itself
    assert len(found.matched) == classes
    assert set(found.thresholds) <= {0.5, 0.9}


@pytest.mark.parametrize("count", [1, 19])
def test_too_few_images(count):
    rows = World().singles(count)
    assert independent.fit_pool(World().centres, lambda: iter([rows]), LABELS, "pool") is None


def test_a_large_pool_is_sampled_evenly(monkeypatch):
    monkeypatch.setattr(independent, "MOST_IMAGES", 50)
    rows = np.arange(1000, dtype=np.float32)[:, None]
    blocks = [rows[:7], rows[7:400], rows[400:401], rows[401:]]
    kept = independent.sample(lambda: iter(blocks), 3)[:, 0]
    assert 25 <= len(kept) <= 50
    assert len(set(np.diff(kept))) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scales", (float("nan"), 1.0)),
        ("scales", (0.0, 1.0)),
        ("biases", (float("inf"), 1.0)),
        ("thresholds", (0.5, 1.5)),
        ("thresholds", (0.5,)),
        ("matched", (1, 2, 3)),
    ],
)
def test_numbers_that_cannot_be_are_refused(field, value):
    values = {
        "scales": (1.0, 1.0),
        "biases": (0.0, 0.0),
        "thresholds": (0.5, 0.5),
        "matched": (3, 3),
    }
    with pytest.raises(ValueError, match="independent probabilities"):
        Independent(**{**values, field: value}, method="pool", source="", images=9, unmatched=())


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_average_precision_equals_its_definition(pairs):
    scores = np.array([float(score) for score, _ in pairs])
    truth = np.array([true for _, true in pairs])
    found = metrics.average_precision(scores, truth)
    if not truth.any():
        assert np.isnan(found)
        return
    area, before = 0.0, 0.0
    for one in sorted(set(scores), reverse=True):
        given_labels = scores >= one
        recall = (given_labels & truth).sum() / truth.sum()
        area += (recall - before) * (given_labels & truth).sum() / given_labels.sum()
        before = recall
    assert found == pytest.approx(area)


def test_label_scores_of_nothing_are_no_number():
    given_labels = np.array([[True, False, False], [True, True, False]])
    truth = np.array([[True, False, False], [False, False, True]])
    precision, recall, f1 = metrics.label_scores(given_labels, truth)
    assert precision.tolist()[:2] == [0.5, 0.0]
    assert np.isnan(precision[2])
    assert recall[0] == 1
    assert recall[2] == 0
    assert np.isnan(recall[1])
    assert f1[0] == pytest.approx(2 / 3)

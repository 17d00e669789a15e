"""Golden values, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clipdistill.core import metrics

SCORES = np.array(
    [[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.3, 0.4, 0.3], [0.5, 0.1, 0.4]], dtype=np.float32
)
TRUTH = np.array([0, 1, 1, 2])
BEST = np.array([0, 2, 1, 0])


def test_accuracy() -> None:
    assert metrics.accuracy(BEST, TRUTH) == 0.5


def test_top_k_accuracy() -> None:
    assert metrics.top_k_accuracy(SCORES, TRUTH, 1) == 0.5
    assert metrics.top_k_accuracy(SCORES, TRUTH, 2) == 1.0
    assert metrics.top_k_accuracy(SCORES, TRUTH, 5) == 1.0  # more than there are classes


def test_confusion_has_the_truth_in_rows() -> None:
    counts = metrics.confusion(BEST, TRUTH, 4)
    assert counts.tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert counts.dtype == np.int64


def test_class_accuracy_of_an_absent_class_is_nan() -> None:
    shares = metrics.class_accuracy(metrics.confusion(BEST, TRUTH, 4))
    assert shares[:3].tolist() == [1.0, 0.5, 0.0]
    assert math.isnan(shares[3])


def test_agreement() -> None:
    theirs = SCORES.copy()
    theirs[0] = [0.1, 0.8, 0.1]
    assert metrics.agreement(SCORES, SCORES) == 1.0
    assert metrics.agreement(SCORES, theirs) == 0.75


def test_mean_cosine_does_not_depend_on_length() -> None:
    mine = np.array([[2.0, 0.0], [0.0, 3.0]])
    theirs = np.array([[5.0, 0.0], [1.0, 1.0]], dtype=np.float16)
    assert metrics.mean_cosine(mine, theirs) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert metrics.cosines(mine, theirs) == pytest.approx([1.0, math.sqrt(0.5)])


def test_a_share_of_nothing_is_nan() -> None:
    nothing = np.zeros((0, 3), dtype=np.float32)
    none = np.zeros(0, dtype=np.intp)
    assert math.isnan(metrics.accuracy(none, none))
    assert math.isnan(metrics.top_k_accuracy(nothing, none, 1))
    assert math.isnan(metrics.agreement(nothing, nothing))
    assert math.isnan(metrics.mean_cosine(nothing, nothing))
    assert metrics.confusion(none, none, 2).tolist() == [[0, 0], [0, 0]]


def test_reliability_by_hand():
    confidence = np.array([0.02, 0.04, 0.99, 1.0], np.float32)
    said, right, images = metrics.reliability(confidence, np.array([False, True, True, True]))
    assert images.tolist() == [2, *[0] * 13, 2]
    assert said[[0, 14]] == pytest.approx([0.03, 0.995])
    assert right[[0, 14]].tolist() == [0.5, 1.0]
    assert np.isnan(said[1:14]).all()
    error = metrics.calibration_error(confidence, np.array([False, True, True, True]))
    assert error == pytest.approx((0.47 + 0.005) / 2)

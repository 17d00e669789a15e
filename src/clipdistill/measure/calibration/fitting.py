"""Fitting a calibration: temperature, expected calibration error, threshold.

The temperature (logit scale) is fitted by maximum likelihood (Guo et al. 2017, "On Calibration of
Modern Neural Networks").  The targets are true labels or, without labels, the teacher's
probabilities, which gives the cross-entropy of distillation (Hinton et al. 2015).  Logits are
linear in scale and bias, so the loss is convex and damped Newton steps find its only minimum.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...core import metrics
from ...core.errors import InputError
from ...core.independent import THRESHOLD, fit_target
from ...core.metrics import Doubles
from ...core.zeroshot import (
    Calibration,
    Floats,
    Independent,
    Logits,
    LogitScale,
    probabilities,
    top_k,
)
from ...formats.text import TextEmbeddings

KEPT = 0.95
"""Share of the correct predictions that reach the threshold."""
LEAST_IMAGES = 20
SCALES = (1.0, 1000.0)
"""Allowed range of a scale: where every prediction is correct, likelihood has no maximum."""
NEWTON_STEPS = 100
SMALLEST_STEP = 1e-9


def calibrate(
    cosines: Floats,
    target: Floats,
    right: NDArray[np.intp],
    teacher: LogitScale,
    *,
    method: Literal["teacher", "labels"],
    model: str,
) -> Calibration:
    """Fit scale and threshold, and measure the calibration error by two-fold cross-validation.

    Args:
        cosines: cosines of a student's embeddings with the class vectors, float32 (N, C).
        target: target probabilities, float32 (N, C): the teacher's, or one-hot true labels.
        right: correct label of each image, int (N,): the teacher's best, or the true one.
        teacher: scale and bias of the teacher.
        method: source of `target`.
        model: name of the student, to be recorded.

    Raises:
        InputError: there are fewer than 20 images.
    """
    _check_count(len(cosines))
    shares = np.empty((len(cosines), cosines.shape[1]), np.float32)
    half = np.arange(len(cosines)) % 2 == 0  # neighbours share a class: both halves have all
    for rows in (half, ~half):
        shares[rows] = _shares(cosines[rows], fit(cosines[~rows], target[~rows], teacher))
    logits = fit(cosines, target, teacher)
    own = _shares(cosines, logits)
    least = threshold_for(own, right)
    return Calibration(
        logits=logits,
        threshold=least,
        method=method,
        model=model,
        images=len(cosines),
        ece_before=calibration_error(_shares(cosines, teacher), right),
        ece_after=calibration_error(shares, right),
        coverage=float(np.mean(own.max(axis=1) >= least)),
    )


def calibrate_independent(
    text: TextEmbeddings,
    cosines: Floats,
    target: Floats,
    *,
    method: Literal["teacher", "labels"],
    model: str,
    source: str,
) -> Calibration:
    """Fit the probability of each class on its own, and measure its error as `calibrate` does.

    Args:
        text: the classes, with the teacher's probabilities.
        cosines: cosines of a student's embeddings with the class vectors, float32 (N, C).
        target: target probabilities, float32 (N, C).
        method: source of `target`.
        model: name of the student, to be recorded.
        source: name of the images, to be recorded.

    Raises:
        InputError: there are fewer than 20 images.
    """
    base = text.independent
    assert base is not None
    _check_count(len(cosines))

    def fitted(rows: NDArray[np.bool_]) -> Independent:
        return fit_target(
            base, cosines[rows], target[rows], text.labels, method=method, source=source
        )

    shares = np.empty(cosines.shape, np.float32)
    half = np.arange(len(cosines)) % 2 == 0
    for rows in (half, ~half):
        shares[rows] = _shares(cosines[rows], fitted(~rows))
    found = fitted(np.ones(len(cosines), bool))
    has = _shares(cosines, found) >= np.array(found.thresholds)
    true = target.ravel() >= THRESHOLD
    before = _shares(cosines, base)
    return Calibration(
        logits=text.teacher.logits,
        threshold=0.0,
        method=method,
        model=model,
        images=len(cosines),
        ece_before=metrics.calibration_error(before.ravel(), true),
        ece_after=metrics.calibration_error(shares.ravel(), true),
        coverage=float(has.any(axis=1).mean()),
        independent=found,
    )


def _check_count(count: int) -> None:
    if count < LEAST_IMAGES:
        raise InputError(
            f"--calibrate: expected {LEAST_IMAGES} or more images, found {count}. Add some."
        )


def fit(cosines: Floats, target: Floats, teacher: LogitScale) -> LogitScale:
    """Fit the scale, and the bias where the teacher has one, by maximum likelihood.

    Args:
        cosines: float32 (N, C).
        target: target probabilities, float32 (N, C).
        teacher: scale and bias of the teacher; the start of the softmax's search.
    """
    solve = _fit_softmax if teacher.bias is None else _fit_sigmoid
    return solve(cosines.astype(np.float64), target.astype(np.float64), teacher)


def _fit_softmax(cosines: Doubles, target: Doubles, teacher: LogitScale) -> LogitScale:
    scale = teacher.scale
    wanted = np.mean((target * cosines).sum(axis=1) / target.sum(axis=1))
    for _ in range(NEWTON_STEPS):
        shares = _softmax(scale * cosines)
        means = (shares * cosines).sum(axis=1)
        spread = np.mean((shares * cosines**2).sum(axis=1) - means**2)
        step = (means.mean() - wanted) / max(spread, 1e-12)
        # At most halve or double: far from the minimum the curvature is close to 0.
        new = float(np.clip(scale - step, max(scale / 2, SCALES[0]), min(scale * 2, SCALES[1])))
        if abs(new - scale) < SMALLEST_STEP * scale:
            break
        scale = new
    return LogitScale(scale)


def _fit_sigmoid(cosines: Doubles, target: Doubles, teacher: LogitScale) -> LogitScale:
    """Fit a logistic regression with one feature (Platt 1999) and one example per (image, label).

    The search starts from slope 0 on the standardised feature.  At the teacher's own scale and bias
    all sigmoids may be saturated, which gives no gradient.
    """
    middle, width = cosines.mean(), max(float(cosines.std()), 1e-9)
    features = np.stack([(cosines.ravel() - middle) / width, np.ones(cosines.size)], axis=1)
    wanted = target.ravel()
    share = np.clip(wanted.mean(), 1e-6, 1 - 1e-6)
    found = np.array([0.0, np.log(share / (1 - share))])
    loss = _cross_entropy(features @ found, wanted)
    for _ in range(NEWTON_STEPS):
        new = found - _newton_step(features, found, wanted)
        better = _cross_entropy(features @ new, wanted)
        while better > loss and not np.allclose(new, found, rtol=SMALLEST_STEP):
            new = (new + found) / 2
            better = _cross_entropy(features @ new, wanted)
        if loss - better < SMALLEST_STEP * max(loss, 1.0):
            break
        found, loss = new, better
    scale = float(np.clip(found[0] / width, *SCALES))
    return LogitScale(scale, float(found[1] - scale * middle))


def _newton_step(features: Doubles, found: Doubles, wanted: Doubles) -> Doubles:
    shares = 1 / (1 + np.exp(-np.clip(features @ found, -500, 500)))
    curvature = (features * (shares * (1 - shares))[:, None]).T @ features + 1e-9 * np.eye(2)
    return np.asarray(np.linalg.solve(curvature, features.T @ (shares - wanted)), np.float64)


def calibration_error(shares: Floats, right: NDArray[np.intp]) -> float:
    """Compute the expected calibration error, from 0 to 1: confidence minus accuracy, per bin.

    Args:
        shares: probabilities float32 (N, C).
        right: correct label of each image, int (N,).
    """
    return metrics.calibration_error(shares.max(axis=1), _correct(shares, right))


def threshold_for(shares: Floats, right: NDArray[np.intp]) -> float:
    """Find the probability that 95% of the correct predictions reach; 0 without correct ones."""
    sure = np.sort(shares.max(axis=1)[_correct(shares, right)])
    if not len(sure):
        return 0.0
    # Rounded down to three digits, so that it never rejects more than intended.
    return math.floor(1000 * float(sure[int((1 - KEPT) * len(sure))])) / 1000


def _correct(shares: Floats, right: NDArray[np.intp]) -> NDArray[np.bool_]:
    return np.asarray(top_k(shares, 1)[:, 0] == right)


def _shares(cosines: Floats, logits: Logits) -> Floats:
    # Cosines are already products, so the identity matrix takes the place of the class vectors.
    return probabilities(cosines, np.eye(cosines.shape[1], dtype=np.float32), logits)


def _softmax(values: Doubles) -> Doubles:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    result: Doubles = powers / powers.sum(axis=1, keepdims=True)
    return result


def _cross_entropy(values: Doubles, target: Doubles) -> float:
    """Sum the binary cross-entropies of logits (M,) with targets (M,)."""
    return float(np.sum(np.logaddexp(0, values) - target * values))

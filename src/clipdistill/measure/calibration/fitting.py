"""From cosines to probabilities that can be believed: temperature, calibration error, threshold.

The temperature (logit scale) is fitted by maximum likelihood (Guo et al. 2017, "On Calibration of
Modern Neural Networks"): to true labels, or without labels to the teacher's probabilities, which is
the cross-entropy that distillation uses (Hinton et al. 2015).  Logits are linear in scale and bias,
so the loss is convex and a damped Newton step finds its only minimum.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...core import metrics
from ...core.errors import InputError
from ...core.metrics import Doubles
from ...core.zeroshot import Calibration, Floats, LogitScale, probabilities, top_k

KEPT = 0.95
"""Share of the right answers that the threshold lets through."""
LEAST_IMAGES = 20
SCALES = (1.0, 1000.0)
"""A scale is kept in this range: where every answer is right, likelihood knows no upper bound."""
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
    """Fit scale and threshold, and measure what they give on images they were not fitted on.

    Args:
        cosines: of a student's embeddings with the classes, float32 (N, C).
        target: the probabilities to come near to, float32 (N, C): the teacher's, or one-hot truth.
        right: which label is right for each image, int (N,): the teacher's best, or the truth.
        teacher: its own scale and bias.
        method: what `target` is.
        model: the student, for the record.

    Raises:
        InputError: fewer than 20 images.
    """
    if len(cosines) < LEAST_IMAGES:
        raise InputError(
            f"{len(cosines)} images are too few to calibrate on; expected {LEAST_IMAGES} or more."
        )
    shares = np.empty((len(cosines), cosines.shape[1]), np.float32)
    half = np.arange(len(cosines)) % 2 == 0  # neighbours are of one class: both halves have all
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


def fit(cosines: Floats, target: Floats, teacher: LogitScale) -> LogitScale:
    """The scale (and bias, where the teacher has one) under which `target` is likeliest.

    Args:
        cosines: float32 (N, C).
        target: float32 (N, C), probabilities.
        teacher: where the search starts, and whether there is a bias.
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
        # At most halve or double: far from the minimum the curvature is almost nothing.
        new = float(np.clip(scale - step, max(scale / 2, SCALES[0]), min(scale * 2, SCALES[1])))
        if abs(new - scale) < SMALLEST_STEP * scale:
            break
        scale = new
    return LogitScale(scale)


def _fit_sigmoid(cosines: Doubles, target: Doubles, teacher: LogitScale) -> LogitScale:
    """Logistic regression with one feature (Platt 1999), every (image, label) an example.

    It starts from no slope on the standardised feature: from the teacher's own scale and bias all
    sigmoids may be saturated, and a saturated sigmoid shows no way out.
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
    """Expected calibration error: how far confidence is from accuracy, 0 to 1.

    Args:
        shares: probabilities float32 (N, C).
        right: the right label of each image, int (N,).
    """
    return metrics.calibration_error(shares.max(axis=1), _correct(shares, right))


def threshold_for(shares: Floats, right: NDArray[np.intp]) -> float:
    """The probability that 95% of the right answers reach; 0 where no answer is right."""
    sure = np.sort(shares.max(axis=1)[_correct(shares, right)])
    if not len(sure):
        return 0.0
    # Rounded down to what a person can type, so that it never rejects more than it says.
    return math.floor(1000 * float(sure[int((1 - KEPT) * len(sure))])) / 1000


def _correct(shares: Floats, right: NDArray[np.intp]) -> NDArray[np.bool_]:
    return np.asarray(top_k(shares, 1)[:, 0] == right)


def _shares(cosines: Floats, logits: LogitScale) -> Floats:
    # Cosines are already products: with the identity as "text" they are scaled and nothing else.
    return probabilities(cosines, np.eye(cosines.shape[1], dtype=np.float32), logits)


def _softmax(values: Doubles) -> Doubles:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    result: Doubles = powers / powers.sum(axis=1, keepdims=True)
    return result


def _cross_entropy(values: Doubles, target: Doubles) -> float:
    """Sum of the binary cross-entropies of logits (M,) with targets (M,)."""
    return float(np.sum(np.logaddexp(0, values) - target * values))

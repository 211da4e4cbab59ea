"""Areas, calibration errors and temperatures."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from gpt_keras.metrics.probabilities import auroc, calibration_error, fit_temperature, ranks

RNG = np.random.default_rng(0)


def test_auroc_is_scikit_learns_with_ties():
    scores = np.round(RNG.normal(size=(200, 4)), 1)  # many are equal
    holds = RNG.random((200, 4)) < 0.3
    expected = roc_auc_score(holds, scores, average="macro")
    assert auroc(ranks(scores), holds) == pytest.approx(expected, abs=1e-12)
    some = RNG.integers(0, 200, 90)  # ranks of all rows serve for some
    expected = roc_auc_score(holds[some], scores[some], average="macro")
    assert auroc(ranks(scores)[some], holds[some]) == pytest.approx(expected, abs=1e-12)


def test_a_column_without_both_kinds_has_no_area():
    scores = RNG.normal(size=(50, 3))
    holds = np.stack([scores[:, 0] > 0, np.ones(50, bool), np.zeros(50, bool)], axis=1)
    assert auroc(ranks(scores), holds) == 1.0
    assert math.isnan(auroc(ranks(scores), holds[:, [1, 1, 2]]))


def test_calibration_error_is_the_weighted_gap_of_15_bins():
    confidence = np.concatenate([RNG.random(500), np.arange(16) / 15, [1.0, 0.0]])
    right = RNG.random(len(confidence)) < confidence**2
    expected = 0.0
    for i in range(15):
        inside = [
            (c, r) for c, r in zip(confidence, right, strict=True)
            if i / 15 < c <= (i + 1) / 15 or (i == 0 and c == 0)
        ]  # fmt: skip
        if inside:
            gap = sum(r for _, r in inside) / len(inside) - sum(c for c, _ in inside) / len(inside)
            expected += len(inside) / len(confidence) * abs(gap)
    assert calibration_error(confidence, right) == pytest.approx(expected, abs=1e-9)
    assert calibration_error(np.array([0.8] * 10), np.arange(10) < 8) == pytest.approx(0)


def test_the_temperature_of_logits_that_are_too_large_is_found():
    logits = RNG.normal(size=(20000, 1))
    true = RNG.random((20000, 1)) < 1 / (1 + np.exp(-logits))

    def loss(t):
        return np.mean(np.logaddexp(0, np.where(true, -3, 3) * logits / t))

    found = fit_temperature(loss)
    assert found == pytest.approx(3, rel=0.05)
    assert loss(found) <= min(loss(found * 1.001), loss(found / 1.001))
    assert fit_temperature(lambda t: t) == pytest.approx(0.1)  # no valley: an end of the range

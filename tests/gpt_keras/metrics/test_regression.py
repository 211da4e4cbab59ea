"""Metrics of numbers."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, mean_squared_error

from gpt_keras.losses import Loss
from gpt_keras.metrics import RegressionMetrics


def collected(true, said):
    metrics, rows = RegressionMetrics(), np.stack([(said - true) ** 2, np.ones(len(true))], axis=1)
    for part in np.array_split(np.arange(len(true)), 3):
        batch = {"score": true[part], "sample_id": part}
        metrics.update(batch, Loss(0.0, 0.0, said[part][:, None], rows[part]))
    return metrics


def test_they_are_scipys_and_scikit_learns():
    rng = np.random.default_rng(0)
    true = rng.integers(1, 6, 60).astype(float)  # with ties
    said = np.round(true + rng.normal(size=60), 1)
    metrics, picks = collected(true, said), rng.integers(0, 60, 80)
    for found, chosen in ((metrics.result(), slice(None)), (metrics.score(picks), picks)):
        x, y = true[chosen], said[chosen]
        assert found == pytest.approx({
            "loss": mean_squared_error(x, y), "mse": mean_squared_error(x, y),
            "mae": mean_absolute_error(x, y), "pearson": pearsonr(x, y)[0],
            "spearman": spearmanr(x, y)[0],
        })  # fmt: skip
    assert metrics.details()["variance"] == pytest.approx(np.var(true))
    assert "variance" in metrics.report()


def test_what_is_constant_correlates_with_nothing():
    assert set(collected(np.ones(6), np.arange(6.0)).result()) == {"loss", "mse", "mae"}

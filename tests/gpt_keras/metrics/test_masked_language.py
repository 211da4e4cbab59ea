"""Metrics of a masked language model."""

import numpy as np
import pytest

from gpt_keras.losses import Loss
from gpt_keras.metrics import MaskedLanguageMetrics


def test_of_the_tokens_that_were_asked_for():
    metrics, rng = MaskedLanguageMetrics(), np.random.default_rng(0)
    weight, total = np.array([3.0, 1.0, 0.0, 2.0]), rng.random(4) * [1, 1, 0, 1]
    right = np.array([2.0, 0.0, 0.0, 1.0])
    targets = np.array([[7, 7, 5], [7, 9, 9], [9, 9, 9], [5, 6, 9]])
    mask = np.arange(3) < weight[:, None]
    for part in ([0, 1], [2, 3]):
        batch = {"targets": targets[part], "loss_mask": mask[part], "sample_id": np.array(part)}
        rows = np.stack([total, weight], axis=1)[part]
        metrics.update(batch, Loss(0.0, 0.0, right[part][:, None], rows))
    details = metrics.details()
    assert details["loss"] == pytest.approx(total.sum() / 6)
    assert details["masked_perplexity"] == pytest.approx(np.exp(total.sum() / 6))
    assert details["masked_accuracy"] == 0.5
    assert (details["tokens"], details["most_frequent_token"]) == (6, 0.5)
    assert metrics.score(np.array([0, 0, 3]))["masked_accuracy"] == pytest.approx(5 / 8)
    assert "always the most frequent token: accuracy 0.5000" in metrics.report()

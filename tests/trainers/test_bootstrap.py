"""Intervals and comparisons, beside what is known of them in closed form and scipy's."""

import numpy as np
import pytest
from scipy import stats

from gpt_keras.losses import Loss
from gpt_keras.metrics import ClassificationMetrics
from trainers.bootstrap import compare, intervals


def collected(right):
    """Metrics of samples of label 0 that were told right or not, in batches."""
    metrics = ClassificationMetrics(("a", "b"))
    parts = np.array_split(np.asarray(right), 3)
    for first, part in zip((0, len(parts[0]), len(parts[0]) + len(parts[1])), parts, strict=True):
        outputs = np.where(part[:, None], [1.0, 0.0], [0.0, 1.0])
        rows = np.stack([1.0 - part, np.ones(len(part))], axis=1)
        batch = {
            "label": np.zeros(len(part), int),
            "weight": np.ones(len(part)),
            "sample_id": first + np.arange(len(part)),
        }
        metrics.update(batch, Loss(rows[:, 0].sum(), len(part), outputs, rows))
    return metrics


def test_intervals_are_scipys():
    right = np.random.default_rng(0).random(200) < 0.8
    found = intervals(collected(right), 4000)["accuracy"]
    expected = stats.bootstrap(
        (right,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.value == pytest.approx(right.mean())
    assert found.low == pytest.approx(expected.low, abs=0.006)
    assert found.high == pytest.approx(expected.high, abs=0.006)


def test_the_same_seed_gives_the_same():
    metrics = collected(np.random.default_rng(0).random(50) < 0.5)
    assert intervals(metrics, 50, seed=1) == intervals(metrics, 50, seed=1)
    assert intervals(metrics, 50, seed=1) != intervals(metrics, 50, seed=2)


def test_a_better_model_is_told_from_chance():
    rng = np.random.default_rng(0)
    right = rng.random(300) < 0.7
    better = right | (rng.random(300) < 0.3)
    found = compare(collected(right), collected(better), 1000)["accuracy"]
    assert found.value == pytest.approx(better.mean() - right.mean())
    assert 0 < found.low < found.value < found.high
    assert found.p_value < 0.01
    # Samples in another order are as good as these, but not one by one: chance is larger.
    other = rng.permutation(right)
    found = compare(collected(right), collected(other), 1000)["accuracy"]
    assert found.low < 0 < found.high
    assert found.p_value > 0.1


def test_other_samples_cannot_be_compared():
    with pytest.raises(ValueError, match="evaluations of 9 and 6 samples"):
        compare(collected([True] * 9), collected([True] * 6), 10)
    assert intervals(ClassificationMetrics(("a", "b")), 10) == {}

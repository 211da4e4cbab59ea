"""Metrics of any number of labels a text."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, classification_report, f1_score, roc_auc_score

from gpt_keras.losses import Loss
from gpt_keras.metrics import MultiLabelMetrics
from gpt_keras.metrics.probabilities import calibration_error

NAMES = ("sport", "politics", "science")


@pytest.fixture
def collected():
    """Metrics over batches with filler rows; truth (21, 3) and logits of their samples."""
    rng, truth, given = np.random.default_rng(0), [], []
    metrics = MultiLabelMetrics(NAMES, temperature=2.0, threshold=0.4)
    for real in (8, 8, 5):
        label = (rng.random((8, 3)) < 0.4).astype(np.float32)
        logits = rng.normal(size=(8, 3)) + label
        sample_id = np.where(np.arange(8) < real, len(truth) + np.arange(8), -1)
        rows = np.stack([np.full(8, 2.0), np.ones(8)], axis=1)
        metrics.update(
            {"label": label, "sample_id": sample_id}, Loss(16.0, 8.0, logits, rows)
        )  # fmt: skip
        truth += label[:real].tolist()
        given += logits[:real].tolist()
    return metrics, np.array(truth, int), np.array(given)


def expected(truth, logits):
    p = 1 / (1 + np.exp(-logits / 2))
    said = (p >= 0.4).astype(int)
    return {
        "loss": 2.0,
        "accuracy": accuracy_score(truth, said),
        "macro_f1": f1_score(truth, said, average="macro", zero_division=0),
        "micro_f1": f1_score(truth, said, average="micro"),
        "auroc": roc_auc_score(truth, p, average="macro"),
        "ece": calibration_error(p.reshape(-1), truth.reshape(-1) == 1),
    }


def test_they_are_scikit_learns(collected):
    metrics, truth, logits = collected
    assert metrics.result() == pytest.approx(expected(truth, logits))
    picks = np.random.default_rng(1).integers(0, 21, 40)
    assert metrics.score(picks) == pytest.approx(expected(truth[picks], logits[picks]))
    said = (1 / (1 + np.exp(-logits / 2)) >= 0.4).astype(int)
    report = classification_report(
        truth, said, target_names=NAMES, output_dict=True, zero_division=0
    )
    for name in NAMES:
        found = metrics.details()["classes"][name]
        assert found["f1"] == pytest.approx(report[name]["f1-score"])
        assert found["support"] == report[name]["support"]
    assert "micro avg" in metrics.report()


def test_calibration_makes_the_truth_most_likely(collected):
    metrics, truth, logits = collected

    def likelihood(t):
        return -np.logaddexp(0, -np.where(truth, logits, -logits) / t).mean()

    found = metrics.calibrate()
    grid = np.exp(np.linspace(np.log(0.1), np.log(10), 2000))
    assert found == pytest.approx(grid[np.argmax([likelihood(t) for t in grid])], rel=0.01)
    assert metrics.temperature == found
    p = 1 / (1 + np.exp(-logits / found))
    ece = calibration_error(p.reshape(-1), truth.reshape(-1) == 1)
    assert metrics.result()["ece"] == pytest.approx(ece)

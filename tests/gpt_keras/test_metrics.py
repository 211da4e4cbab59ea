import math

import numpy as np
import pytest
from sklearn.metrics import classification_report, confusion_matrix, f1_score, roc_auc_score

from gpt_keras.losses import Loss
from gpt_keras.metrics import ClassificationMetrics, LanguageModelMetrics
from gpt_keras.metrics.probabilities import calibration_error

# The last name is also a key of scikit-learn's report.
NAMES = ("negative", "neutral", "macro avg")


def test_language_model_metrics_of_a_uniform_model():
    metrics = LanguageModelMetrics(num_bytes=20)
    for tokens in (6, 4):  # 10 tokens of 2 bytes, each as likely as 1 of 16
        rows = np.array([[tokens * math.log(16) / 2, tokens / 2]] * 2)
        metrics.update({"sample_id": np.arange(2)}, Loss(*rows.sum(axis=0), rows=rows))
    result = metrics.result()
    assert result["loss"] == pytest.approx(math.log(16))
    assert result["perplexity"] == pytest.approx(16)
    assert result["bits_per_byte"] == pytest.approx(10 * 4 / 20)
    assert metrics.details()["tokens"] == 10


def test_bits_per_byte_need_the_number_of_bytes():
    metrics = LanguageModelMetrics()
    metrics.update({"sample_id": np.arange(1)}, Loss(3.0, 2.0, rows=np.array([[3.0, 2.0]])))
    assert set(metrics.result()) == {"loss", "perplexity"}


def test_the_loss_of_each_source_that_has_any():
    metrics = LanguageModelMetrics(sources=("wiki", "code", "none"))
    rows = np.array([[6.0, 2.0], [1.0, 4.0], [0.0, 0.0]], np.float32)
    for ids in ([0, 1, 2], [1, 1, 0]):
        metrics.update(
            {"source_id": np.array(ids), "sample_id": np.arange(3)},
            Loss(*rows.sum(axis=0), rows=rows),
        )
    result = metrics.result()
    assert result.pop("loss_of/wiki") == 6 / 2
    assert result.pop("loss_of/code") == (1 + 6 + 1) / (4 + 2 + 4)
    assert set(result) == {"loss", "perplexity"}


@pytest.fixture
def collected():
    """Metrics over batches with filler rows, and the true and predicted labels in them."""
    rng = np.random.default_rng(0)
    metrics, true, predicted = ClassificationMetrics(NAMES), [], []
    for real in (8, 8, 5):
        labels, logits = rng.integers(0, 3, 8), rng.normal(size=(8, 3))
        weight = (np.arange(8) < real).astype(np.float32)
        rows = np.stack([2.0 * weight, weight], axis=1)
        batch = {
            "label": labels,
            "weight": weight,
            "sample_id": np.where(weight, len(true) + np.arange(8), -1),
        }
        metrics.update(batch, Loss(2.0 * real, real, logits, rows))
        true += labels[:real].tolist()
        predicted += logits.argmax(axis=1)[:real].tolist()
    return metrics, true, predicted


def test_classification_metrics_are_scikit_learns(collected):
    metrics, true, predicted = collected
    details = metrics.details()
    names = ["a", "b", "c"]
    report = classification_report(true, predicted, target_names=names, output_dict=True)
    assert details["loss"] == 2.0
    assert details["accuracy"] == pytest.approx(report["accuracy"])
    assert details["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
    for name, key in zip(NAMES, names, strict=True):
        assert details["classes"][name]["precision"] == pytest.approx(report[key]["precision"])
        assert details["classes"][name]["recall"] == pytest.approx(report[key]["recall"])
        assert details["classes"][name]["f1"] == pytest.approx(report[key]["f1-score"])
        assert details["classes"][name]["support"] == report[key]["support"]
    np.testing.assert_array_equal(details["confusion_matrix"], confusion_matrix(true, predicted))


def test_majority_class_is_the_most_frequent_true_label(collected):
    metrics, true, _ = collected
    counts = np.bincount(true)
    majority = metrics.details()["majority_class"]
    assert majority["name"] == NAMES[counts.argmax()]
    assert majority["accuracy"] == pytest.approx(counts.max() / len(true))
    assert majority["macro_f1"] == pytest.approx(
        2 * counts.max() / (len(true) + counts.max()) / 3  # one class of F1, two of zero
    )
    assert "majority class" in metrics.report()


@pytest.mark.parametrize("classes", [3, 20])
def test_columns_of_a_wide_confusion_matrix_have_numbers(classes):
    names = tuple(f"group.number.{i}" for i in range(classes))
    metrics = ClassificationMetrics(names)
    labels = np.arange(classes)
    rows = np.array([[0.05, 1.0]] * classes)
    batch = {"label": labels, "weight": np.ones(classes), "sample_id": labels}
    metrics.update(batch, Loss(0.1, 2.0, np.eye(classes)[(labels + 1) % classes], rows))
    lines = metrics.report().split("predicted)\n")[1].split("\n\n")[0].splitlines()
    assert lines[0].split() == (list(names) if classes == 3 else [str(i + 1) for i in labels])
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) <= 120
    last = [*([names[-1]] if classes == 3 else [names[-1], "20"]), "1", *["0"] * (classes - 1)]
    assert lines[-1].split() == last


def test_a_class_that_never_comes_counts_as_zero():
    metrics = ClassificationMetrics(NAMES)
    logits = np.eye(3)[[0, 1]]
    rows = np.array([[0.05, 1.0]] * 2)
    batch = {"label": np.array([0, 1]), "weight": np.ones(2), "sample_id": np.arange(2)}
    metrics.update(batch, Loss(0.1, 2.0, logits, rows))
    assert metrics.result()["accuracy"] == 1.0
    assert metrics.result()["macro_f1"] == pytest.approx(2 / 3)


def test_scores_of_some_samples_are_those_of_these_alone(collected):
    metrics, true, predicted = collected
    picks = np.random.default_rng(1).integers(0, len(true), 50)
    true, predicted = np.array(true)[picks], np.array(predicted)[picks]
    found = metrics.score(picks)
    assert metrics.num_samples == 21
    assert found["accuracy"] == pytest.approx(np.mean(true == predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"))
    assert metrics.score(np.arange(21)) == pytest.approx(metrics.result())


def test_scores_of_some_rows_of_a_language_model():
    metrics = LanguageModelMetrics(num_bytes=12)
    rows = np.array([[6.0, 2.0], [1.0, 4.0]])
    metrics.update({"sample_id": np.arange(2)}, Loss(7.0, 6.0, rows=rows))
    assert metrics.score(np.array([0, 0]))["loss"] == 3.0
    assert metrics.score(np.array([0]))["bits_per_byte"] == pytest.approx(3 / math.log(2) * 6 / 12)
    assert metrics.score(np.array([0, 1])) == metrics.result()


def collect(labels, logits, **options):
    metrics = ClassificationMetrics([str(i) for i in range(logits.shape[1])], **options)
    rows = np.ones((len(labels), 2))
    metrics.update(
        {"label": labels, "sample_id": np.arange(len(labels))}, Loss(0.0, 1.0, logits, rows)
    )
    return metrics


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_areas_and_calibration_error():
    rng = np.random.default_rng(2)
    labels, logits = rng.integers(0, 3, 90), rng.normal(size=(90, 3))
    metrics, p = collect(labels, logits, temperature=0.5), softmax(2 * logits)
    for chosen in (slice(90), rng.integers(0, 90, 60)):
        found = metrics.score(np.arange(90)[chosen])
        y, q = labels[chosen], p[chosen]
        area = roc_auc_score(y, q, multi_class="ovr", average="macro")
        assert found["auroc"] == pytest.approx(area, abs=1e-9)
        assert found["micro_f1"] == f1_score(y, q.argmax(axis=1), average="micro")
        expected = calibration_error(q.max(axis=1), q.argmax(axis=1) == y)
        assert found["ece"] == pytest.approx(expected)
    two = collect(labels % 2, logits[:, :2]).result()["auroc"]
    assert two == pytest.approx(roc_auc_score(labels % 2, softmax(logits[:, :2])[:, 1]), abs=1e-9)
    assert "auroc" not in collect(np.zeros(4, int), logits[:4]).result()


def test_calibration_finds_how_much_too_sure_the_logits_are():
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(4000, 3))
    labels = np.array([rng.choice(3, p=p) for p in softmax(logits)])
    metrics = collect(labels, 4 * logits)
    before = metrics.result()
    assert metrics.calibrate() == pytest.approx(4, rel=0.1)
    after = metrics.result()
    assert after["ece"] < before["ece"] / 4
    assert after["accuracy"] == before["accuracy"]

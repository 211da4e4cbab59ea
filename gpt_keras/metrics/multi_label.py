"""Metrics of a classifier that gives a text any number of labels."""

import math
from typing import NamedTuple

import numpy as np

from gpt_keras.metrics.labels import LabelMetrics
from gpt_keras.metrics.probabilities import auroc, calibration_error, fit_temperature, ranks


class MultiLabelMetrics(LabelMetrics):
    """Loss, accuracy, macro- and micro-F1, AUROC and calibration error of labels on their own.

    Accuracy is the share of texts all of whose labels are right; AUROC the mean over the labels
    that some texts have and some have not, absent where there is none; the calibration error is
    that of all probabilities, of each label of each text.

    Args:
      names: of the labels, in index order.
      temperature: what logits are divided by before probabilities are made of them.
      threshold: probability from which a label counts as said.
    """

    def __init__(self, names, temperature: float = 1.0, threshold: float = 0.5):
        super().__init__(names, temperature)
        self.threshold = threshold

    def _look(self) -> "_Seen":
        true, logits = self._columns
        probabilities = sigmoid(logits / self.temperature)
        said = probabilities >= self.threshold
        rows = self.samples[:, len(self.names) :][:, :2]
        return _Seen(true, said, probabilities, ranks(probabilities), rows)

    @property
    def _columns(self):
        """Truth (n, C) bool and logits (n, C) of the samples."""
        C = len(self.names)
        return self.samples[:, :C] > 0.5, self.samples[:, C + 2 : 2 * C + 2]

    def score(self, samples=None) -> dict[str, float]:
        seen = self._seen
        if samples is not None:
            seen = _Seen(*(values[samples] for values in seen))
        total, weight = seen.rows.sum(axis=0).tolist()
        area = auroc(seen.places, seen.true)
        f1 = of_labels(seen.true, seen.said)["f1"]
        both, either = (seen.true & seen.said).sum(), seen.true.sum() + seen.said.sum()
        return {
            "loss": total / max(weight, 1e-9),
            "accuracy": float((seen.true == seen.said).all(axis=1).sum()) / max(len(seen.true), 1),
            "macro_f1": float(np.mean(f1)),
            "micro_f1": float(2 * both / max(either, 1)),
            **({} if math.isnan(area) else {"auroc": area}),
            "ece": calibration_error(seen.probabilities.reshape(-1), seen.true.reshape(-1)),
        }

    def calibrate(self) -> float:
        """Sets `temperature` to what makes the truth of the samples most likely; returns it."""
        true, logits = self._columns
        logits = np.where(true, logits, -logits)
        self.temperature = fit_temperature(lambda t: np.mean(np.logaddexp(0, -logits / t)))
        return self.temperature

    def details(self) -> dict:
        """`result`, and the scores of each label."""
        scores = of_labels(self._seen.true, self._seen.said)
        labels = {
            name: {score: values[i].item() for score, values in scores.items()}
            for i, name in enumerate(self.names)
        }
        return {**self.result(), "classes": labels}

    def report(self) -> str:
        """scikit-learn's table and the numbers."""
        # Imported here: a second of start-up that generation and serving need not pay.
        from sklearn.metrics import classification_report

        table = classification_report(
            self._seen.true, self._seen.said, target_names=self.names, digits=3, zero_division=0
        )
        return f"{table.rstrip()}\n\n{super().report()}"


class _Seen(NamedTuple):
    """true, said: (n, C) bool; probabilities: (n, C); places: (n, C) int64; rows: (n, 2)."""

    true: np.ndarray
    said: np.ndarray
    probabilities: np.ndarray
    places: np.ndarray
    rows: np.ndarray


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))


def of_labels(true: np.ndarray, said: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and support (C,) of each label; 0 where there is nothing to divide by.

    Args:
      true, said: (n, C) bool.
    """
    right, support, found = (true & said).sum(axis=0), true.sum(axis=0), said.sum(axis=0)
    return {
        "precision": right / np.maximum(found, 1),
        "recall": right / np.maximum(support, 1),
        "f1": 2 * right / np.maximum(support + found, 1),
        "support": support,
    }

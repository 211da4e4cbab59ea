"""Metrics of a classifier."""

import math
from typing import NamedTuple

import numpy as np

from gpt_keras.metrics.labels import LabelMetrics
from gpt_keras.metrics.probabilities import auroc, calibration_error, fit_temperature, ranks

WIDEST = 120  # characters of a line of the confusion matrix, where names stand above the columns


class ClassificationMetrics(LabelMetrics):
    """Loss, accuracy, macro- and micro-F1, AUROC and calibration error of one label a text.

    Per class precision, recall and F1, and the confusion matrix. Micro-F1 is the accuracy here;
    AUROC is the mean of each label against the rest, absent where the data have one label alone.

    Args:
      names: of the labels, in index order.
      temperature: what logits are divided by before probabilities are made of them.
    """

    def _look(self) -> "_Seen":
        samples, C = self.samples, len(self.names)
        true, logits = samples[:, 0].astype(np.int64), samples[:, 3 : 3 + C]
        probabilities = softmax(logits / self.temperature)
        predicted = np.argmax(logits, axis=1)
        confidence = np.max(probabilities, axis=1, initial=0)
        places = ranks(probabilities)
        return _Seen(true, predicted, confidence, places, samples[:, 1:3])

    @property
    def confusion(self) -> np.ndarray:
        """(C, C) int64, samples by true label (rows) and predicted label (columns)."""
        return self._confusion(self._seen)

    def _confusion(self, seen: "_Seen"):
        C = len(self.names)
        return np.bincount(seen.true * C + seen.predicted, minlength=C * C).reshape(C, C)

    def score(self, samples=None) -> dict[str, float]:
        seen = self._seen
        if samples is not None:
            seen = _Seen(*(values[samples] for values in seen))
        confusion = self._confusion(seen)
        total, weight = seen.rows.sum(axis=0).tolist()
        accuracy = float(np.trace(confusion)) / max(int(confusion.sum()), 1)
        area = auroc(seen.places, seen.true[:, None] == np.arange(len(self.names)))
        return {
            "loss": total / max(weight, 1e-9),
            "accuracy": accuracy,
            "macro_f1": float(np.mean(of_classes(confusion)["f1"])),
            "micro_f1": accuracy,
            **({} if math.isnan(area) else {"auroc": area}),
            "ece": calibration_error(seen.confidence, seen.true == seen.predicted),
        }

    def calibrate(self) -> float:
        """Sets `temperature` to what makes the truth of the samples most likely; returns it."""
        samples, rows = self.samples, np.arange(self.num_samples)
        true, logits = samples[:, 0].astype(int), samples[:, 3 : 3 + len(self.names)]

        def loss(temperature):
            p = softmax(logits / temperature)[rows, true]
            return -np.mean(np.log(np.maximum(p, 1e-300)))

        self.temperature = fit_temperature(loss)
        return self.temperature

    def details(self) -> dict:
        """`result`, per class scores, the confusion matrix (rows true), and the majority class."""
        confusion = self.confusion
        scores, support = of_classes(confusion), confusion.sum(axis=1)
        majority, count = int(np.argmax(support)), max(int(support.sum()), 1)
        always = np.zeros_like(confusion)
        always[:, majority] = support
        return {
            **self.result(),
            "classes": {
                name: {score: values[i].item() for score, values in scores.items()}
                for i, name in enumerate(self.names)
            },
            "confusion_matrix": confusion.tolist(),
            "majority_class": {
                "name": self.names[majority],
                "accuracy": support[majority].item() / count,
                "macro_f1": float(np.mean(of_classes(always)["f1"])),
            },
        }

    def report(self) -> str:
        """scikit-learn's table, the confusion matrix, and the majority class beside it."""
        details = self.details()
        majority = details["majority_class"]
        return "\n".join(
            [
                self._table(),
                "",
                "confusion matrix (rows: true, columns: predicted)",
                *self._matrix(),
                "",
                f"this model:     accuracy {details['accuracy']:.3f}, "
                f"macro-F1 {details['macro_f1']:.3f}",
                f"majority class: accuracy {majority['accuracy']:.3f}, "
                f"macro-F1 {majority['macro_f1']:.3f} (always {majority['name']!r})",
            ]
        )

    def _matrix(self) -> list[str]:
        """Lines of the confusion matrix; over more columns than names have room, numbers stand."""
        names = columns = list(self.names)
        width = max(9, *map(len, names)) + 2
        if width * (len(names) + 1) > WIDEST:
            columns = [str(i) for i in range(1, len(names) + 1)]
            names = [f"{name} {i}" for name, i in zip(names, columns, strict=True)]
            width = max(len(columns[-1]), len(str(self.confusion.max()))) + 2
        first = max(9, *map(len, names)) + 2
        lines = [" " * first + "".join(column.rjust(width) for column in columns)]
        for name, row in zip(names, self.confusion, strict=True):
            lines.append(name.rjust(first) + "".join(str(n).rjust(width) for n in row))
        return lines

    def _table(self) -> str:
        # Imported here: a second of start-up that generation and serving need not pay.
        from sklearn.metrics import classification_report

        confusion = self.confusion
        true, predicted = np.indices(confusion.shape).reshape(2, -1)
        count = confusion.reshape(-1)
        return classification_report(
            np.repeat(true, count),
            np.repeat(predicted, count),
            labels=range(len(self.names)),
            target_names=self.names,
            digits=3,
            zero_division=0,
        ).rstrip()


class _Seen(NamedTuple):
    """true, predicted: (n,) int64; confidence: (n,); places: (n, C) int64; rows: (n, 2)."""

    true: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    places: np.ndarray
    rows: np.ndarray


def softmax(logits: np.ndarray) -> np.ndarray:
    """(n, C) -> (n, C), rows of sum 1."""
    powers = np.exp(logits - np.max(logits, axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def of_classes(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and support (C,) of each class; 0 where there is nothing to divide by.

    Args:
      confusion: (C, C) int, samples by true label (rows) and predicted label (columns).
    """
    right, support = np.diag(confusion), confusion.sum(axis=1)
    found = confusion.sum(axis=0)
    return {
        "precision": right / np.maximum(found, 1),
        "recall": right / np.maximum(support, 1),
        "f1": 2 * right / np.maximum(support + found, 1),
        "support": support,
    }

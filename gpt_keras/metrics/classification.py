"""Metrics of a classifier."""

import numpy as np

from gpt_keras.metrics.metrics import Metrics


class ClassificationMetrics(Metrics):
    """Loss, accuracy and macro-F1; per class precision, recall and F1; the confusion matrix.

    Args:
      names: of the labels, in index order.
    """

    KEY, HIGHER_IS_BETTER = "macro_f1", True

    def __init__(self, names):
        super().__init__()
        self.names = list(names)

    def update(self, batch, loss) -> None:
        predicted = np.argmax(loss.outputs, axis=-1)
        self.collect(batch, [batch["label"], predicted, loss.rows])

    @property
    def confusion(self) -> np.ndarray:
        """(C, C) int64, samples by true label (rows) and predicted label (columns)."""
        return self._confusion(self.samples)

    def _confusion(self, samples):
        C = len(self.names)
        pairs = samples[:, 0].astype(np.int64) * C + samples[:, 1].astype(np.int64)
        return np.bincount(pairs, minlength=C * C).reshape(C, C)

    def score(self, samples=None) -> dict[str, float]:
        chosen = self.samples if samples is None else self.samples[samples]
        confusion = self._confusion(chosen)
        total, weight = chosen[:, 2:4].sum(axis=0).tolist()
        return {
            "loss": total / max(weight, 1e-9),
            "accuracy": float(np.trace(confusion)) / max(int(confusion.sum()), 1),
            "macro_f1": float(np.mean(of_classes(confusion)["f1"])),
        }

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
        width = max(9, *(len(name) for name in self.names)) + 2
        matrix = [" " * width + "".join(name.rjust(width) for name in self.names)]
        for name, row in zip(self.names, self.confusion, strict=True):
            matrix.append(name.rjust(width) + "".join(str(n).rjust(width) for n in row))
        majority = details["majority_class"]
        return "\n".join(
            [
                self._table(),
                "",
                "confusion matrix (rows: true, columns: predicted)",
                *matrix,
                "",
                f"this model:     accuracy {details['accuracy']:.3f}, "
                f"macro-F1 {details['macro_f1']:.3f}",
                f"majority class: accuracy {majority['accuracy']:.3f}, "
                f"macro-F1 {majority['macro_f1']:.3f} (always {majority['name']!r})",
            ]
        )

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

"""Metrics: what an evaluation reports, collected batch by batch.

Both collectors have the same face: `update(batch, loss)` for each batch, then `result()`, plain
numbers of which `KEY` is the one that early stopping watches; `HIGHER_IS_BETTER` says how.
"""

import math
from collections.abc import Sequence

import numpy as np


class LanguageModelMetrics:
    """Loss in nats per token, perplexity, bits per byte of text, and the loss of each source.

    Bits per byte do not depend on the tokenizer. All the model has to say counts, the end of a
    document too, over the bytes of the text.

    Args:
      num_bytes: of the text that the evaluated tokens stand for; 0 if unknown.
      sources: names of those whose losses are told apart, by the batches' `source_id`.
    """

    KEY, HIGHER_IS_BETTER = "loss", False

    def __init__(self, num_bytes: int = 0, sources: Sequence[str] = ()):
        self.num_bytes, self.sources = num_bytes, tuple(sources)
        self.total = self.weight = 0.0
        self._by_source = np.zeros((len(self.sources), 2))  # total and weight

    def update(self, batch, loss) -> None:
        """Args: batch: as trained on. loss: `losses.Loss` of NumPy values."""
        self.total += float(loss.total)
        self.weight += float(loss.weight)
        if self.sources:
            np.add.at(self._by_source, batch["source_id"], loss.rows)

    def result(self) -> dict[str, float]:
        mean = self.total / max(self.weight, 1.0)
        result = {"loss": mean, "perplexity": math.exp(min(mean, 700.0))}
        if self.num_bytes:
            result["bits_per_byte"] = self.total / math.log(2) / self.num_bytes
        for name, (total, weight) in zip(self.sources, self._by_source.tolist(), strict=True):
            if weight:
                result[f"loss_of/{name}"] = total / weight
        return result

    def details(self) -> dict:
        """`result`, and how many tokens it is the mean of."""
        return {**self.result(), "tokens": self.weight}

    def report(self) -> str:
        """A few lines for the end of a run."""
        lines = [f"{name:>14}  {value:.4f}" for name, value in self.result().items()]
        return "\n".join([*lines, f"{'tokens':>14}  {self.weight:,.0f}"])


class ClassificationMetrics:
    """Loss, accuracy and macro-F1; per class precision, recall and F1; the confusion matrix.

    Args:
      names: of the labels, in index order.
    """

    KEY, HIGHER_IS_BETTER = "macro_f1", True

    def __init__(self, names):
        self.names = list(names)
        self.total = self.weight = 0.0
        self.confusion = np.zeros((len(self.names), len(self.names)), np.int64)

    def update(self, batch, loss) -> None:
        """Args: batch: with `label` and `weight` (B,). loss: `losses.Loss` of NumPy values."""
        self.total += float(loss.total)
        self.weight += float(loss.weight)
        real = np.asarray(batch["weight"]) > 0  # the others only fill the batch
        predicted = np.argmax(loss.logits, axis=-1)[real]
        np.add.at(self.confusion, (np.asarray(batch["label"])[real], predicted), 1)

    def result(self) -> dict[str, float]:
        count = max(int(self.confusion.sum()), 1)
        scores = self._scores(*self._pairs())
        return {
            "loss": self.total / max(self.weight, 1e-9),
            "accuracy": float(np.trace(self.confusion)) / count,
            "macro_f1": float(np.mean(scores["f1"])),
        }

    def details(self) -> dict:
        """`result`, per class scores, the confusion matrix (rows true), and the majority class."""
        true, predicted = self._pairs()
        scores = self._scores(true, predicted)
        majority = int(np.argmax(self.confusion.sum(axis=1)))
        baseline = self._scores(true, np.full_like(true, majority))
        return {
            **self.result(),
            "classes": {
                name: {score: values[i].item() for score, values in scores.items()}
                for i, name in enumerate(self.names)
            },
            "confusion_matrix": self.confusion.tolist(),
            "majority_class": {
                "name": self.names[majority],
                "accuracy": float(np.mean(true == majority)) if len(true) else 0.0,
                "macro_f1": float(np.mean(baseline["f1"])),
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

    def _pairs(self):
        """True and predicted labels, (n,) each, in the order of the matrix."""
        true, predicted = np.indices(self.confusion.shape).reshape(2, -1)
        count = self.confusion.reshape(-1)
        return np.repeat(true, count), np.repeat(predicted, count)

    def _scores(self, true, predicted):
        """Precision, recall, F1 and support of each class, (C,) each."""
        # Imported here: a second of start-up that generation and serving need not pay.
        from sklearn.metrics import precision_recall_fscore_support

        labels = range(len(self.names))
        scores = precision_recall_fscore_support(true, predicted, labels=labels, zero_division=0)
        return dict(zip(("precision", "recall", "f1", "support"), scores, strict=True))

    def _table(self) -> str:
        from sklearn.metrics import classification_report

        true, predicted = self._pairs()
        labels, names = range(len(self.names)), self.names
        return classification_report(
            true, predicted, labels=labels, target_names=names, digits=3, zero_division=0
        ).rstrip()

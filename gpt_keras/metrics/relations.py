"""Metrics of a relation extractor."""

from gpt_keras.metrics.classification import ClassificationMetrics


class RelationMetrics(ClassificationMetrics):
    """As of a classifier of pairs, and micro-F1, precision and recall of what is a relation.

    Args:
      names: of the labels; the first says that there is none.
    """

    KEY = "micro_f1"

    def score(self, samples=None) -> dict[str, float]:
        confusion = self._confusion(self.samples if samples is None else self.samples[samples])
        right = confusion.diagonal()[1:].sum().item()
        true, found = confusion[1:].sum().item(), confusion[:, 1:].sum().item()
        return {
            **super().score(samples),
            "micro_f1": 2 * right / max(true + found, 1),
            "micro_precision": right / max(found, 1),
            "micro_recall": right / max(true, 1),
        }

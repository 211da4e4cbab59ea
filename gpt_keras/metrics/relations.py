"""Metrics of a relation extractor."""

from gpt_keras.metrics.classification import ClassificationMetrics


class RelationMetrics(ClassificationMetrics):
    """As of a classifier of pairs, and micro-F1, precision and recall of what is a relation.

    Args:
      names: of the labels; the first says that there is none.
    """

    KEY = "micro_f1"

    def score(self, samples=None) -> dict[str, float]:
        chosen = slice(None) if samples is None else samples
        true, predicted = self._seen.true[chosen], self._seen.predicted[chosen]
        right = int(((true == predicted) & (true > 0)).sum())
        true, found = int((true > 0).sum()), int((predicted > 0).sum())
        return {
            **super().score(samples),
            "micro_f1": 2 * right / max(true + found, 1),
            "micro_precision": right / max(found, 1),
            "micro_recall": right / max(true, 1),
        }

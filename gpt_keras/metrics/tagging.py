"""Metrics of a token classifier."""

from collections import Counter

import numpy as np

from gpt_keras import tagging
from gpt_keras.metrics.metrics import Metrics


class TaggingMetrics(Metrics):
    """Loss, F1, precision and recall of spans, accuracy of tags; the same of each label.

    A span is right if its words and its label are. With plain tags each word is one, so that F1 is
    accuracy. As `seqeval` counts in its strict mode: over all samples, micro average.

    Args:
      names: of the tags, in index order.
      scheme: of the tags, None if they are plain.
    """

    KEY, HIGHER_IS_BETTER = "f1", True

    def __init__(self, names, scheme: tagging.Scheme | None):
        super().__init__()
        self.names, self.scheme = list(names), scheme
        labels = (tagging.parts(name, self.scheme)[1] for name in self.names)
        self.labels = [label for label in dict.fromkeys(labels) if label]

    def update(self, batch, loss) -> None:
        """`tag` of the batch and `outputs` of the loss as `TokenClassifier.batch_loss` has them."""
        counts = []
        for true, found in zip(batch["tag"], loss.outputs, strict=True):
            true = [self.names[i - 1] for i in true[true > 0]]
            found = [self.names[int(i)] for i in found[: len(true)]]
            counts.append(self._count(true, found))
        self.collect(batch, [loss.rows, np.array(counts)])

    def _count(self, true, found) -> list[int]:
        """Right tags, tags; and of each label right spans, true ones and found ones."""
        spans = [set(tagging.spans_of(tags, self.scheme)) for tags in (true, found)]
        counters = [Counter(span.label for span in some) for some in (spans[0] & spans[1], *spans)]
        right = sum(a == b for a, b in zip(true, found, strict=True))
        return [right, len(true), *(count[label] for label in self.labels for count in counters)]

    def _spans(self, samples) -> np.ndarray:
        """(K, 3): right, true and found spans of each label."""
        return samples[:, 4:-1].sum(axis=0).reshape(-1, 3)

    def score(self, samples=None) -> dict[str, float]:
        chosen = self.samples if samples is None else self.samples[samples]
        total, weight, right, tags = chosen[:, :4].sum(axis=0).tolist()
        loss = {"loss": total / max(weight, 1e-9)}
        spans = _scores(*self._spans(chosen).sum(axis=0).tolist())
        return {**loss, **spans, "accuracy": right / max(tags, 1)}

    def details(self) -> dict:
        """`result`, and the scores and number of spans of each label."""
        spans = zip(self.labels, self._spans(self.samples).tolist(), strict=True)
        labels = {label: {**_scores(*row), "support": int(row[1])} for label, row in spans}
        return {**self.result(), "labels": labels}

    def report(self) -> str:
        details = self.details()
        width = max(8, *(len(label) for label in self.labels)) + 2
        columns = ("precision", "recall", "f1", "support")
        lines = [" " * width + "".join(column.rjust(11) for column in columns)]
        for label, row in details["labels"].items():
            numbers = [f"{row[name]:.3f}" for name in columns[:3]]
            lines.append(
                label.rjust(width) + "".join(x.rjust(11) for x in (*numbers, str(row["support"])))
            )
        lines += ["", *(f"{name:>14}  {value:.4f}" for name, value in self.result().items())]
        return "\n".join(lines)


def _scores(right, true, found) -> dict[str, float]:
    return {
        "f1": 2 * right / max(true + found, 1),
        "precision": right / max(found, 1),
        "recall": right / max(true, 1),
    }

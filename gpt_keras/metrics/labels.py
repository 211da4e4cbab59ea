"""What the metrics of labels have in common, whether a text has one or several."""

import abc

from gpt_keras.metrics.metrics import Metrics


class LabelMetrics(Metrics, abc.ABC):
    """Keeps what samples and logits say, since a bootstrap asks for it a thousand times.

    Args:
      names: of the labels, in index order.
      temperature: what logits are divided by before probabilities are made of them.
    """

    KEY, HIGHER_IS_BETTER = "macro_f1", True

    def __init__(self, names, temperature: float = 1.0):
        super().__init__()
        self.names, self.temperature = list(names), temperature
        self._known: tuple | None = None  # what `_look` gave, and for what

    def update(self, batch, loss) -> None:
        self.collect(batch, [batch["label"], loss.rows, loss.outputs])

    @property
    def _seen(self):
        key = self.num_samples, self.temperature
        if self._known is None or self._known[0] != key:
            self._known = key, self._look()
        return self._known[1]

    @abc.abstractmethod
    def _look(self) -> tuple:
        """What is said of the samples so far, arrays with a row for each sample."""

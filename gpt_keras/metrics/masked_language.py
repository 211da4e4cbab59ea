"""Metrics of a masked language model."""

import math
from collections import Counter

import numpy as np

from gpt_keras.metrics.metrics import Metrics


class MaskedLanguageMetrics(Metrics):
    """Loss in nats, its exponential and accuracy, of the tokens that were asked for.

    The exponential is `masked_perplexity` where others are hidden too, which is comparable at the
    same rate and tokenizer alone, and `pseudo_perplexity` where each token was asked for by itself
    (Salazar et al., 2020, https://arxiv.org/abs/1910.14659), comparable with the same tokenizer. A
    sample is a text.

    Args:
      record_ids: (n,) int, of which text each row is; None: each of another.
      each: whether each token was asked for by itself.
    """

    def __init__(self, record_ids: np.ndarray | None = None, each: bool = False):
        super().__init__()
        self.record_ids, self.each = record_ids, each
        self._asked: Counter[int] = Counter()  # for, by token
        self._texts: np.ndarray | None = None

    def update(self, batch, loss) -> None:
        self.collect(batch, [loss.rows, loss.outputs])
        self._asked.update(batch["targets"][batch["loss_mask"] > 0].tolist())
        self._texts = None

    @property
    def texts(self) -> np.ndarray:
        """(n, 3) of each text: loss, tokens asked for, and those found."""
        if self._texts is None:
            rows = self.samples
            ids = rows[:, -1].astype(np.int64)
            _, text = np.unique(
                ids if self.record_ids is None else self.record_ids[ids], return_inverse=True
            )
            self._texts = np.zeros((len(set(text.tolist())), 3))
            np.add.at(self._texts, text, rows[:, :3])
        return self._texts

    @property
    def num_samples(self) -> int:
        return len(self.texts)

    def score(self, samples=None) -> dict[str, float]:
        chosen = self.texts if samples is None else self.texts[samples]
        total, weight, right = chosen.sum(axis=0).tolist()
        mean = total / max(weight, 1.0)
        return {
            "loss": mean,
            "masked_accuracy": right / max(weight, 1.0),
            f"{'pseudo' if self.each else 'masked'}_perplexity": math.exp(min(mean, 700.0)),
        }

    def details(self) -> dict:
        """`result`, how many tokens were asked for, and how often it was the most frequent one."""
        asked = self._asked.total()
        always = max(self._asked.values(), default=0) / max(asked, 1)
        return {**self.result(), "tokens": asked, "most_frequent_token": always}

    def report(self) -> str:
        details = self.details()
        return (
            f"{super().report()}\n{'tokens':>14}  {details['tokens']:,}\n"
            f"always the most frequent token: accuracy {details['most_frequent_token']:.4f}"
        )

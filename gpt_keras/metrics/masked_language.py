"""Metrics of a masked language model."""

import math
from collections import Counter

from gpt_keras.metrics.metrics import Metrics


class MaskedLanguageMetrics(Metrics):
    """Loss in nats, its exponential and accuracy, of the tokens that were asked for.

    `masked_perplexity` is of tokens of which others are hidden too, at the rate of the training: no
    pseudo-perplexity, for which each token is asked for by itself (Salazar et al., 2020), and
    comparable at the same rate and tokenizer alone. A sample is a row of tokens.
    """

    def __init__(self):
        super().__init__()
        self._asked: Counter[int] = Counter()  # for, by token

    def update(self, batch, loss) -> None:
        self.collect(batch, [loss.rows, loss.outputs])
        self._asked.update(batch["targets"][batch["loss_mask"] > 0].tolist())

    def score(self, samples=None) -> dict[str, float]:
        chosen = self.samples if samples is None else self.samples[samples]
        total, weight, right = chosen[:, :3].sum(axis=0).tolist()
        mean = total / max(weight, 1.0)
        return {
            "loss": mean,
            "masked_accuracy": right / max(weight, 1.0),
            "masked_perplexity": math.exp(min(mean, 700.0)),
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

"""Metrics of a language model."""

import math
from collections.abc import Sequence

import numpy as np

from gpt_keras.metrics.metrics import Metrics


class LanguageModelMetrics(Metrics):
    """Loss in nats per token, perplexity, bits per byte of text, and the loss of each source.

    Bits per byte do not depend on the tokenizer. All the model has to say counts, the end of a
    document too, over the bytes of the text. A sample is a row of tokens.

    Args:
      num_bytes: of the text that the evaluated tokens stand for; 0 if unknown.
      sources: names of those whose losses are told apart, by the batches' `source_id`.
    """

    def __init__(self, num_bytes: int = 0, sources: Sequence[str] = ()):
        super().__init__()
        self.num_bytes, self.sources = num_bytes, tuple(sources)

    def update(self, batch, loss) -> None:
        source_ids = batch["source_id"] if self.sources else np.zeros(len(batch["sample_id"]))
        self.collect(batch, [loss.rows, source_ids])

    @property
    def weight(self) -> float:
        """Tokens that the loss is the mean of."""
        return float(self.samples[:, 1].sum())

    def score(self, samples=None) -> dict[str, float]:
        chosen = self.samples if samples is None else self.samples[samples]
        rows, source_ids = chosen[:, :2], chosen[:, 2]
        total, weight = rows.sum(axis=0).tolist()
        mean = total / max(weight, 1.0)
        result = {"loss": mean, "perplexity": math.exp(min(mean, 700.0))}
        if self.num_bytes:
            result["bits_per_byte"] = mean / math.log(2) * (self.weight / self.num_bytes)
        for i, name in enumerate(self.sources):
            total, weight = rows[source_ids == i].sum(axis=0).tolist()
            if weight:
                result[f"loss_of/{name}"] = total / weight
        return result

    def details(self) -> dict:
        """`result`, and how many tokens it is the mean of."""
        return {**self.result(), "tokens": self.weight}

    def report(self) -> str:
        return f"{super().report()}\n{'tokens':>14}  {self.weight:,.0f}"

"""Metrics of numbers that are said of texts."""

import numpy as np

from gpt_keras.metrics.metrics import Metrics


class RegressionMetrics(Metrics):
    """Mean squared and mean absolute error, Pearson's and Spearman's correlation.

    A correlation is absent where all numbers of a side are equal.
    """

    KEY, HIGHER_IS_BETTER = "mse", False

    def update(self, batch, loss) -> None:
        self.collect(batch, [batch["score"], loss.outputs, loss.rows])

    def score(self, samples=None) -> dict[str, float]:
        chosen = self.samples if samples is None else self.samples[samples]
        true, said, total, weight = chosen[:, :4].T
        errors, n = said - true, max(len(chosen), 1)
        found = {
            "loss": float(total.sum() / max(weight.sum(), 1e-9)),
            "mse": float(np.sum(errors**2) / n),
            "mae": float(np.sum(np.abs(errors)) / n),
        }
        if len(set(true)) > 1 and len(set(said)) > 1:
            found["pearson"] = _correlation(true, said)
            found["spearman"] = _correlation(_mean_ranks(true), _mean_ranks(said))
        return found

    def details(self) -> dict:
        """`result`, and the error of always saying the mean."""
        return {**self.result(), "variance": float(np.var(self.samples[:, 0]))}

    def report(self) -> str:
        variance = self.details()["variance"]
        return f"{super().report()}\n{'variance':>14}  {variance:.4f} (mse of the mean)"


def _correlation(x, y) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def _mean_ranks(values):
    """(n,) places in order; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]

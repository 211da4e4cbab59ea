"""Metrics of cosines of pairs of texts."""

from gpt_keras.metrics.regression import RegressionMetrics


class SimilarityMetrics(RegressionMetrics):
    """Those of numbers, of the cosine of each pair; its two texts are a row each."""

    KEY, HIGHER_IS_BETTER = "spearman", True

    def update(self, batch, loss) -> None:
        batch = {name: batch[name][::2] for name in ("score", "sample_id")}
        super().update(batch, loss._replace(outputs=loss.outputs[::2], rows=loss.rows[::2]))

    def score(self, samples=None) -> dict[str, float]:
        found = super().score(samples)
        return {**found, "spearman": found.get("spearman", 0.0)}  # of cosines that are all equal

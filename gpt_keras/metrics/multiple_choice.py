"""Metrics of questions with choices."""

import numpy as np

from gpt_keras.metrics.metrics import Metrics


class MultipleChoiceMetrics(Metrics):
    """Loss and accuracy; beside them what guessing gives, and always the same place.

    A sample is a question.
    """

    KEY, HIGHER_IS_BETTER = "accuracy", True

    def update(self, batch, loss) -> None:
        g = batch["answer"].shape[1]
        scores = loss.outputs.reshape(-1, g)  # (G, g)
        real = (batch["weight"] > 0).reshape(-1, g)
        first = {"sample_id": batch["sample_id"][::g]}
        columns = [batch["answer"][::g].argmax(axis=1), scores.argmax(axis=1), real.sum(axis=1)]
        self.collect(first, [*columns, loss.rows.reshape(-1, g, 2).sum(axis=1)])

    def score(self, samples=None) -> dict[str, float]:
        chosen = self.samples if samples is None else self.samples[samples]
        total, weight = chosen[:, 3:5].sum(axis=0).tolist()
        return {
            "loss": total / max(weight, 1e-9),
            "accuracy": float(np.mean(chosen[:, 0] == chosen[:, 1])),
        }

    def details(self) -> dict:
        """`result`, the accuracy of guessing, and of always the most frequent place."""
        answers, _, choices = self.samples.T[:3]
        return {
            **self.result(),
            "questions": self.num_samples,
            "chance": float(np.mean(1 / choices)),
            "most_frequent_place": float(np.bincount(answers.astype(int)).max() / len(answers)),
        }

    def report(self) -> str:
        details = self.details()
        return (
            f"{super().report()}\n{'questions':>14}  {details['questions']:,}\n"
            f"guessing: accuracy {details['chance']:.3f}; always the most frequent place: "
            f"{details['most_frequent_place']:.3f}"
        )

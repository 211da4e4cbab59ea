"""Metrics of several tasks at once."""

from collections.abc import Mapping

import numpy as np

from gpt_keras.metrics.metrics import Metrics


class MultiTaskMetrics(Metrics):
    """The numbers of each task as NAME/NUMBER, and `score`: the mean of what each watches.

    What is better when it is lower counts with a minus.

    Args:
      tasks: name -> its metrics.
    """

    KEY, HIGHER_IS_BETTER = "score", True

    def __init__(self, tasks: Mapping[str, Metrics]):
        super().__init__()
        self.tasks = dict(tasks)

    def update(self, batch, loss) -> None:
        for name, metrics in self.tasks.items():
            if f"task/{name}" in batch:
                metrics.update(batch, loss)

    @property
    def num_samples(self) -> int:
        return sum(metrics.num_samples for metrics in self.tasks.values())

    def score(self, samples=None) -> dict[str, float]:
        """`samples` are counted through the tasks, the first of a task after the last before."""
        result, watched, begin = {}, [], 0
        for name, metrics in self.tasks.items():
            end = begin + metrics.num_samples
            picks = None
            if samples is not None:
                picks = np.asarray(samples)
                picks = picks[(picks >= begin) & (picks < end)] - begin
            found = metrics.score(picks)
            result |= {f"{name}/{number}": value for number, value in found.items()}
            sign = 1 if metrics.HIGHER_IS_BETTER else -1
            watched.append(sign * found[metrics.KEY])
            begin = end
        return {"score": float(np.mean(watched)), **result}

    def details(self) -> dict:
        tasks = {name: metrics.details() for name, metrics in self.tasks.items()}
        return {**self.result(), "tasks": tasks}

    def report(self) -> str:
        return "\n\n".join(f"{name}\n{metrics.report()}" for name, metrics in self.tasks.items())
